package doctor_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/doctor"
)

// sound are set-ups in which nothing is wrong, and what must be seen of them.
var sound = []struct {
	name string
	make func(b *bench) doctor.Config
	want []string // step, result and a part of the detail
}{
	{"a redis-server with a password", func(b *bench) doctor.Config {
		b.realTime()
		c := b.client(b.realRedis("--requirepass", password), b.ca.pem())
		c.Password = doctor.NewPassword(password, "from SEALANE_AUTH")
		return c
	}, []string{
		"protocol|ok|TLS 1.3, ", "verification|ok|an unrelated CA is refused, and so is a wrong name",
		"auth|ok|the password (from SEALANE_AUTH) is accepted", "ping|ok|PONG", "clock|ok|that of the engine", "latency|ok|resumed handshake",
	}},
	{"a Sealane port, by the API", func(b *bench) doctor.Config {
		b.realTime()
		c := b.instance(b.sealane(b.engine(), true, 0))
		c.Instance.Date, c.Instance.Here = b.now, b.now
		return c
	}, []string{"instance|ok|READY", "names|ok|" + first, "auth|ok|no password is needed", "clock|ok|that of the API server", "latency|ok|resumed handshake"}},
	{"a Sealane port without encryption, by the API", func(b *bench) doctor.Config {
		b.realTime()
		c := b.instance(b.sealane(b.engine(), false, 0))
		c.Instance.Encrypted = false
		return c
	}, []string{"trust|skipped|has no encryption", "chain|skipped|has no encryption", "verification|skipped|has no encryption", "ping|ok|PONG", "latency|ok|PING"}},
	{"TLS 1.2 and no sessions to resume", func(b *bench) doctor.Config {
		config := &tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}, MaxVersion: tls.VersionTLS12, SessionTicketsDisabled: true}
		return b.client(b.serveTLS(config, b.speakRedis), b.ca.pem())
	}, []string{"protocol|ok|TLS 1.2, TLS_ECDHE_ECDSA_", "latency|ok|no handshake is resumed"}},
	{"a server that asks for a client certificate and does without", func(b *bench) doctor.Config {
		config := &tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}, ClientAuth: tls.RequestClientCert}
		return b.client(b.serveTLS(config, b.speakRedis), b.ca.pem())
	}, []string{"protocol|ok|asks for a client certificate and takes none as well"}},
	{"redis-server that wants a client certificate, and gets one", func(b *bench) doctor.Config {
		b.realTime()
		c := b.client(b.realRedis("--tls-auth-clients", "yes"), b.ca.pem())
		c.ClientCertificate = b.clientCertificate(b.ca)
		return c
	}, []string{"protocol|ok|asks for a client certificate and takes this one", "ping|ok|PONG"}},
	{"an intermediate CA that is sent", func(b *bench) doctor.Config {
		issuing := b.ca.below("Issuing CA")
		return b.client(b.redis(issuing.leaf(nil, issuing)), b.ca.pem())
	}, []string{`chain|ok|leads to "Redis CA"`}},
	{"a client that trusts the old and the next CA, and a cross-certificate", func(b *bench) doctor.Config {
		next := b.authority("Redis CA 2")
		cert := next.leaf(identity(first), b.ca.cross(next, "Redis CA 2"))
		return b.client(b.redis(cert), append(b.ca.pem(), next.pem()...))
	}, []string{`chain|ok|leads to "Redis CA 2"`}},
	{"a client that trusts the CA that signs and the one that will", func(b *bench) doctor.Config {
		next := b.authority("Redis CA 2")
		server := b.rotating(b.ca.leaf(identity(first)), next.leaf(identity(first)), b.ca.cross(next, "Redis CA 2"))
		return b.client(server, append(b.ca.pem(), next.pem()...))
	}, []string{`rotation|ok|today's verifies; that of "Redis CA 2" (key `, "rotation|ok|with its cross-certificate, from its activation on, verifies", "rotation|ok|by itself, once the CA before is retired, verifies"}},
	{"an instance with one CA", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(identity(first))), b.ca.pem())
	}, []string{"rotation|ok|no other CA is published that is to sign"}},
	{"a server that is not Sealane's", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(nil)), b.ca.pem())
	}, []string{"rotation|skipped|none of Sealane's"}},
	{"a self-signed certificate that the client trusts", func(b *bench) doctor.Config {
		own := b.authority("cache", func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage, c.IPAddresses = false, x509.KeyUsageDigitalSignature, []net.IP{net.ParseIP(b.ip)}
		})
		return b.client(b.redis(tls.Certificate{Certificate: [][]byte{own.Cert.Raw}, PrivateKey: own.Key}), own.pem())
	}, []string{`chain|ok|leads to "cache"`}},
	{"a name with two addresses", func(b *bench) doctor.Config {
		return b.named("cache.internal", b.redis(b.ca.leaf(nil)), b.nameServer(0, b.ip, b.ip))
	}, []string{"name|ok|cache.internal is 127.", "port|ok|"}},
}

