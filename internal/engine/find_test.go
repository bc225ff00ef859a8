package engine_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
)

const (
	redis7  = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0\n"
	valkey8 = "Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=2f8cc6bd3e5dcd1b\n"
)

func TestFindExplicit(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	redis, valkey := fake(t, dir, "my-redis", redis7), fake(t, dir, "my-valkey", valkey8)
	got, err := engine.Find(t.Context(), []string{valkey, redis})
	if err != nil {
		t.Fatal(err)
	}
	want := []engine.Binary{
		{Path: valkey, Kind: engine.Valkey, Version: engine.Version{Major: 8, Minor: 0, Patch: 1}},
		{Path: redis, Kind: engine.Redis, Version: engine.Version{Major: 7, Minor: 0, Patch: 15}},
	}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Each path that does not work is named, with what is wrong.
func TestFindExplicitErrors(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	good := fake(t, dir, "good", redis7)
	old := fake(t, dir, "old", strings.Replace(redis7, "7.0.15", "5.0.14", 1))
	other := fake(t, dir, "other", "KeyDB server v=6.3.4\n")
	missing := filepath.Join(dir, "missing")
	plain := good + ".out"
	_, err := engine.Find(t.Context(), []string{good, old, other, missing, plain})
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{old + ": version 5.0.14 is too old, 6.0.0", other + ": neither Redis nor Valkey",
		missing + ": ", "no such file", plain + ": ", "permission denied"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), good+": ") && !strings.Contains(plain, good) {
		t.Errorf("got %q, but %s is fine", err, good)
	}
}

func TestFindHangs(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	hang := fake(t, tempDir(t), "hang", "")
	if _, err := engine.Find(ctx, []string{hang}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
}

func TestFindInPath(t *testing.T) {
	dir := tempDir(t)
	t.Setenv("PATH", dir)
	_, err := engine.Find(t.Context(), nil)
	var missing *engine.NotFoundError
	if !errors.As(err, &missing) || missing.Hint == "" || len(missing.Rejected) != 0 {
		t.Fatalf("empty PATH: got %v, want a *NotFoundError with a hint", err)
	}
	fake(t, dir, "redis-server", strings.Replace(redis7, "7.0.15", "5.0.14", 1))
	if _, err := engine.Find(t.Context(), nil); !errors.As(err, &missing) || !strings.Contains(err.Error(), "5.0.14 is too old") {
		t.Errorf("old engine: got %v, want a *NotFoundError that says why", err)
	}
	fake(t, dir, "valkey-server", valkey8)
	got, err := engine.Find(t.Context(), nil)
	if err != nil || len(got) != 1 || got[0].Kind != engine.Valkey {
		t.Errorf("beside an old engine: got %+v, %v; want the good one", got, err)
	}
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, out string
		kind      engine.Kind
		version   engine.Version
	}{
		{"redis", redis7, engine.Redis, engine.Version{Major: 7, Minor: 0, Patch: 15}},
		{"valkey", valkey8, engine.Valkey, engine.Version{Major: 8, Minor: 0, Patch: 1}},
		{"valkey 7.2", "Server v=7.2.5 sha=0:0 malloc=libc bits=64 build=1\n", engine.Valkey, engine.Version{Major: 7, Minor: 2, Patch: 5}},
		{"warning in front", "warning: x\n" + redis7, engine.Redis, engine.Version{Major: 7, Minor: 0, Patch: 15}},
		{"release candidate", "Redis server v=8.0.0-rc1 sha=0:0\n", engine.Redis, engine.Version{Major: 8}},
		{"development", "Valkey server v=255.255.255 sha=0:1\n", engine.Valkey, engine.Version{Major: 255, Minor: 255, Patch: 255}},
	}
	for _, tt := range tests {
		kind, version, err := engine.ParseVersion(tt.out)
		if err != nil || kind != tt.kind || version != tt.version {
			t.Errorf("%s: got %v %v, %v; want %v %v", tt.name, kind, version, err, tt.kind, tt.version)
		}
	}
	for _, bad := range []string{"", "redis-cli 7.0.15", "KeyDB server v=6.3.4", "Redis server v=7.0"} {
		if _, _, err := engine.ParseVersion(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func TestInstallHint(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, release, want string }{
		{"debian", "ID=debian\n", "apt-get install redis-server"},
		{"ubuntu", "NAME=Ubuntu\nID=ubuntu\nID_LIKE=debian\n", "apt-get install redis-server"},
		{"mint", "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "apt-get install redis-server"},
		{"rocky", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "dnf install"},
		{"fedora", "ID=fedora\n", "dnf install"},
		{"alpine", "ID=alpine\n", "apk add redis"},
		{"arch", "ID=arch\n", "pacman -S valkey"},
		{"tumbleweed", "ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n", "zypper install redis"},
		{"unknown", "ID=plan9\n", "package manager"},
		{"no file", "", "package manager"},
	}
	for _, tt := range tests {
		if got := engine.InstallHint(tt.release); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
