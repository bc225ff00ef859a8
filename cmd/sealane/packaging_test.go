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

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

const packaging = "../../packaging"

// knows tells whether a command line is one that the program would take: its flags exist, and what they say is right.
func knows(t *testing.T, args []string) {
	t.Helper()
	root := newRoot(stdio{strings.NewReader(""), io.Discard, io.Discard})
	c, rest, err := root.Find(args[1:])
	if err != nil || c == root {
		t.Errorf("%q: no such command: %v", args, err)
		return
	}
	if err := c.ParseFlags(rest); err != nil {
		t.Errorf("%q: %v", args, err)
		return
	}
	if c.Name() != "sidecar" || c.Flags().Changed("config") {
		return
	}
	var f sidecarFlags
	again := &cobra.Command{}
	f.add(again)
	if err := again.ParseFlags(rest); err != nil {
		t.Fatal(err)
	}
	if _, err := f.config(again); err != nil {
		t.Errorf("%q: %v", args, err)
	}
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
	type probe struct{ Exec struct{ Command []string } }
	var d struct {
		Kind string
		Spec struct {
			Template struct {
				Spec struct {
					TerminationGracePeriodSeconds int `yaml:"terminationGracePeriodSeconds"`
					InitContainers                []struct {
						RestartPolicy  string `yaml:"restartPolicy"`
						Command        []string
						StartupProbe   probe                   `yaml:"startupProbe"`
						ReadinessProbe probe                   `yaml:"readinessProbe"`
						VolumeMounts   []struct{ Name string } `yaml:"volumeMounts"`
					} `yaml:"initContainers"`
					Volumes []struct{ Name string }
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
	for _, command := range [][]string{c.Command, c.StartupProbe.Exec.Command, c.ReadinessProbe.Exec.Command} {
		if len(command) < 2 || command[0] != "sealane" {
			t.Errorf("command %q", command)
			continue
		}
		knows(t, command)
	}
	if pod.TerminationGracePeriodSeconds <= 30 {
		t.Errorf("the pod is killed after %d s, and the sidecar may take 30 to drain", pod.TerminationGracePeriodSeconds)
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
func endsInTime(t *testing.T, command []string, most time.Duration) {
	t.Helper()
	var f sidecarFlags
	c := &cobra.Command{}
	f.add(c)
	if err := c.ParseFlags(command[2:]); err != nil {
		t.Fatal(err)
	}
	if f.cfg.Drain == 0 || f.cfg.Drain+f.cfg.DrainTimeout >= most {
		t.Errorf("drain %s and drain_timeout %s, and it is killed after %s", f.cfg.Drain, f.cfg.DrainTimeout, most)
	}
}

func TestTheExampleForOlderKubernetesIsRight(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(packaging, "kubernetes", "sidecar-container.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	type probe struct{ Exec struct{ Command []string } }
	var d struct {
		Spec struct {
			Template struct {
				Spec struct {
					Grace          int `yaml:"terminationGracePeriodSeconds"`
					InitContainers []any
					Containers     []struct {
						Command        []string
						ReadinessProbe probe `yaml:"readinessProbe"`
						Lifecycle      struct {
							PostStart probe `yaml:"postStart"`
						}
						VolumeMounts []struct{ Name string } `yaml:"volumeMounts"`
					}
					Volumes []struct{ Name string }
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
	for _, command := range [][]string{c.Command, c.ReadinessProbe.Exec.Command, c.Lifecycle.PostStart.Exec.Command} {
		knows(t, command)
	}
	endsInTime(t, c.Command, time.Duration(pod.Grace)*time.Second)
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
	knows(t, c.Command)
	knows(t, c.Healthcheck.Test[1:])
	endsInTime(t, c.Command, c.Grace)
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

// The configuration in docs/sidecar.md is one that is taken.
func TestTheConfigurationInTheDocumentationIsRight(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/sidecar.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(raw), "\n## Configuration\n")
	_, text, _ = strings.Cut(text, "\n    ops:")
	text, _, _ = strings.Cut("    ops:"+text, "\n\n")
	var c sidecarConfig
	d := yaml.NewDecoder(strings.NewReader(strings.ReplaceAll("\n"+text, "\n    ", "\n")))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	if problems := c.check(); len(problems) > 0 || len(c.Links) != 2 {
		t.Errorf("%d links, %q", len(c.Links), problems)
	}
}