func TestNothingIsWrong(t *testing.T) {
	t.Parallel()
	for _, s := range sound {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			r := examine(b, s.make(b))
			check(t, r)
			if r.Result != doctor.OK {
				t.Errorf("got %s\n%s", r.Result, text(r))
			}
			for _, want := range s.want {
				w := strings.SplitN(want, "|", 3)
				if got := stepOf(r, w[0]); string(got.Result) != w[1] || !strings.Contains(got.Detail, w[2]) {
					t.Errorf("step %s: got %s, %q; want %s, %q", w[0], got.Result, got.Detail, w[1], w[2])
				}
			}
			if l := r.Latency; l == nil || l.Connect <= 0 || l.Ping <= 0 {
				t.Errorf("latency %+v", l)
			}
		})
	}
}

func stepOf(r doctor.Report, name string) doctor.Step {
	for _, s := range r.Steps {
		if s.Name == name {
			return s
		}
	}
	return doctor.Step{}
}

// A server may repeat the password in what it says, and send what a terminal obeys.
func TestReportHidesThePasswordAndControlCharacters(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	config := &tls.Config{Certificates: []tls.Certificate{b.ca.leaf(func(c *x509.Certificate) {
		c.DNSNames = append(c.DNSNames, "x\x1b]0;title\x07.internal")
	})}}
	c := b.client(b.serveTLS(config, func(c net.Conn) {
		b.speak(c, func(args []string) string {
			switch args[0] {
			case "AUTH":
				return "-ERR unknown command 'AUTH', with args beginning with: '" + args[1] + "' \x1b[2J\r\n"
			case "PING":
				return "-NOAUTH\r\n"
			}
			return "-ERR\r\n"
		})
	}), b.ca.pem())
	c.Password = doctor.NewPassword(password, "from SEALANE_AUTH")
	r := examine(b, c)
	check(t, r)
	if got := stepOf(r, "auth"); got.Result != doctor.Fail || !strings.Contains(got.Detail, "(the password)") || strings.Contains(got.Detail, "\x1b") {
		t.Errorf("auth: %+v", got)
	}
	c.Host, c.Resolver = "other.internal", b.nameServer(0, b.ip)
	r = examine(b, c)
	if r.Fault.Code != "name-mismatch" || strings.Contains(text(r), "\x1b") {
		t.Errorf("%q", text(r))
	}
}

// The password goes nowhere as long as anything about the certificate is wrong.
func TestPasswordIsNotSentToUnverifiedServers(t *testing.T) {
	t.Parallel()
	heard := make(chan string, 100)
	listening := func(b *bench, cert tls.Certificate, later ...tls.Certificate) string {
		var handshakes atomic.Int32
		config := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if handshakes.Add(1) > 1 && len(later) > 0 {
				return &later[0], nil
			}
			return &cert, nil
		}}
		return b.serveTLS(config, func(c net.Conn) {
			b.speak(c, func(args []string) string {
				heard <- strings.Join(args, " ")
				return "-NOAUTH\r\n"
			})
		})
	}
	b := newBench(t)
	configs := []doctor.Config{
		b.client(listening(b, b.authority("Another CA").leaf(nil)), b.ca.pem()),
		b.client(listening(b, b.ca.leaf(func(c *x509.Certificate) { c.IPAddresses = nil })), b.ca.pem()),
		b.client(listening(b, b.ca.leaf(func(c *x509.Certificate) { c.NotAfter = b.now.Add(-day) })), b.ca.pem()),
		b.instance(listening(b, b.ca.leaf(identity("spiffe://sealane/local/local/other")))),
		// What was looked at first is not what the password would be sent to.
		b.client(listening(b, b.ca.leaf(nil), b.authority("Another CA").leaf(nil)), b.ca.pem()),
		b.instance(listening(b, b.ca.leaf(identity(first)), b.ca.leaf(identity("spiffe://sealane/local/local/other")))),
	}
	for _, c := range configs {
		c.Password = doctor.NewPassword(password, "from SEALANE_AUTH")
		if r := examine(b, c); r.Result != doctor.Fail {
			t.Errorf("nothing is wrong\n%s", text(r))
		}
	}
	close(heard)
	n := 0
	for said := range heard {
		n++
		if strings.Contains(said, password) || strings.HasPrefix(said, "AUTH") {
			t.Errorf("was sent %q", said)
		}
	}
	if n == 0 {
		t.Error("nothing was heard at all")
	}
}

