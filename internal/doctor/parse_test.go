package doctor_test

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/sealane/sealane/internal/doctor"
)

// speeches are first bytes and what they are.
var speeches = []struct{ in, want string }{
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

func TestListenTellsProtocolsApart(t *testing.T) {
	t.Parallel()
	for _, tc := range speeches {
		if got := doctor.ListenForTest([]byte(tc.in)); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.in, got, tc.want)
		}
	}
}

// FuzzListen: what follows the first nine bytes changes nothing, and no bytes panic.
func FuzzListen(f *testing.F) {
	for _, tc := range speeches {
		f.Add([]byte(tc.in))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := doctor.ListenForTest(b)
		if (got == "") != (len(b) == 0) {
			t.Errorf("%q is %q", b, got)
		}
		if len(b) > 9 && doctor.ListenForTest(b[:9]) != got {
			t.Errorf("%q is %q, its start %q", b, got, doctor.ListenForTest(b[:9]))
		}
	})
}

func FuzzPrintable(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[2J\u202eevil\xff\r\n")
	f.Add(strings.Repeat("é", 500))
	f.Fuzz(func(t *testing.T, s string) {
		got := doctor.PrintableForTest(s)
		if !utf8.ValidString(got) || len(got) > 200 {
			t.Errorf("%q: %d bytes, valid %v", s, len(got), utf8.ValidString(got))
		}
		if i := strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%q: %q is not printable", s, got[i:])
		}
	})
}

// FuzzReplies: any bytes of a server, cut anywhere, give the same two replies or none.
func FuzzReplies(f *testing.F) {
	f.Add([]byte("+PONG\r\n*2\r\n$10\r\n1796126400\r\n$1\r\n0\r\n"), 9)
	f.Add([]byte("-NOAUTH Authentication required.\r\n-NOAUTH Authentication required.\r\n"), 40)
	f.Add([]byte("-ERR max number of clients reached\r\n"), 3)
	f.Add([]byte("*2\r\n$-1\r\n:99999999999999999\r\n"), 7)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		n, complete, isTime, err := doctor.RepliesForTest(b)
		if complete != (n == 2) || isTime && !complete || complete && err != nil {
			t.Errorf("%q: %d replies, complete %v, time %v, %v", b, n, complete, isTime, err)
		}
		if cut < 0 || cut >= len(b) {
			return
		}
		if early, done, _, earlyErr := doctor.RepliesForTest(b[:cut]); early > n || done && !complete || earlyErr != nil && err == nil {
			t.Errorf("%q: %d replies in the first %d bytes, %d in all; %v, %v", b, early, cut, n, earlyErr, err)
		}
	})
}

// FuzzReadCAs: a bundle is read as a whole or refused with a reason.
func FuzzReadCAs(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte{1}}))
	f.Add([]byte("garbage"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, fault := doctor.ReadCAsForTest(b)
		if (n > 0) == (fault != nil) {
			t.Errorf("%q: %d CAs, %v", b, n, fault)
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
		got := doctor.IdentityForTest(&x509.Certificate{URIs: []*url.URL{u}})
		if got != "" && (got != u.String() || doctor.ShellWord(got) != got || strings.Contains(got, "/-")) {
			t.Errorf("%q: %q", s, got)
		}
	})
}
