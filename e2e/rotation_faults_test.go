package e2e_test

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// served is the serial number of the certificate that a client which trusts the bundle is shown; "" when it gets none.
func (s *server) served(i instance) string {
	s.t.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 2 * time.Second}, "tcp", i.address(), &tls.Config{RootCAs: pool(s.cli("ca", "bundle", "first"))})
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

// wantRotatable fails the test unless all is well again: a rotation works, and what it made is served.
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

// A gateway that hangs goes on with what it has when it wakes, and gets what was decided meanwhile.
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
