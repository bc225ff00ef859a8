package sidecar_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// breakage is something that goes wrong, what is said of it, and how it ends.
type breakage struct {
	name        string
	code        string
	says        string // in the line, and in /readyz
	break_      func(*world)
	mend        func(*world)
	servesOn    bool // clients are served meanwhile, and /readyz says so with a note
	openStaysOn bool // connections that are open are not touched by it
}

var breakages = []breakage{
	{
		name: "wrong CA", code: "ca-unknown", says: `was signed by \"other CA\", which is not in the bundle of instance first`, openStaysOn: true,
		break_: func(w *world) { w.server.set(func(r *redis) { r.cert = newAuthority(w, "other CA").leaf(nil) }) },
		mend:   rightCertificate,
	},
	{
		name: "CA made anew", code: "ca-unknown", says: `but has another key than the one in the bundle of instance first: it was made anew`, openStaysOn: true,
		break_: func(w *world) { w.server.set(func(r *redis) { r.cert = newAuthority(w, "right CA").leaf(nil) }) },
		mend:   rightCertificate,
	},
	{
		name: "expired certificate", code: "expired", says: "expired on", openStaysOn: true,
		break_: certificate(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		mend:   rightCertificate,
	},
	{
		name: "clock behind", code: "not-yet-valid", says: "set this machine's clock", openStaysOn: true,
		break_: certificate(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }),
		mend:   rightCertificate,
	},
	{
		name: "another instance at the address", code: "wrong-server", says: `its certificate names \"spiffe://sealane/local/local/second\"`, openStaysOn: true,
		break_: certificate(func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "sealane", Path: "/local/local/second"}}
		}),
		mend: rightCertificate,
	},
	{
		name: "certificate for clients", code: "certificate-unfit", says: "can't be used", openStaysOn: true,
		break_: certificate(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }),
		mend:   rightCertificate,
	},
	{
		name: "server down", code: "refused", says: "the connection is refused",
		break_: func(w *world) { w.server.down() },
		mend:   func(w *world) { w.server.up() },
	},
	{
		name: "server without TLS", code: "plaintext", says: "has no TLS on this port",
		break_: func(w *world) { w.server.set(func(r *redis) { r.plain = true }) },
		mend:   func(w *world) { w.server.set(func(r *redis) { r.plain = false }) },
	},
	{
		name: "server that says nothing", code: "silent", says: "never says anything",
		break_: func(w *world) { w.server.set(func(r *redis) { r.silent = true }) },
		mend:   func(w *world) { w.server.set(func(r *redis) { r.silent = false }); w.server.cut() },
	},
	{
		name: "server that closes", code: "closed", says: "closes them at once",
		break_: func(w *world) { w.server.set(func(r *redis) { r.closes = true }) },
		mend:   func(w *world) { w.server.set(func(r *redis) { r.closes = false }) },
	},
	{
		name: "server that wants a certificate", code: "client-cert-required", says: "wants a certificate from its clients",
		break_: func(w *world) { w.server.set(func(r *redis) { r.wantsCert = true }) },
		mend:   func(w *world) { w.server.set(func(r *redis) { r.wantsCert = false }) },
	},
	{
		name: "API unreachable", code: "source", says: "the API is away", servesOn: true, openStaysOn: true,
		break_: func(w *world) { w.set(func(w *world) { w.fault = errors.New("the API is away") }) },
		mend:   func(w *world) { w.set(func(w *world) { w.fault = nil }) },
	},
	{
		name: "bundle replaced by garbage", code: "bundle", says: "the bundle of instance first can't be used: it holds no certificate in PEM", servesOn: true, openStaysOn: true,
		break_: func(w *world) { w.set(func(w *world) { w.source.Bundle = "garbage" }) },
		mend:   func(w *world) { w.set(func(w *world) { w.source.Bundle = w.ca.pem() }) },
	},
	{
		name: "bundle emptied", code: "bundle", says: "it is empty", servesOn: true, openStaysOn: true,
		break_: func(w *world) { w.set(func(w *world) { w.source.Bundle = " \n" }) },
		mend:   func(w *world) { w.set(func(w *world) { w.source.Bundle = w.ca.pem() }) },
	},
	{
		name: "bundle half written", code: "bundle", says: "is damaged or cut off", servesOn: true, openStaysOn: true,
		break_: func(w *world) { w.set(func(w *world) { w.source.Bundle = w.ca.pem() + w.ca.pem()[:200] }) },
		mend:   func(w *world) { w.set(func(w *world) { w.source.Bundle = w.ca.pem() }) },
	},
	{
		name: "no right to PING", code: "no-permission", says: "NOPERM User app has no permissions to run the 'ping' command", servesOn: true,
		break_: replies("PING", "-NOPERM User app has no permissions to run the 'ping' command\r\n"),
		mend:   replies("PING", ""),
	},
	{
		name: "snapshots that can't be written", code: "misconf", says: "MISCONF Redis is configured to save RDB snapshots", servesOn: true,
		break_: replies("PING", "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.\r\n"),
		mend:   replies("PING", ""),
	},
	{
		name: "password changed, and the API does not say it", code: "auth", says: "wants a password", openStaysOn: true,
		break_: func(w *world) { w.server.set(func(r *redis) { r.password = "new" }) },
		mend:   func(w *world) { w.set(func(w *world) { w.source.Password = "new" }) },
	},
}

