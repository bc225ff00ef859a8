package audit_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/certtest"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 500, time.UTC)

// signed is an entry for a certificate of its own.
func signed(n int) audit.Entry {
	return audit.Entry{
		Time: start.Add(time.Duration(n) * time.Second), Action: audit.Sign, Instance: "projects/p/locations/l/instances/first",
		Reason: "the server certificate is 180 days old",
		Certificate: &audit.Certificate{
			Kind: audit.Leaf, IssuerGeneration: 1, Serial: fmt.Sprint(n), Subject: "CN=Sealane Redis Server",
			Names: []string{"localhost", "127.83.0.1"}, NotBefore: start, NotAfter: start.AddDate(0, 0, 270),
			SHA256Fingerprint: sha256.Sum256(fmt.Append(nil, "certificate ", n)),
		},
	}
}

// open opens the log in dir for the test's length.
func open(t testing.TB, dir string) *audit.Log {
	t.Helper()
	l, err := audit.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func appendAll(t testing.TB, l *audit.Log, entries ...audit.Entry) {
	t.Helper()
	for _, e := range entries {
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
}

// verified returns the entries of a log that is as it should be.
func verified(t testing.TB, dir string) []audit.Entry {
	t.Helper()
	var entries []audit.Entry
	s, err := audit.Verify(dir, func(e audit.Entry) { entries = append(entries, e) })
	if err != nil || s.Head.Seq != uint64(len(entries)) {
		t.Fatalf("verify: %+v of %d entries, %v", s, len(entries), err)
	}
	return entries
}

// made returns a folder with a log of n certificates.
func made(t testing.TB, n int) string {
	t.Helper()
	dir := t.TempDir()
	l := open(t, dir)
	for i := range n {
		appendAll(t, l, signed(i+1))
	}
	return dir
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEntriesComeBackAsTheyWereAppended(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir)
	want := []audit.Entry{
		{Time: start, Action: audit.Begin, Reason: "the state folder is new"},
		signed(1),
		{Time: start, Action: audit.Force, Instance: "first", Actor: "admin <a@example.com>", Reason: "\"quoted\", \n\x1b[31m and ünïcode \u2028"},
	}
	appendAll(t, l, want...)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir)
	appendAll(t, l, signed(2))
	want = append(want, signed(2))
	got := verified(t, dir)
	if len(got) != len(want) {
		t.Fatalf("%d entries; want %d", len(got), len(want))
	}
	var prev audit.Hash
	for i, e := range got {
		w := want[i]
		w.Seq, w.Prev, w.Hash, w.Time = uint64(i+1), prev, e.Hash, w.Time.Truncate(time.Second)
		if !reflect.DeepEqual(e, w) {
			t.Errorf("entry %d: got %+v; want %+v", i+1, e, w)
		}
		prev = e.Hash
	}
	if h := l.Head(); h.Hash != prev || h.Seq != 4 {
		t.Errorf("head %+v; want that of entry 4, %s", h, prev)
	}
	for _, path := range []string{audit.LogPath(dir), audit.HeadPath(dir)} {
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", path, info.Mode(), err)
		}
	}
}

