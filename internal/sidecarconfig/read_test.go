package sidecarconfig

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sidecar.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Every field can be set by its variable, and then is no longer what it is by default.
func TestEveryFieldHasAVariable(t *testing.T) {
	t.Parallel()
	values := map[string]string{"bool": "true", "*bool": "false", "*int": "7", "time.Duration": "7s", "string": "value"}
	for _, f := range fields {
		c, text := Default(), values[f.kind.String()]
		r := reader{Sources: Sources{Environ: []string{EnvName(f.name) + "=" + text}}, config: c, from: make(map[place]string)}
		r.readEnv()
		if len(r.problems) > 0 || reflect.DeepEqual(c, Default()) {
			t.Errorf("%s=%s: %q, %+v", EnvName(f.name), text, r.problems, c)
		}
	}
	if len(fields) != 24 {
		t.Errorf("%d fields; the test knew 24", len(fields))
	}
}

// What counts is in the name of a problem.
func TestAFlagCountsMoreThanTheEnvironmentAndThatMoreThanTheFile(t *testing.T) {
	t.Parallel()
	const file, env = "ops: file\nlinks:\n- instance: first\n", "SEALANE_SIDECAR_OPS=environment"
	flags := map[string]string{"ops": "flag"}
	for _, tc := range []struct {
		name string
		from Sources
		want string
	}{
		{"the file", Sources{File: write(t, file)}, `ops: "file": want HOST:PORT`},
		{"the environment", Sources{File: write(t, file), Environ: []string{env}}, `SEALANE_SIDECAR_OPS: "environment": want HOST:PORT`},
		{"a flag", Sources{File: write(t, file), Environ: []string{env}, Flags: flags}, `--ops: "flag": want HOST:PORT`},
		{"an empty variable", Sources{File: write(t, file), Environ: []string{"SEALANE_SIDECAR_OPS="}}, `ops: "file": want HOST:PORT`},
		{"nothing", Sources{}, "--instance: want the name of an instance"},
	} {
		_, err := Read(tc.from)
		if wrong, ok := errors.AsType[*Error](err); !ok || len(wrong.Problems) != 1 || !strings.HasPrefix(wrong.Problems[0], tc.want) {
			t.Errorf("%s: %v; want %q", tc.name, err, tc.want)
		}
	}
	c, err := Read(Sources{File: write(t, "drain: 5s\nlinks:\n- instance: first\n  warm: 0\n"), Environ: []string{"SEALANE_SIDECAR_DRAIN=6s"}, Flags: map[string]string{"listen": "127.0.0.1:7000"}})
	if err != nil || c.Drain.Seconds() != 6 || c.DrainTimeout.Seconds() != 30 || c.Links[0].Listen != "127.0.0.1:7000" || *c.Links[0].Warm != 0 || c.Links[0].Instance != "first" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestAllProblemsAreToldAtOnce(t *testing.T) {
	t.Parallel()
	file := write(t, `drain: soon
drian: 5s
metrics: everyone
links:
- instance: first
  warm: many
- instance: second
  verfiy_name: false
  auth: s3cret
`)
	_, err := Read(Sources{File: file, Environ: []string{"SEALANE_SIDECAR_ALLOW_QUIT=perhaps", "SEALANE_SIDECAR_CA=ca.pem"}})
	for _, want := range []string{
		"line 1: cannot unmarshal !!str `soon` into a duration, such as 20s",
		"line 2: field drian not found: is drain meant?",
		`metrics: "everyone": want token or anyone`,
		"line 6: cannot unmarshal !!str `many` into a number",
		"line 8: field verfiy_name not found: is verify_name meant?",
		"links[1].auth: want auto, none, file:PATH or env:NAME",
		`links[1].listen: "127.0.0.1:6379": another link listens there`,
		`SEALANE_SIDECAR_ALLOW_QUIT: "perhaps": want true or false`,
		"SEALANE_SIDECAR_CA: " + file + " has 2 links: set ca there",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), "s3cret") {
		t.Errorf("what may be a password is shown: %v", err)
	}
}

// Variables of others, and those that Kubernetes makes of a service's name, are none of ours. What may be a slip is told.
func TestWhichVariablesAreMistakes(t *testing.T) {
	for _, tc := range []struct{ name, variable, problem, meant string }{
		{name: "a slip", variable: "SEALANE_SIDECAR_LISTN=x", problem: "is SEALANE_SIDECAR_LISTEN meant?"},
		{name: "lower case", variable: "SEALANE_SIDECAR_drain=x", problem: "SEALANE_SIDECAR_drain: the sidecar has no such variable"},
		{name: "nothing like it", variable: "SEALANE_SIDECAR_COLOUR=x", problem: "SEALANE_SIDECAR_COLOUR: the sidecar has no such variable"},
		{name: "links is no variable", variable: "SEALANE_SIDECAR_LINKS=x", problem: "no such variable"},
		{name: "a service's host", variable: "SEALANE_SIDECAR_SERVICE_HOST=10.0.0.1"},
		{name: "a service's named port", variable: "SEALANE_SIDECAR_SERVICE_PORT_REDIS=6379"},
		{name: "a service's address", variable: "SEALANE_SIDECAR_PORT_6379_TCP_ADDR=10.0.0.1"},
		{name: "a service's port", variable: "SEALANE_SIDECAR_PORT=tcp://10.0.0.1:6379"},
		{name: "a port that somebody meant", variable: "SEALANE_SIDECAR_PORT=6380", problem: "no such variable"},
		{name: "another service", variable: "SEALANE_PORT=tcp://10.0.0.1:6379"},
		{name: "without SIDECAR", variable: "SEALANE_DRAIN=5s", meant: "SEALANE_SIDECAR_DRAIN"},
		{name: "a slip in the prefix", variable: "SEALANE_SIDECR_DRAIN=5s", meant: "SEALANE_SIDECAR_DRAIN"},
		{name: "the API's", variable: "SEALANE_API=http://127.0.0.1:1"},
		{name: "the API's token", variable: "SEALANE_TOKEN=x"},
		{name: "doctor's", variable: "SEALANE_AUTH=x"},
		{name: "the configuration's own", variable: "SEALANE_CERT=x"},
		{name: "anybody's", variable: "DRAIN=x"},
	} {
		s := Sources{Environ: []string{tc.variable}, Flags: map[string]string{"instance": "first"}}
		if tc.variable == "SEALANE_CERT=x" {
			s.File = write(t, "links:\n- cert: env:SEALANE_CERT\n")
			t.Setenv("SEALANE_CERT", "x")
		}
		c, err := Read(s)
		switch {
		case tc.problem != "":
			if err == nil || !strings.Contains(err.Error(), tc.problem) {
				t.Errorf("%s: %v; want %q", tc.name, err, tc.problem)
			}
		case err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.meant == "" && len(c.Strays) > 0 || tc.meant != "" && (len(c.Strays) != 1 || c.Strays[0].Meant != tc.meant):
			t.Errorf("%s: %q; want %q", tc.name, c.Strays, tc.meant)
		}
	}
}
