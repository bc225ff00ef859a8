package e2e_test

import (
	"strings"
	"testing"
	"time"
)

// The first minute of the README works: an encrypted Redis, its CA, and a client that verifies it.
func TestQuickstart(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first")
	if first.State != "READY" || first.TransitEncryptionMode != "SERVER_AUTHENTICATION" || first.Port != 6378 {
		t.Errorf("got %+v, want READY, SERVER_AUTHENTICATION, port 6378", first)
	}
	ca := s.bundle("first")
	s.wantPong(first, ca)

	t.Run("connect prints a line that works when pasted", func(t *testing.T) {
		line := pasteLine(s.cli("connect", "first"))
		sh := s.program("sh", "-c", line)
		if got := run(sh); got.stdout != "PONG\n" {
			t.Errorf("%s: got %q, %q, want PONG", line, got.stdout, got.stderr)
		}
	})
	t.Run("a client without TLS is told what is wrong and leaves at once", func(t *testing.T) {
		began := time.Now()
		got := run(s.program("redis-cli", "-h", first.Host, "-p", "6378", "PING"))
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("redis-cli takes %v", took)
		}
		want := "ERR this port wants TLS: redis-cli --tls --cacert ca.pem -h " + first.Host + " -p 6378 (ca.pem: sealane ca bundle first > ca.pem)\n"
		if strings.TrimSpace(got.stdout) != strings.TrimSpace(want) {
			t.Errorf("got %q, %q, want %q", got.stdout, got.stderr, want)
		}
	})
	t.Run("a browser is told too", func(t *testing.T) {
		got := run(s.program("curl", "--silent", "--noproxy", "*", "--include", "http://"+first.address()+"/"))
		if !strings.HasPrefix(got.stdout, "HTTP/1.1 400 Bad Request\r\n") || !strings.Contains(got.stdout, "this port wants TLS: redis-cli --tls ") {
			t.Errorf("got exit code %d, %q, want a 400 that says how to connect", got.code, got.stdout)
		}
	})
	for _, c := range []struct {
		version string
		served  bool
	}{{"-tls1_1", false}, {"-tls1_2", true}, {"-tls1_3", true}} {
		t.Run("openssl s_client "+c.version, func(t *testing.T) {
			// Security level 0 is needed because OpenSSL offers no TLS 1.1 at the higher ones.
			sc := s.program("openssl", "s_client", "-connect", first.address(), "-CAfile", ca, "-verify_return_error", "-verify_ip", first.Host,
				"-cipher", "DEFAULT@SECLEVEL=0", "-brief", c.version)
			sc.Stdin = strings.NewReader("")
			got := run(sc)
			switch {
			case c.served && (got.code != 0 || !strings.Contains(got.stdout+got.stderr, "Verification: OK")):
				t.Errorf("got exit code %d, %s%s, want a verified connection", got.code, got.stdout, got.stderr)
			case !c.served && (got.code == 0 || !strings.Contains(got.stderr, "alert protocol version")):
				t.Errorf("got exit code %d, %s%s, want the alert protocol_version", got.code, got.stdout, got.stderr)
			}
		})
	}
}

// pasteLine is the line with redis-cli in the output for the user.
func pasteLine(text string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "redis-cli ") {
			return strings.TrimSpace(line)
		}
	}
	return "echo there is no line that begins with redis-cli"
}

// As in the managed service, every instance is on port 6378 at an address of its own, with a CA of its own.
func TestTwoInstancesSideBySide(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	one, two := s.create("one"), s.create("two")
	if one.Host == two.Host || one.Port != 6378 || two.Port != 6378 {
		t.Fatalf("got %s and %s, want port 6378 of two addresses", one.address(), two.address())
	}
	caOne, caTwo := s.bundle("one"), s.bundle("two")
	s.wantPong(one, caOne)
	s.wantPong(two, caTwo)
	for _, c := range []struct {
		name string
		of   instance
		ca   string
	}{{"one", one, caTwo}, {"two", two, caOne}} {
		got := s.redisCLI(c.of, c.ca, "PING")
		if got.code == 0 || !strings.Contains(got.stderr, "certificate verify failed") {
			t.Errorf("%s with the other's CA: got exit code %d, %q, %q, want that it is refused", c.name, got.code, got.stdout, got.stderr)
		}
	}
	// A key that is written to one instance is not in the other.
	s.redisCLI(one, caOne, "SET", "where", "one")
	if got := s.redisCLI(two, caTwo, "EXISTS", "where"); got.stdout != "0\n" {
		t.Errorf("EXISTS in the other instance: got %q, want 0", got.stdout)
	}
}