// replies has the server answer a command otherwise, "" as it should, and look new: what was connected before would hide it.
func replies(command, reply string) func(*world) {
	return func(w *world) {
		w.server.set(func(r *redis) { r.says = map[string]string{command: reply} })
		w.server.cut()
		w.poke()
	}
}

func rightCertificate(w *world) { w.server.set(func(r *redis) { r.cert = w.ca.leaf(nil) }) }

func certificate(change func(*x509.Certificate)) func(*world) {
	return func(w *world) { w.server.set(func(r *redis) { r.cert = w.ca.leaf(change) }) }
}

// Each thing that goes wrong while clients are connected is said once, in words that name it, and heals by itself.
func TestEachFaultIsOneClearLineAndHeals(t *testing.T) {
	t.Parallel()
	for _, b := range breakages {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.ready()
			early := w.connect()
			early.works()
			b.break_(w)
			if !b.servesOn {
				w.server.cut() // what was connected before would hide it
			}
			if !b.servesOn {
				w.until("not ready", func() bool { w.poke(); return w.side.Ready() != nil })
				if err := w.side.Ready(); !strings.Contains(unquoted(err.Error()), unquoted(b.says)) || !strings.HasPrefix(err.Error(), "first: ") {
					t.Errorf("/readyz says %v", err)
				}
			} else {
				w.until("note", func() bool { return strings.Contains(strings.Join(w.side.Notes(), "\n"), b.says) })
				if err := w.side.Ready(); err != nil {
					t.Errorf("not ready although clients are served: %v", err)
				}
				w.connect().works()
			}
			w.until("logged", func() bool { return len(w.log.problems()) > 0 }) // which is after /readyz says it
			problems := w.log.problems()
			if len(problems) != 1 || !strings.Contains(problems[0], "code="+b.code+" ") || !strings.Contains(unquoted(problems[0]), unquoted(b.says)) || !strings.Contains(problems[0], "hint=") {
				t.Errorf("the log says %q; want one line with code=%s and %q", problems, b.code, b.says)
			}
			b.mend(w)
			w.until("well again", func() bool { return strings.Contains(w.log.String(), "well again") && w.side.Ready() == nil })
			w.connect().works()
			early.works()
			if n := len(w.log.problems()); n != 1 {
				t.Errorf("%d lines of problems: %s", n, w.log.String())
			}
		})
	}
}

// unquoted is s without quotes, and without the key ids of CAs, which are new in each run.
func unquoted(s string) string {
	return keyID.ReplaceAllString(strings.NewReplacer(`\`, "", `"`, "").Replace(s), "")
}

var keyID = regexp.MustCompile(` \(key [0-9a-f]{8}\)`)

// poke makes a connection to the server necessary.
func (w *world) poke() {
	c, err := net.Dial("tcp", w.side.Addresses()[0])
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { c.Close() })
	_, _ = c.Write([]byte("*1\r\n$5\r\nMULTI\r\n"))
}

func TestDNSThatIsGoneIsSaidAndHeals(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	w := newWorld(t, func(w *world) {
		_, port, _ := net.SplitHostPort(w.server.address)
		w.source.Address = "redis.internal:" + port
		w.source.Identity = ""
		w.cfg.Resolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			select {
			case <-gone:
				return nameServer(), nil
			default:
				return nil, errors.New("the name server is away")
			}
		}}
	})
	w.until("problem", func() bool { return len(w.log.problems()) == 1 })
	if p := w.log.problems(); !strings.Contains(p[0], "code=dns ") || !strings.Contains(p[0], "redis.internal") {
		t.Errorf("the log says %q", p)
	}
	close(gone)
	w.ready()
	w.connect().works()
}

