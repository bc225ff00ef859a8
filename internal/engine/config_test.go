package engine_test

import (
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/engine"
)

// A value with quotes and line ends arrives as it is and opens no port.
func TestValuesCannotInject(t *testing.T) {
	t.Parallel()
	evil := "a\"\r\nport\t16397\n#\\'\x00\x7fé"
	cfg := config(t)
	cfg.Directives = map[string]string{"syslog-ident": evil}
	start(t, cfg)
	c := connect(t, cfg.Dir)
	want, _, _ := strings.Cut(evil, "\x00") // the engine's strings end at NUL
	if got := c.do("CONFIG", "GET", "syslog-ident"); len(got.Elems) != 2 || got.Elems[1].Str != want {
		t.Errorf("got %+v, want %q", got, want)
	}
	if got := c.do("CONFIG", "GET", "port"); len(got.Elems) != 2 || got.Elems[1].Str != "0" {
		t.Errorf("port: got %+v, want 0", got)
	}
}

func TestDirectives(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.KeepDump = true
	cfg.Directives = map[string]string{
		"save":                       "900 1 300 10",
		"maxmemory":                  "64mb",
		"notify-keyspace-events":     "",
		"client-output-buffer-limit": "normal 0 0 0 pubsub 1mb 1mb 30",
	}
	start(t, cfg)
	c := connect(t, cfg.Dir)
	for name, want := range map[string]string{"save": "900 1 300 10", "maxmemory": "67108864", "notify-keyspace-events": ""} {
		if got := c.do("CONFIG", "GET", name); len(got.Elems) != 2 || got.Elems[1].Str != want {
			t.Errorf("%s: got %+v, want %q", name, got, want)
		}
	}
	if got := c.do("CONFIG", "GET", "client-output-buffer-limit"); !strings.Contains(got.Elems[1].Str, "pubsub 1048576 1048576 30") {
		t.Errorf("client-output-buffer-limit: got %+v", got)
	}
}

// Without a directive nothing is saved but by Stop.
func TestNoSaveByDefault(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	start(t, cfg)
	if got := connect(t, cfg.Dir).do("CONFIG", "GET", "save"); len(got.Elems) != 2 || got.Elems[1].Str != "" {
		t.Errorf("got %+v, want none", got)
	}
}

// All problems of a configuration are reported together, and before anything is written.
func TestConfigErrors(t *testing.T) {
	t.Parallel()
	cfg := engine.Config{
		Dir:            "/x/" + strings.Repeat("x", 100),
		PasswordHashes: []string{strings.Repeat("F", 64)},
		Directives: map[string]string{"port": "6379", "tls-port": "1", "Save": "1 1", "x\nport": "1", "maxmemory": "1mb",
			"include": "/etc/passwd", "": ""},
	}
	_, err := engine.Start(t.Context(), engine.Binary{Path: "/bin/false"}, cfg)
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"0.0.0 is too old", "107", "password hash", "no admin password", "directive port:",
		"directive tls-port:", `"Save"`, `"x\nport"`, "directive include:", `directive ""`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to name %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "maxmemory") {
		t.Errorf("got %q, but maxmemory is fine", err)
	}
}

// What an engine does not know keeps it from starting, so the rules depend on its version.
func TestRulesByVersion(t *testing.T) {
	t.Parallel()
	tests := []struct {
		version            engine.Version
		channels, failover bool
	}{
		{engine.Version{Major: 6, Minor: 0, Patch: 16}, false, false},
		{engine.Version{Major: 6, Minor: 2}, true, true},
		{engine.Version{Major: 7, Minor: 0, Patch: 15}, true, true},
		{engine.Version{Major: 9}, true, true},
	}
	for _, tt := range tests {
		conf, err := engine.Render(engine.Binary{Version: tt.version}, engine.Config{Dir: "/x", AdminPassword: admin})
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(conf)) {
			rules := strings.Fields(line)
			if rules[0] != "user" {
				continue
			}
			for _, r := range rules {
				if strings.HasPrefix(r, "-") && strings.Contains(r, "|") {
					t.Errorf("%s: %s, but 6.0 cannot subtract a subcommand", tt.version, r)
				}
			}
			if got := strings.Contains(line, "&*"); got != tt.channels {
				t.Errorf("%s: channel rule in %q: got %v, want %v", tt.version, line, got, tt.channels)
			}
			if got := strings.Contains(line, "-failover"); got != (tt.failover && rules[1] == "default") {
				t.Errorf("%s: -failover in %q: got %v", tt.version, line, got)
			}
		}
	}
}
