package gateway_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/gateway"
)

func TestSilentOfTheSourceWithTheMostGoFirst(t *testing.T) {
	t.Parallel()
	a := gateway.NewArrivalsForTest()
	a.Add("quiet", "10.0.0.2", "silent", epoch)
	for i := range 5 {
		a.Add(fmt.Sprint("queued ", i), "10.0.0.1", "queued", epoch.Add(time.Duration(i)))
	}
	for i := range 5 {
		a.Add(fmt.Sprint("silent ", i), "10.0.0.1", "silent", epoch.Add(time.Duration(10+i)))
	}
	a.Add("speaks", "10.0.0.1", "hello", epoch)
	// Whoever has an IPv6 network is one source, whatever address it takes.
	for i := range 6 {
		a.Add(fmt.Sprint("six ", i), fmt.Sprintf("2001:db8::%x", i+1), "silent", epoch.Add(time.Duration(20+i)))
	}
	a.Move("silent 4", "queued")
	a.Remove("silent 0")
	var got []string
	for range 10 {
		got = append(got, a.Shed("10.0.0.3", epoch))
	}
	// 10 of the first source and 6 of the network: they take turns once they have as many.
	want := []string{"silent 1", "silent 2", "silent 3", "speaks"}
	for i, name := range want {
		if got[i] != name {
			t.Fatalf("shed in the order %q; want %q first", got, want)
		}
	}
	rest := strings.Join(got[4:], ",")
	for _, name := range []string{"queued 0", "queued 1", "queued 2", "six 0", "six 1", "six 2"} {
		if !strings.Contains(rest, name) {
			t.Errorf("shed %q after that; want the three oldest of each", rest)
		}
	}
	if a.Len() != 7 {
		t.Errorf("%d are left; want 7", a.Len())
	}
}

func TestHandshakeGoesForAnotherSourceAtOnceAndForItsOwnLater(t *testing.T) {
	t.Parallel()
	a := gateway.NewArrivalsForTest()
	for i := range 4 {
		a.Add(fmt.Sprint("shakes ", i), "10.0.0.1", "handshake", epoch)
	}
	if got := a.Shed("10.0.0.1", epoch.Add(time.Second/2)); got != "" {
		t.Errorf("%q goes for a newcomer of the same source; want none", got)
	}
	if got := a.Shed("10.0.0.2", epoch.Add(time.Second/2)); got != "shakes 0" {
		t.Errorf("%q goes for one of another source; want the oldest", got)
	}
	if got := a.Shed("10.0.0.1", epoch.Add(2*time.Second)); got != "shakes 1" {
		t.Errorf("%q goes for one of the same source after two seconds; want the oldest", got)
	}
}

// Whatever happens, nobody is lost or comes twice, and nothing is left.
func TestArrivalsLoseNobody(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	a := gateway.NewArrivalsForTest()
	in := make(map[string]bool)
	some := func() string {
		for name := range in {
			return name
		}
		return ""
	}
	stages := []string{"silent", "hello", "queued", "handshake"}
	for i := range 20000 {
		switch n := rnd.IntN(10); {
		case n < 5 && i < 15000:
			name := fmt.Sprint(i)
			a.Add(name, fmt.Sprintf("10.0.0.%d", 1+rnd.IntN(20)), stages[rnd.IntN(4)], epoch)
			in[name] = true
		case len(in) == 0:
		case n < 7:
			a.Move(some(), stages[rnd.IntN(4)])
		case n < 8:
			name := some()
			a.Remove(name)
			a.Remove(name)
			a.Move(name, "queued")
			delete(in, name)
		default:
			name := a.Shed("10.1.0.1", epoch)
			if !in[name] {
				t.Fatalf("%q goes and is not there", name)
			}
			delete(in, name)
		}
		if a.Len() != len(in) {
			t.Fatalf("there are %d; want %d", a.Len(), len(in))
		}
	}
	for len(in) > 0 {
		delete(in, a.Shed("10.1.0.1", epoch))
	}
	if a.Len() != 0 || a.Left() != 0 {
		t.Errorf("%d and %d sources left", a.Len(), a.Left())
	}
}

// dialFrom connects from an address of this machine.
func (w *world) dialFrom(source string) *net.TCPConn {
	w.t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0))}
	c, err := d.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// getsIn tries again and again, as clients do, to be served within so long.
