package e2e_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// served is the serial number of the certificate that a client gets that trusts the bundle; "" if it gets none.
func (s *server) served(i instance) string {
	s.t.Helper()
	return shown(i, s.cli("ca", "bundle", "first"))
}

// shown is the same for a client that already has the bundle, so no server is needed.
func shown(i instance, bundle string) string {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 2 * time.Second}, "tcp", i.address(), &tls.Config{RootCAs: pool(bundle)})
	if err != nil {
		return ""
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// certificates is what `sealane certificates show` says.
func (s *server) certificates() (leaf, problem string) {
	s.t.Helper()
	var out struct {
		Leaf    struct{ SerialNumber string }
		Problem string
	}
	text := s.cli("certificates", "show", "first", "--format", "json")
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		s.t.Fatalf("%v in %s", err, text)
	}
	return out.Leaf.SerialNumber, out.Problem
}

// wantRotatable fails the test unless everything works again: a rotation succeeds, and the new certificate is served.
func (s *server) wantRotatable(i instance) {
	s.t.Helper()
	s.cli("certificates", "rotate", "first")
	leaf, problem := s.certificates()
	if now := s.served(i); now != leaf || problem != "" {
		s.t.Errorf("served %s, recorded %s, problem %q", now, leaf, problem)
	}
	eventually(s.t, 30*time.Second, "the metrics say that all is well", func() bool {
		return s.metric("sealane_certificate_served_is_intended") == 1 && s.metric("sealane_certificate_rotation_ok") == 1
	})
}

// wantOverdue waits until a change is due that can't be made. It fails the test unless the metrics show that, the instance and its
// certificates say why, and the old certificate is served meanwhile.
func (s *server) wantOverdue(i instance, old, why string) {
	s.t.Helper()
	eventually(s.t, 90*time.Second, "the metric says that something due is not done", func() bool {
		return s.metric("sealane_certificate_rotation_ok") == 0
	})
	if got := s.metric("sealane_certificate_served_is_intended"); got != 1 {
		s.t.Errorf("served is intended: got %v, want 1", got)
	}
	if got := s.describe("first"); got.State != "REPAIRING" || !strings.Contains(got.StatusMessage, why) {
		s.t.Errorf("the instance is %s, %q; want REPAIRING, and %q", got.State, got.StatusMessage, why)
	}
	leaf, problem := s.certificates()
	if leaf != old || !strings.Contains(problem, why) {
		s.t.Errorf("recorded %s, problem %q; want %s, and %q", leaf, problem, old, why)
	}
	if now := s.served(i); now != old {
		s.t.Errorf("served %q, want %q still", now, old)
	}
}

// wantReplaced waits until a new certificate is recorded and served, and nothing is wrong.
func (s *server) wantReplaced(i instance, old string) {
	s.t.Helper()
	eventually(s.t, 60*time.Second, "what was due is done and served", func() bool {
		leaf, problem := s.certificates()
		return leaf != old && problem == "" && s.served(i) == leaf && s.describe("first").State == "READY"
	})
	s.wantRotatable(i)
}

func TestRotationOnAFullDiskKeepsTheOldCertificate(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{state: tmpfs(t, "8m")})
	i := s.create("first")
	client := startStream(t, i, s.bundle("first"), "counter")
	before := s.served(i)
	free := fill(t, s.state)
	t.Cleanup(free)
	for _, args := range [][]string{{"certificates", "rotate", "first"}, {"ca", "rotate", "first"}} {
		if got := s.cliFails(1, args...); !strings.Contains(got, "the disk is full") || !strings.Contains(got, "sealane: hint: ") {
			t.Errorf("%v: got %q, want that the disk is full, and what to do", args, got)
		}
		if now := s.served(i); now != before {
			t.Errorf("%v: served %q, want %q still", args, now, before)
		}
	}
	free()
	s.wantRotatable(i)
	client.wantUnnoticed(t)
}

