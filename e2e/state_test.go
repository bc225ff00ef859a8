package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The server works on with a full disk: it restarts what dies, and it says what can't be stored.
func TestServeStartsOnAFullDisk(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{state: tmpfs(t, "8m")})
	first := s.create("first")
	ca := s.bundle("first")
	client := startStream(t, first, ca, "counter")
	s.signal(syscall.SIGTERM)
	free := fill(t, s.state)
	t.Cleanup(free)
	s.start()
	client.wantUnnoticed(t)
	got := s.cliFails(1, "instances", "create", "second")
	if !strings.Contains(got, "the disk is full") && !strings.Contains(got, "no space left on device") || !strings.Contains(got, "sealane: hint: ") {
		t.Errorf("create: got %q, want that the disk is full and what to do", got)
	}
	for _, kind := range []string{"gateway", "engine"} {
		pid := s.node(kind)
		s.kill9(pid)
		eventually(t, 20*time.Second, "another "+kind+" serves", func() bool {
			pids := s.nodes(kind)
			return len(pids) == 1 && pids[0] != pid && s.redisCLI(first, ca, "PING").stdout == "PONG\n"
		})
	}
}

func TestFilesThatOthersCanUseStopTheStart(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	i := s.create("first")
	ca := s.bundle("first")
	s.signal(syscall.SIGTERM)
	for _, name := range []string{"master.key", "admin.token", "state.db", "audit.log", "nodes", "."} {
		path := filepath.Join(s.state, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		was, open := info.Mode().Perm(), info.Mode().Perm()|0o044
		if err := os.Chmod(path, open); err != nil {
			t.Fatal(err)
		}
		s.wantStartError(fmt.Sprintf("%s has mode %04o", filepath.Clean(path), open), fmt.Sprintf("chmod %04o %s", was, filepath.Clean(path)))
		if err := os.Chmod(path, was); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() != 0 {
			t.Logf("%s of another owner is shown to root only", name)
			continue
		}
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Fatal(err)
		}
		s.wantStartError(filepath.Clean(path)+" belongs to user 12345", "chown 0 ")
		if err := os.Chown(path, 0, -1); err != nil {
			t.Fatal(err)
		}
	}
	s.wantPong(i, ca)
	s.start()
}

func TestConfiguredSecretsThatOthersCanReadStopTheStart(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverOptions{})
	key := filepath.Join(s.base, "key")
	s.write(key, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n")
	conf := localConfig()
	for _, c := range []struct{ lines, field string }{
		{"master_key_file: " + key + "\n", "master_key_file"}, {"tls: {certificate: " + key + ", key: " + key + "}\n", "tls.key"},
	} {
		s.write(s.conf, conf+c.lines)
		if err := os.Chmod(key, 0o644); err != nil {
			t.Fatal(err)
		}
		s.wantStartError(c.field+": "+key+" has mode 0644", "chmod 06")
	}
}

// The server refuses to start with a damaged file, and gateway and engine serve on.
func TestADamagedStateStopsTheStartAndNothingElse(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first", "--enable-auth")
	ca := s.bundle("first")
	s.signal(syscall.SIGTERM)
	path := filepath.Join(s.state, "state.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// bbolt leaves older copies of a record in the file, so the test damages each of them.
	const auth, page = `"AuthEnabled":true`, 4096
	if !strings.Contains(string(whole), auth) {
		t.Fatal("the record does not say whether AUTH is on")
	}
	pages := func(b []byte, change func(page []byte)) []byte {
		for at := 2 * page; at < len(b); at += page {
			change(b[at : at+page])
		}
		return b
	}
	damage := map[string]func([]byte) []byte{
		"a record that says something else": func(b []byte) []byte {
			return []byte(strings.ReplaceAll(string(b), auth, `"AuthEnabled":tr5e`))
		},
		"flipped bits of pages": func(b []byte) []byte { return pages(b, func(p []byte) { p[10] ^= 4 }) },
		"cut off":               func(b []byte) []byte { return b[:4*page] },
		"pages that were lost":  func(b []byte) []byte { return pages(b, func(p []byte) { clear(p) }) },
		"a meta page":           func(b []byte) []byte { b[page+40] ^= 1; return b },
	}
	for name, change := range damage {
		t.Log(name)
		s.write(path, string(change([]byte(string(whole)))))
		s.wantStartError("damaged", "put "+path+" back from a backup", "go on as they are")
		s.cliFails(1, "stop")
	}
	if got := s.redisCLI(first, ca, "PING"); !strings.Contains(got.stdout+got.stderr, "NOAUTH") {
		t.Errorf("PING: got %q, want that the instance serves on, with AUTH", got.stdout+got.stderr)
	}
	// Gateway and engine can be ended even without the records.
	if got := s.cli("stop", "--force"); got != "stopped\n" {
		t.Errorf("stop --force: got %q", got)
	}
	s.wantStopped()
	s.write(path, string(whole))
	s.start()
}