// What the package doc promises: no program of ours is needed.
func TestAnybodyCanCheckTheHashesWithAShell(t *testing.T) {
	t.Parallel()
	dir := made(t, 3)
	out, err := exec.Command("sh", "-c", `while IFS= read -r line; do printf %s "${line%,\"hash\":*}" | sha256sum; done < "$0"`, audit.LogPath(dir)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for i, e := range verified(t, dir) {
		if got, _, _ := strings.Cut(lines[i], " "); got != e.Hash.String() {
			t.Errorf("sha256sum says %s for entry %d; want %s", got, i+1, e.Hash)
		}
	}
}

func TestDescribeSaysWhatIsInTheCertificate(t *testing.T) {
	t.Parallel()
	key := certtest.NewKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(12345),
		Subject: pkix.Name{CommonName: "Sealane Redis Server CA", ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{2, 5, 4, 46}, Value: "a-b-c"}}},
		NotBefore: start, NotAfter: start.AddDate(10, 0, 0),
		DNSNames: []string{"a.example"}, IPAddresses: []net.IP{net.IPv4(127, 83, 0, 1), net.IPv6loopback},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "sealane", Path: "/p/l/i"}},
	}
	der := certtest.Sign(t, template, template, key.Public(), key)
	got, err := audit.Describe(der, audit.Cross, 2, 1)
	want := &audit.Certificate{
		Kind: audit.Cross, Generation: 2, IssuerGeneration: 1, Serial: "12345",
		Subject:   "CN=Sealane Redis Server CA, dnQualifier=a-b-c",
		Names:     []string{"a.example", "127.83.0.1", "::1", "spiffe://sealane/p/l/i"},
		NotBefore: start.Truncate(time.Second), NotAfter: start.AddDate(10, 0, 0).Truncate(time.Second), SHA256Fingerprint: sha256.Sum256(der),
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if _, err := audit.Describe([]byte("x"), audit.Leaf, 0, 1); err == nil || !strings.Contains(err.Error(), "parse leaf certificate") {
		t.Errorf("no certificate: %v", err)
	}
}

func TestACertificateIsEnteredOnce(t *testing.T) {
	t.Parallel()
	dir := made(t, 3)
	l := open(t, dir) // the fingerprints of entries that are there already count
	again := signed(2)
	again.Reason = "found after a crash"
	appendAll(t, l, again, signed(4), signed(4), signed(1))
	if got := verified(t, dir); len(got) != 4 {
		t.Errorf("%d entries; want 4", len(got))
	}
	// What an operator does counts each time, also when it is about a certificate that is in the log.
	act := signed(1)
	act.Action = audit.Retire
	appendAll(t, l, act, act)
	if got := verified(t, dir); len(got) != 6 {
		t.Errorf("%d entries; want 6", len(got))
	}
}

func TestAppendRefusesWhatIsNoEntry(t *testing.T) {
	t.Parallel()
	dir := made(t, 1)
	l := open(t, dir)
	long := signed(2)
	long.Certificate.Names = []string{strings.Repeat("x", 1<<20)}
	for name, tt := range map[string]struct {
		entry audit.Entry
		want  string
	}{
		"no action":      {audit.Entry{Time: start}, "want both"},
		"no time":        {audit.Entry{Action: audit.Rotate}, "want both"},
		"no certificate": {audit.Entry{Time: start, Action: audit.Sign}, "a signature without its certificate"},
		"too long":       {long, "the certificate has too many names"},
		"year 10000":     {audit.Entry{Time: start.AddDate(8000, 0, 0), Action: audit.Rotate}, "year outside of range"},
	} {
		if err := l.Append(tt.entry); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
	}
	appendAll(t, l, signed(2))
	if got := verified(t, dir); len(got) != 2 {
		t.Errorf("%d entries; want 2", len(got))
	}
}

func TestVerifyWhileAnotherAppends(t *testing.T) {
	t.Parallel()
	dir := made(t, 1)
	l := open(t, dir)
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := range 200 {
			if err := l.Append(signed(2 + i)); err != nil {
				t.Error(err)
			}
		}
	})
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		before := l.Head().Seq
		s, err := audit.Verify(dir, func(audit.Entry) {})
		// The head may be one behind what Log.Head says, which is not yet acknowledged.
		if err != nil || s.Head.Seq+1 < before || s.Head.Seq > l.Head().Seq+1 {
			t.Fatalf("verify: %+v, %v; at least %d entries were there", s, err, before)
		}
	}
	wg.Wait()
	if got := verified(t, dir); len(got) != 201 {
		t.Errorf("%d entries; want 201", len(got))
	}
}