// A gateway that hangs goes on with the certificate that it has when it wakes. Then it gets the one that was made meanwhile.
func TestRotationWhileTheGatewayHangs(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	i := s.create("first")
	gateway := s.node("gateway")
	if err := syscall.Kill(gateway, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(gateway, syscall.SIGCONT) })
	if got := s.cliFails(1, "certificates", "rotate", "first"); !strings.Contains(got, "recorded, but not served yet") {
		t.Errorf("rotate: got %q", got)
	}
	eventually(t, 30*time.Second, "status and metric say that the certificate is not served", func() bool {
		_, problem := s.certificates()
		return strings.Contains(problem, "gateway") && s.metric("sealane_certificate_served_is_intended") == 0
	})
	if err := syscall.Kill(gateway, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, "what was recorded is served", func() bool {
		leaf, problem := s.certificates()
		return problem == "" && s.served(i) == leaf
	})
	s.wantRotatable(i)
}

func TestRotationWhileTheGatewayDies(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	i := s.create("first")
	for range 5 {
		rotated := make(chan result, 1)
		rotation := s.command("certificates", "rotate", "first")
		go func() { rotated <- run(rotation) }()
		s.kill9(s.node("gateway"))
		if got := <-rotated; got.code != 0 && !strings.Contains(got.stderr, "recorded, but not served yet") {
			t.Errorf("rotate: got %d, %q", got.code, got.stderr)
		}
		eventually(t, 60*time.Second, "what was recorded is served", func() bool {
			leaf, problem := s.certificates()
			return problem == "" && s.served(i) == leaf
		})
	}
	s.wantRotatable(i)
}

// A change that falls due while the disk is full is made once there is space. Until then even a gateway that dies comes back with
// the old certificate.
func TestRotationThatFallsDueOnAFullDisk(t *testing.T) {
	t.Parallel()
	// A server certificate is due after 44 s, and valid for 22 s more.
	s := startServer(t, serverOptions{state: tmpfs(t, "8m"), config: localConfig() + "ca_lifetime: 15m\n"})
	i := s.create("first")
	before := s.served(i)
	free := fill(t, s.state)
	t.Cleanup(free)
	s.wantOverdue(i, before, "the disk is full: free space")
	s.kill9(s.node("gateway"))
	eventually(t, 15*time.Second, "another gateway serves the old certificate", func() bool { return s.served(i) == before })
	free()
	s.wantReplaced(i, before)
}

// However little space is left, a rotation is done, or not done, and the caller is told which. With a cross-certificate the gateway's
// snapshot takes more space than the record before it. The gateway has room of its own for that.
func TestRotationsOnADiskThatIsAlmostFull(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{state: tmpfs(t, "8m")})
	i := s.create("first")
	s.cli("ca", "rotate", "first")
	s.cli("ca", "activate", "first", "--force")
	client := startStream(t, i, s.bundle("first"), "counter")
	outcomes := make(map[string]bool)
	for _, kib := range []int{0, 4, 8, 12, 16} {
		free := fill(t, s.state)
		t.Cleanup(free)
		leave(t, s.state, kib)
		before := s.served(i)
		got := run(s.command("certificates", "rotate", "first"))
		leaf, problem := s.certificates()
		outcome, want := "done", leaf
		switch {
		case got.code != 0 && strings.Contains(got.stderr, "the disk is full: free space"):
			outcome, want = "not done", before
		case got.code != 0:
			t.Errorf("%d KiB free: got %d, %q, problem %q", kib, got.code, got.stderr, problem)
		}
		outcomes[outcome] = true
		if now := s.served(i); now != want || (leaf != before) != (outcome != "not done") {
			t.Errorf("%d KiB free, %s: served %q, recorded %s, before %s", kib, outcome, now, leaf, before)
		}
		free()
		eventually(t, 60*time.Second, "what was recorded is served", func() bool {
			leaf, problem := s.certificates()
			return problem == "" && s.served(i) == leaf
		})
	}
	if len(outcomes) != 2 {
		t.Errorf("only seen: %v", outcomes)
	}
	s.wantRotatable(i)
	s.cli("audit", "verify")
	client.wantUnnoticed(t)
}

