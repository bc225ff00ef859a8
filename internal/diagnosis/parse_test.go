package diagnosis_test

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/sealane/sealane/internal/diagnosis"
)

// firstBytes are first bytes of servers and what they are.
var firstBytes = []struct{ in, want string }{
	{"", ""},
	{"\x16\x03\x03\x00\x7a\x02", "TLS"},
	{"\x15\x03\x03\x00\x02\x02\x28", "a TLS alert"},
	{"HTTP/1.1 400 Bad Request\r\n", "HTTP"},
	{"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00", "HTTP/2"},
	{"+PONG\r\n", "Redis"},
	{"-ERR unknown command\r\n", "Redis"},
	{"-DENIED Redis is running in protected mode", "Redis"},
	{"-ok", "something else"},
	{"$5\r\n", "something else"},
	{"SSH-2.0-OpenSSH_9.2\r\n", "something else"},
	{"220 mail.example ESMTP\r\n", "something else"},
	{"\x4a\x00\x00\x00\x0a8.0.36\x00", "something else"}, // MySQL
	{"\x16", "something else"},
}

func TestSniffTellsProtocolsApart(t *testing.T) {
	t.Parallel()
	for _, tc := range firstBytes {
		if got := string(diagnosis.Sniff([]byte(tc.in))); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.in, got, tc.want)
		}
	}
}

// FuzzSniff: what follows the first nine bytes changes nothing, and no bytes panic.
func FuzzSniff(f *testing.F) {
	for _, tc := range firstBytes {
		f.Add([]byte(tc.in))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := diagnosis.Sniff(b)
		if (got == diagnosis.Nothing) != (len(b) == 0) {
			t.Errorf("%q is %q", b, got)
		}
		if len(b) > 9 && diagnosis.Sniff(b[:9]) != got {
			t.Errorf("%q is %q, its start %q", b, got, diagnosis.Sniff(b[:9]))
		}
	})
}

func FuzzPrintable(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[2J\u202eevil\xff\r\n")
	f.Add(strings.Repeat("é", 500))
	f.Fuzz(func(t *testing.T, s string) {
		got := diagnosis.Printable(s)
		if !utf8.ValidString(got) || len(got) > 200 {
			t.Errorf("%q: %d bytes, valid %v", s, len(got), utf8.ValidString(got))
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q: %q is not printable", s, got[i:])
		}
	})
}

// FuzzIdentity: nothing of a certificate's identity needs quoting in a command.
func FuzzIdentity(f *testing.F) {
	f.Add("spiffe://sealane/local/local/first")
	f.Add("spiffe://sealane/example.com:web/europe-west1/cache")
	f.Add("spiffe://sealane/local/local/$(reboot)")
	f.Add("spiffe://sealane/local/local/x\n")
	f.Add("spiffe://sealane/local/local/--help")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		got := diagnosis.IdentityOf(&x509.Certificate{URIs: []*url.URL{u}})
		if got != "" && (got != u.String() || diagnosis.ShellWord(got) != got || strings.Contains(got, "/-")) {
			t.Errorf("%q: %q", s, got)
		}
	})
}