// nameServer answers every question for an address with 127.0.0.1.
func nameServer() net.Conn {
	mine, theirs := net.Pipe()
	go func() {
		defer mine.Close()
		var size [2]byte
		for {
			if _, err := mine.Read(size[:]); err != nil { // net.Pipe is a stream: queries have their length before them
				return
			}
			q := make([]byte, int(size[0])<<8|int(size[1]))
			if _, err := mine.Read(q); err != nil {
				return
			}
			end := 12
			for q[end] != 0 {
				end += int(q[end]) + 1
			}
			end += 5
			a := append([]byte(nil), q[:end]...)
			a[2], a[3] = 0x85, 0x80
			clear(a[6:12])
			if q[end-3] == 1 {
				a[7] = 1
				a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1)
			}
			if _, err := mine.Write(append([]byte{byte(len(a) >> 8), byte(len(a))}, a...)); err != nil {
				return
			}
		}
	}()
	return theirs
}

// A client that waits for a server that comes back in time notices nothing; one that waits in vain is told why.
func TestAClientWaitsForAServerThatIsRestarted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.ready()
	early := w.connect()
	early.works()
	w.server.down()
	go func() {
		w.until("refused", func() bool { return w.side.Ready() != nil })
		w.server.up()
	}()
	early.works()
	w.ready()
}

func TestAClientThatWaitsInVainIsToldWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		w.cfg.Patience = time.Second
		w.server.set(func(r *redis) { r.cert = newAuthority(w, "other CA").leaf(nil) })
	})
	got := w.connect().ask("PING")
	if !strings.HasPrefix(got, "-ERR the sidecar can't reach the server: the certificate of 127.0.0.1:") || !strings.Contains(got, "other CA") {
		t.Errorf("the client is told %q", got)
	}
}

// The reason that a client reads is that of the moment, although a problem that changes is no reason to tell the loops anything.
func TestAClientIsToldTheReasonOfTheMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		w.cfg.Patience = time.Second
		w.server.down()
	})
	said := func(words string) func() bool {
		return func() bool { err := w.side.Ready(); return err != nil && strings.Contains(err.Error(), words) }
	}
	w.until("refused", said("the connection is refused"))
	if got := w.connect().ask("PING"); !strings.Contains(got, "the connection is refused") {
		t.Errorf("the client is told %q", got)
	}
	w.server.set(func(r *redis) { r.cert = newAuthority(w, "other CA").leaf(nil) })
	w.server.up()
	w.until("another CA", said("other CA"))
	if got := w.connect().ask("PING"); !strings.Contains(got, "other CA") {
		t.Errorf("the client is told %q", got)
	}
}

func TestVerificationCannotBeTricked(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		change func(*world)
		ok     bool
	}{
		{"the identity is enough, whatever the address", func(w *world) {
			w.server.set(func(r *redis) { r.cert = w.ca.leaf(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, nil }) })
		}, true},
		{"no identity: the address counts", func(w *world) { w.source.Identity = "" }, true},
		{"no identity, and the certificate is for another address", func(w *world) {
			w.source.Identity = ""
			w.server.set(func(r *redis) { r.cert = w.ca.leaf(func(c *x509.Certificate) { c.IPAddresses = nil }) })
		}, false},
		{"another name is said to be right", func(w *world) { w.source.Identity, w.source.Name = "", "redis.internal" }, true},
		{"another name that is not in it", func(w *world) { w.source.Identity, w.source.Name = "", "redis.external" }, false},
		{"any name, of the right CA", func(w *world) {
			w.source.AnyName = true
			w.server.set(func(r *redis) {
				r.cert = w.ca.leaf(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames, c.URIs = nil, nil, nil })
			})
		}, true},
		{"any name, of a wrong CA", func(w *world) {
			w.source.AnyName = true
			w.server.set(func(r *redis) { r.cert = newAuthority(w, "other CA").leaf(nil) })
		}, false},
		{"a CA that is called as the right one is", func(w *world) {
			w.server.set(func(r *redis) { r.cert = newAuthority(w, "right CA").leaf(nil) })
		}, false},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tc.change)
			w.until("outcome", func() bool { return w.side.Ready() == nil || len(w.log.problems()) > 0 })
			if got := w.side.Ready() == nil; got != tc.ok {
				t.Errorf("served: %v; want %v: %v", got, tc.ok, w.side.Ready())
			}
		})
	}
}