func (w *world) getsIn(source string, within time.Duration) error {
	var err error
	for deadline := time.Now().Add(within); time.Now().Before(deadline); {
		raw := w.dialFrom(source)
		_ = raw.SetDeadline(deadline)
		c := tls.Client(raw, w.trust())
		got := make([]byte, 7)
		if _, err = io.WriteString(c, "hello\r\n"); err == nil {
			_, err = io.ReadFull(c, got)
		}
		raw.Close()
		if err == nil {
			return nil
		}
	}
	return err
}

// A thousand connections from one address that say nothing, or not enough, keep nobody out: others not, and not who shares the
// address with them either, behind a NAT.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		says  func(hello []byte) []byte
		stage string
	}{
		"nothing":                {func([]byte) []byte { return nil }, "silent"},
		"a few bytes of a hello": {func(h []byte) []byte { return h[:6] }, "hello"},
		"a hello and no more":    {func(h []byte) []byte { return h }, "handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := limited(t, 20)
			const silent, many = "127.9.0.1", 1100
			says := c.says(clientHello(t, w.trust()))
			for range many {
				raw := w.dialFrom(silent)
				if len(says) > 0 {
					_, _ = raw.Write(says) // it may be closed already
				}
			}
			eventually(t, "all have come", func() bool {
				st := w.status()
				return st.Accepted >= many && st.Unserved.Stages[c.stage] > 900
			})
			for _, source := range []string{"127.9.0.2", silent, "127.9.0.3", silent} {
				// It takes some milliseconds, and up to a second for who shares the address with handshakes under way. The machine
				// may be busy; to be locked out would last for ten seconds, the time for a handshake, or for ever.
				const within = 5 * time.Second
				if err := w.getsIn(source, within); err != nil {
					t.Errorf("a client from %s is not served within %v: %v", source, within, err)
				}
			}
			st := w.status()
			if u := st.Unserved; u.Limit != 1024 || u.Source != silent || u.FromSource < 900 || !strings.Contains(st.Warning, silent) {
				t.Errorf("status says %+v, warning %q; want it to name %s", u, st.Warning, silent)
			}
			if st.Rejected == 0 || !strings.Contains(w.log.String(), silent) {
				t.Errorf("%d rejected %v; want some, and a line in the log", st.Rejected, st.RejectedBy)
			}
		})
	}
}

// wantClosed says whether the other side ends a connection without a word.
func wantClosed(t *testing.T, c net.Conn, want bool) {
	t.Helper()
	if !want {
		_ = c.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
	}
	n, err := c.Read(make([]byte, 1))
	switch {
	case want && (n != 0 || !errors.Is(err, io.EOF)):
		t.Errorf("read %d bytes, %v; want the connection closed", n, err)
	case !want && !errors.Is(err, os.ErrDeadlineExceeded):
		t.Errorf("read %d bytes, %v; want the connection left open", n, err)
	}
}

func TestSilentConnectionsEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tls    bool
		change func(*gateway.Snapshot)
		closed bool
	}{
		"by the deadline for the first byte":      {true, func(s *gateway.Snapshot) { s.FirstByteTimeout = 100 * time.Millisecond }, true},
		"by the timeout of the instance":          {true, func(s *gateway.Snapshot) { s.IdleTimeout = 100 * time.Millisecond }, true},
		"by the timeout without TLS":              {false, func(s *gateway.Snapshot) { s.IdleTimeout = 100 * time.Millisecond }, true},
		"not without TLS and timeout, as Redis's": {false, func(s *gateway.Snapshot) { s.FirstByteTimeout = 100 * time.Millisecond }, false},
		"not while neither is over":               {true, func(*gateway.Snapshot) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			fakeEngine(t, w.engine, echo)
			w.run()
			s := w.snapshot(1)
			s.Listeners[0].TLS = c.tls
			c.change(&s)
			w.apply(s)
			wantClosed(t, dialTCP(t, w.addr), c.closed)
			st := w.status()
			if c.closed && (st.TimedOut != 1 || !strings.Contains(w.log.String(), "it has sent nothing")) {
				t.Errorf("%d timed out; want 1, and a line in the log", st.TimedOut)
			}
			if !c.closed && st.Unserved.Stages["silent"] != 1 {
				t.Errorf("status says %+v; want 1 silent", st.Unserved)
			}
		})
	}
}