// A server that sends without an end, one byte at a time, or garbage keeps nobody waiting.
func TestEveryStepEndsInTime(t *testing.T) {
	t.Parallel()
	const timeout = 400 * time.Millisecond
	flood := func(c net.Conn) {
		for {
			if _, err := c.Write([]byte("$9999999\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxx")); err != nil {
				return
			}
		}
	}
	trickle := func(c net.Conn) {
		for range time.Tick(20 * time.Millisecond) {
			if _, err := c.Write([]byte("*")); err != nil {
				return
			}
		}
	}
	for name, handle := range map[string]func(net.Conn){"flood": flood, "trickle": trickle, "silence": hold} {
		for _, encrypted := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				addr := ""
				if encrypted {
					addr = b.serveTLS(&tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}}, handle)
				} else {
					addr = b.serve(handle)
				}
				c := b.client(addr, b.ca.pem())
				c.Timeout = timeout
				began := time.Now()
				r := examine(b, c)
				check(t, r)
				if r.Result != doctor.Fail {
					t.Errorf("nothing is wrong\n%s", text(r))
				}
				if took := time.Since(began); took > time.Duration(len(r.Steps))*timeout {
					t.Errorf("took %s\n%s", took, text(r))
				}
			})
		}
	}
}

// The steps after the login use one connection, and each has the whole of its time, however long those before it took.
func TestEachStepHasItsOwnTime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	slow := func(c net.Conn) {
		loggedIn := false
		b.speak(c, func(args []string) string {
			time.Sleep(700 * time.Millisecond)
			switch {
			case strings.EqualFold(args[0], "AUTH"):
				loggedIn = true
				return "+OK\r\n"
			case !loggedIn:
				return "-NOAUTH Authentication required.\r\n"
			}
			return "+PONG\r\n"
		})
	}
	c := b.client(b.serveTLS(&tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}}, slow), b.ca.pem())
	c.Timeout, c.Password = 2*time.Second, doctor.NewPassword(password, "from SEALANE_AUTH")
	r := examine(b, c)
	for _, step := range []string{"auth", "ping"} {
		if got := stepOf(r, step); got.Result != doctor.OK {
			t.Errorf("%s: %+v", step, got)
		}
	}
}

// No reply is kept that is longer than any that could be right.
func TestLongRepliesAreCutOff(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	long := "*60\r\n" + strings.Repeat("$60000\r\n"+strings.Repeat("x", 60000)+"\r\n", 60)
	r := examine(b, b.client(b.serveTLS(&tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}}, func(c net.Conn) {
		b.speak(c, func([]string) string { return long })
	}), b.ca.pem()))
	check(t, r)
	if got := stepOf(r, "ping"); r.Fault.Code != "not-redis" || !strings.HasPrefix(got.Detail, `"*60..`) {
		t.Errorf("%+v", got)
	}
}

func TestProofNeedsBothRefusals(t *testing.T) {
	t.Parallel()
	unknown, wrongHost := x509.UnknownAuthorityError{}, x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"}
	remote := &net.OpError{Op: "remote error", Err: tls.AlertError(112)}
	for _, tc := range []struct {
		name         string
		byCA, byName error
		want         doctor.Result
	}{
		{"both are refused", unknown, wrongHost, doctor.OK},
		{"the server refuses the name itself", unknown, remote, doctor.OK},
		{"a wrong CA is accepted", nil, wrongHost, doctor.Fail},
		{"a wrong name is accepted", unknown, nil, doctor.Fail},
		{"a connection that breaks proves nothing about the CA", io.EOF, wrongHost, doctor.Skipped},
		{"a connection that breaks proves nothing about the name", unknown, io.EOF, doctor.Skipped},
	} {
		if got, fault := doctor.ProofForTest(tc.byCA, tc.byName); got != tc.want || (fault != nil) != (tc.want == doctor.Fail) {
			t.Errorf("%s: got %s, %v; want %s", tc.name, got, fault, tc.want)
		}
	}
}
