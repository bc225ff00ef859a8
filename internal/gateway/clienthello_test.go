package gateway_test

import (
	"bytes"
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/gateway"
)

// clientHello is what a client of this configuration sends first.
func clientHello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	cfg = cfg.Clone()
	cfg.InsecureSkipVerify = true
	here, there := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); _ = tls.Client(here, cfg).Handshake() }()
	b := make([]byte, 16<<10)
	n, err := there.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	there.Close()
	<-done
	here.Close()
	return b[:n]
}

func TestClientHelloShowsVersionAndResumption(t *testing.T) {
	t.Parallel()
	w := serving(t)
	again := func(version uint16) *tls.Config {
		cfg := w.trust()
		cfg.MaxVersion, cfg.ClientSessionCache = version, tls.NewLRUClientSessionCache(1)
		c := tls.Client(dialTCP(t, w.addr), cfg)
		roundTrip(t, c, "hello")
		return cfg
	}
	for _, tc := range []struct {
		name    string
		cfg     *tls.Config
		version uint16
		resumes bool
	}{
		{"1.3", w.trust(), tls.VersionTLS13, false},
		{"1.3 again", again(tls.VersionTLS13), tls.VersionTLS13, true},
		{"1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, tls.VersionTLS12, false},
		{"1.2 again", again(tls.VersionTLS12), tls.VersionTLS12, true},
		{"1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, tls.VersionTLS11, false},
		{"1.0", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, tls.VersionTLS10, false},
	} {
		b := clientHello(t, tc.cfg)
		for n := range b {
			if _, _, complete := gateway.ClientHelloForTest(b[:n]); complete {
				t.Fatalf("%s: complete after %d of %d bytes", tc.name, n, len(b))
			}
		}
		for _, more := range []string{"", "and more"} {
			resumes, version, complete := gateway.ClientHelloForTest(append(bytes.Clone(b), more...))
			if !complete || resumes != tc.resumes || version != tc.version {
				t.Errorf("%s: complete %v, resumes %v, version %x; want %v, %x", tc.name, complete, resumes, version, tc.resumes, tc.version)
			}
		}
	}
}

// A server name that ends in a dot is told from one that doesn't.
func TestClientHelloShowsATrailingDot(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"redis.example.com": false, "": false} {
		if got := gateway.TrailingDotForTest(clientHello(t, &tls.Config{ServerName: name})); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
	hello := clientHello(t, &tls.Config{ServerName: "redis.example.com"})
	if !gateway.TrailingDotForTest(bytes.Replace(hello, []byte("redis.example.com"), []byte("redis.example.co."), 1)) {
		t.Error("a dot at the end is not seen")
	}
}

// A ClientHello of TLS 1.2 need not have extensions; what an old client of some appliance sends is understood all the same.
func TestClientHelloWithoutExtensions(t *testing.T) {
	t.Parallel()
	hello := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\x00\x02\xc0\x2f" + "\x01\x00"
	message := "\x01\x00\x00" + string(rune(len(hello))) + hello
	record := "\x16\x03\x01\x00" + string(rune(len(message))) + message
	if resumes, version, complete := gateway.ClientHelloForTest([]byte(record)); !complete || resumes || version != tls.VersionTLS12 {
		t.Errorf("complete %v, resumes %v, version %x; want a complete one of TLS 1.2", complete, resumes, version)
	}
}

// What is no ClientHello, or a long one, is for crypto/tls to judge: waiting for more of it would be for nothing.
func TestClientHelloIsNotWaitedForInVain(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"no TLS":       "PING\r\n",
		"one byte":     "P",
		"16 KiB":       "\x16\x03\x01\x40\x00",
		"empty record": "\x16\x03\x01\x00\x00",
		"server hello": "\x16\x03\x01\x00\x04\x02\x00\x00\x00",
		"cut inside":   "\x16\x03\x01\x00\x08\x01\x00\x00\x40\x03\x03ab",
	} {
		if resumes, version, complete := gateway.ClientHelloForTest([]byte(in)); !complete || resumes || version != 0 {
			t.Errorf("%s: complete %v, resumes %v, version %x; want nothing but complete", name, complete, resumes, version)
		}
	}
	for name, in := range map[string]string{"nothing": "", "type": "\x16", "header": "\x16\x03\x01\x02\x00", "half": "\x16\x03\x01\x02\x00" + strings.Repeat("a", 511)} {
		if _, _, complete := gateway.ClientHelloForTest([]byte(in)); complete {
			t.Errorf("%s: complete", name)
		}
	}
}

func FuzzClientHello(f *testing.F) {
	f.Add(clientHello(f, &tls.Config{ServerName: "x"}))
	f.Add(clientHello(f, &tls.Config{MaxVersion: tls.VersionTLS12, ServerName: "x"}))
	f.Add([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"))
	f.Fuzz(func(t *testing.T, b []byte) {
		resumes, version, complete := gateway.ClientHelloForTest(b)
		if !complete && (resumes || version != 0 || len(b) >= 4<<10) {
			t.Errorf("incomplete at %d bytes, and says %v, %x", len(b), resumes, version)
		}
		// A decision does not depend on what follows.
		if r, v, c := gateway.ClientHelloForTest(append(bytes.Clone(b), 0x16, 3, 1)); complete && (r != resumes || v != version || !c) {
			t.Errorf("with more: %v, %x, %v; before %v, %x", r, v, c, resumes, version)
		}
	})
}

// What the gateway spends on each ClientHello before crypto/tls sees it. There must be no allocation.
func BenchmarkClientHello(b *testing.B) {
	hello := clientHello(b, &tls.Config{ServerName: "redis.example.com"})
	b.ReportAllocs()
	b.SetBytes(int64(len(hello)))
	for b.Loop() {
		if _, version, complete := gateway.ClientHelloForTest(hello); !complete || version != tls.VersionTLS13 {
			b.Fatal("not understood")
		}
	}
}