func TestManyMayAppendAtATime(t *testing.T) {
	t.Parallel()
	dir := made(t, 0)
	l := open(t, dir)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 10 {
				if err := l.Append(signed(g/2*10 + i)); err != nil { // each certificate twice
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := verified(t, dir); len(got) != 40 {
		t.Errorf("%d entries; want 40", len(got))
	}
}

func TestNoLogIsNoDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := audit.Verify(dir, func(audit.Entry) {}); !errors.Is(err, audit.ErrNone) {
		t.Errorf("empty folder: %v; want ErrNone", err)
	}
	write(t, audit.LogPath(dir), nil) // a crash of the first start
	if _, err := audit.Verify(dir, func(audit.Entry) {}); !errors.Is(err, audit.ErrNone) {
		t.Errorf("empty log without a head: %v; want ErrNone", err)
	}
	open(t, dir)
	if got := verified(t, dir); len(got) != 0 {
		t.Errorf("%d entries in a new log", len(got))
	}
	if _, err := audit.Open(dir+"/nowhere", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a log was opened in a folder that isn't there")
	}
}

func TestUnreadableFilesAreNoDamage(t *testing.T) {
	t.Parallel()
	for _, path := range []func(string) string{audit.LogPath, audit.HeadPath} {
		dir := made(t, 2)
		if err := os.Remove(path(dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(path(dir), 0o700); err != nil { // root may read all files
			t.Fatal(err)
		}
		var damage *audit.Damage
		_, err := audit.Verify(dir, func(audit.Entry) {})
		if !errors.Is(err, syscall.EISDIR) || errors.As(err, &damage) {
			t.Errorf("%s: %v; want that it is a folder", path(dir), err)
		}
	}
}

func TestHashText(t *testing.T) {
	t.Parallel()
	h := audit.Hash(sha256.Sum256(nil))
	for _, text := range []string{h.String(), strings.ToUpper(h.String())} {
		if got, err := audit.ParseHash(text); err != nil || got != h {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "x", h.String()[1:], h.String() + "0", strings.Repeat("g", 64)} {
		if _, err := audit.ParseHash(bad); err == nil || !strings.Contains(err.Error(), "64 hexadecimal digits") {
			t.Errorf("%q: %v; want what would be right", bad, err)
		}
	}
}

// FuzzParse: whatever is read as an entry has the hash of its bytes, and means the same when it is written again.
func FuzzParse(f *testing.F) {
	for n := range 2 {
		e := signed(n)
		line, err := e.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		// The fuzzer can't guess a hash: every line is also tried with one that fits.
		for _, line := range [][]byte{line, rehash(line)} {
			e, err := audit.Parse(line)
			if err != nil {
				continue
			}
			body, _, _ := cutLast(line, `,"hash":"`)
			if e.Hash != sha256.Sum256(body) || !bytes.HasSuffix(line, []byte("\n")) {
				t.Fatalf("%q was read with the hash %s", line, e.Hash)
			}
			again := e
			written, err := again.Encode()
			if err != nil {
				continue // a time that no JSON has
			}
			back, err := audit.Parse(written)
			if err != nil {
				t.Fatalf("%q was written as %q: %v", line, written, err)
			}
			back.Hash = e.Hash
			if a, b := asJSON(t, e), asJSON(t, back); !bytes.Equal(a, b) {
				t.Fatalf("%s was read back as %s", a, b)
			}
		}
	})
}

// rehash gives a line the hash that fits what is before it.
func rehash(line []byte) []byte {
	body, _, ok := cutLast(line, `,"hash":"`)
	if !ok {
		body = bytes.TrimSuffix(bytes.TrimSpace(line), []byte("}"))
	}
	return fmt.Appendf(nil, "%s,\"hash\":\"%x\"}\n", body, sha256.Sum256(body))
}

func cutLast(b []byte, sep string) (before, after []byte, ok bool) {
	at := bytes.LastIndex(b, []byte(sep))
	if at < 0 {
		return b, nil, false
	}
	return b[:at], b[at+len(sep):], true
}

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