// leave frees space on a disk that fill has filled, up to the given size.
func leave(t *testing.T, dir string, kib int) {
	t.Helper()
	filler := filepath.Join(dir, "filler")
	info, err := os.Stat(filler)
	if err == nil {
		err = os.Truncate(filler, info.Size()-int64(kib)<<10)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// namedServer is a server whose instance has a DNS name in its certificate. From the next start on the configuration has no such
// name, so a new certificate is due then.
func namedServer(t *testing.T) (s *server, i instance, rename func()) {
	t.Helper()
	network := newPool()
	config := func(names string) string {
		return "http: 127.0.0.1:0\ngrpc: 127.0.0.1:0\nops: 127.0.0.1:0\naddresses: {pool: " + network + names + "}\n"
	}
	s = startServer(t, serverOptions{config: config(", dns_names: ['{instance}.example']")})
	return s, s.create("first"), func() { s.write(s.conf, config("")) }
}

var sealedKey = regexp.MustCompile(`("Generation":1,"Created":"[^"]*","Certificate":"[^"]*","SealedKey":")([^"]*)"`)

// breakCAKey makes the key of CA-1 unreadable in the records of a server that is not running.
func (s *server) breakCAKey() (mend func()) {
	s.t.Helper()
	file := filepath.Join(s.state, "state.db")
	change := func(change func([]byte) []byte) {
		s.t.Helper()
		db, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, change(db), 0o600)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	var good, bad []byte
	change(func(db []byte) []byte {
		found := sealedKey.FindAllSubmatch(db, -1) // older pages have a copy as well
		if found == nil {
			s.t.Fatal("no key of CA-1 in the records")
		}
		good = bytes.Clone(found[0][2])
		bad = bytes.Clone(good)
		slices.Reverse(bad[:8]) // the result is still base64
		return bytes.ReplaceAll(db, good, bad)
	})
	return func() {
		s.t.Helper()
		change(func(db []byte) []byte { return bytes.ReplaceAll(db, bad, good) })
	}
}

// A CA key that was damaged on disk stops the start of the server. What is due waits, and gateway and engine serve on. With the right
// key it is done.
func TestRotationWithAnUnreadableCAKey(t *testing.T) {
	t.Parallel()
	s, i, rename := namedServer(t)
	client := startStream(t, i, s.bundle("first"), "counter")
	bundle := s.cli("ca", "bundle", "first")
	before := s.served(i)
	s.signal(syscall.SIGTERM)
	mend := s.breakCAKey()
	rename()
	s.wantStartError("instances/first\": damaged: it is not what was written")
	if now := shown(i, bundle); now != before {
		t.Errorf("with a damaged key: served %q, want %q still", now, before)
	}
	mend()
	s.start()
	s.wantReplaced(i, before)
	client.wantUnnoticed(t)
}

// A server with another master key, or none, does not start, and gateway and engine serve on. With the right one it does what is
// due.
func TestRotationAfterTheWrongMasterKey(t *testing.T) {
	t.Parallel()
	s, i, rename := namedServer(t)
	client := startStream(t, i, s.bundle("first"), "counter")
	bundle := s.cli("ca", "bundle", "first")
	before := shown(i, bundle)
	s.signal(syscall.SIGTERM)
	rename()
	key := filepath.Join(s.state, "master.key")
	right, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	s.write(key, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n")
	s.wantStartError("another master key")
	if now := shown(i, bundle); now != before {
		t.Errorf("with another master key: served %q, want %q still", now, before)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	s.wantStartError(key + " is gone")
	if now := shown(i, bundle); now != before {
		t.Errorf("without a master key: served %q, want %q still", now, before)
	}
	s.write(key, string(right))
	s.start()
	s.wantReplaced(i, before)
	client.wantUnnoticed(t)
}
