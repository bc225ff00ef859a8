package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sealane/sealane/internal/sidecarconfig"
)

const packaging = "../../packaging"

// knows tells whether a command line is one that the program would take, with this environment: its flags exist, and what they say is
// right. Of a sidecar it returns the configuration.
func knows(t *testing.T, args []string, environ ...string) *sidecarconfig.Config {
	t.Helper()
	root := newRoot(stdio{strings.NewReader(""), io.Discard, io.Discard})
	c, rest, err := root.Find(args[1:])
	if err != nil || c == root {
		t.Errorf("%q: no such command: %v", args, err)
		return nil
	}
	if err := c.ParseFlags(rest); err != nil {
		t.Errorf("%q: %v", args, err)
		return nil
	}
	if c.Name() != "sidecar" || c.Flags().Changed("config") {
		return nil
	}
	cfg, err := new(sidecarFlags).read(c, environ)
	if err != nil {
		t.Errorf("%q with %q: %v", args, environ, err)
		return nil
	}
	if len(cfg.Strays) > 0 {
		t.Errorf("%q with %q: %q", args, environ, cfg.Strays)
	}
	return cfg
}

// container is what Kubernetes is told of one.
type container struct {
	RestartPolicy  string `yaml:"restartPolicy"`
	Command        []string
	Env            []struct{ Name, Value string }
	StartupProbe   probe `yaml:"startupProbe"`
	ReadinessProbe probe `yaml:"readinessProbe"`
	Lifecycle      struct {
		PostStart probe `yaml:"postStart"`
	}
	VolumeMounts []struct{ Name string } `yaml:"volumeMounts"`
}

type probe struct{ Exec struct{ Command []string } }

func (c container) environ() []string {
	var all []string
	for _, e := range c.Env {
		all = append(all, e.Name+"="+e.Value)
	}
	return all
}

func TestTheUnitForSystemdIsRight(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(packaging, "systemd", "sealane-sidecar.service"))
	if err != nil {
		t.Fatal(err)
	}
	started := false
	for line := range strings.Lines(string(raw)) {
		if command, ok := strings.CutPrefix(line, "ExecStart="); ok {
			started = true
			knows(t, strings.Fields(command))
		}
	}
	if !started {
		t.Error("no ExecStart")
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "sealane-sidecar.service")
	if err := os.WriteFile(unit, bytes.ReplaceAll(raw, []byte("/usr/local/bin/sealane"), []byte(self)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput()
	if err != nil || strings.Contains(string(out), "sealane-sidecar.service:") {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}
}

func TestTheExampleForKubernetesIsRight(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(packaging, "kubernetes", "sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Kind string
		Spec struct {
			Template struct {
				Spec struct {
					TerminationGracePeriodSeconds int         `yaml:"terminationGracePeriodSeconds"`
					InitContainers                []container `yaml:"initContainers"`
					Volumes                       []struct{ Name string }
				}
			}
		}
	}
	if err := yaml.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	pod := d.Spec.Template.Spec
	if d.Kind != "Deployment" || len(pod.InitContainers) != 1 || pod.InitContainers[0].RestartPolicy != "Always" {
		t.Fatalf("no native sidecar: %+v", d)
	}
	c := pod.InitContainers[0]
	for _, command := range [][]string{c.StartupProbe.Exec.Command, c.ReadinessProbe.Exec.Command} {
		if len(command) < 2 || command[0] != "sealane" {
			t.Errorf("command %q", command)
			continue
		}
		knows(t, command)
	}
	cfg := knows(t, c.Command, c.environ()...)
	if cfg == nil || cfg.DrainTimeout != 30*time.Second || pod.TerminationGracePeriodSeconds <= 30 {
		t.Errorf("the pod is killed after %d s, and the sidecar may take 30 to drain: %+v", pod.TerminationGracePeriodSeconds, cfg)
	}
	for _, m := range c.VolumeMounts {
		found := false
		for _, v := range pod.Volumes {
			found = found || v.Name == m.Name
		}
		if !found {
			t.Errorf("no volume %s", m.Name)
		}
	}
}

// What a sidecar may take to end is over before it is killed.
func endsInTime(t *testing.T, cfg *sidecarconfig.Config, most time.Duration) {
	t.Helper()
	if cfg == nil || cfg.Drain == 0 || cfg.Drain+cfg.DrainTimeout >= most {
		t.Errorf("it is killed after %s: %+v", most, cfg)
	}
}

func TestTheExampleForOlderKubernetesIsRight(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(packaging, "kubernetes", "sidecar-container.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Spec struct {
			Template struct {
				Spec struct {
					Grace          int   `yaml:"terminationGracePeriodSeconds"`
					InitContainers []any `yaml:"initContainers"`
					Containers     []container
					Volumes        []struct{ Name string }
				}
			}
		}
	}
	if err := yaml.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	pod := d.Spec.Template.Spec
	if len(pod.Containers) != 2 || len(pod.InitContainers) > 0 || len(pod.Volumes) != len(pod.Containers[0].VolumeMounts) {
		t.Fatalf("%+v", pod)
	}
	c := pod.Containers[0]
	for _, command := range [][]string{c.ReadinessProbe.Exec.Command, c.Lifecycle.PostStart.Exec.Command} {
		knows(t, command)
	}
	endsInTime(t, knows(t, c.Command, c.environ()...), time.Duration(pod.Grace)*time.Second)
}

func TestTheExampleForComposeIsRight(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(packaging, "compose", "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Services map[string]struct {
			Command     []string
			Environment map[string]string
			Grace       time.Duration `yaml:"stop_grace_period"`
			Healthcheck struct{ Test []string }
			Configs     []struct{ Source string }
			Secrets     []string
		}
		Configs, Secrets map[string]struct{ File string }
	}
	if err := yaml.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	c := d.Services["redis"]
	var environ []string
	for name, value := range c.Environment {
		environ = append(environ, name+"="+value)
	}
	knows(t, c.Healthcheck.Test[1:])
	endsInTime(t, knows(t, c.Command, environ...), c.Grace)
	for _, s := range c.Secrets {
		if d.Secrets[s].File == "" {
			t.Errorf("no secret %s", s)
		}
	}
	for _, f := range c.Configs {
		if d.Configs[f.Source].File == "" {
			t.Errorf("no config %s", f.Source)
		}
	}
}
