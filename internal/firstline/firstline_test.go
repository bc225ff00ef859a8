package firstline_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/firstline"
)

// lines are first bytes and what they are.
var lines = []struct{ name, in, want string }{
	{"nothing yet", "", ""},
	{"RESP", "*1\r\n$4\r\nPING\r\n", "plaintext_resp"},
	{"RESP, one byte", "*", "plaintext_resp"},
	{"inline", "PING\r\n", "inline"},
	{"inline, bare newline", "PING\n", "inline"},
	{"inline, half", "PIN", ""},
	{"inline, only enter", "\r\n", "inline"},
	{"inline, UTF-8 key", "GET k\xc3\xa9\r\n", "inline"},
	{"inline GET of a key", "GET HTTP\r\n", "inline"},
	{"inline GET of a path", "GET /\r\n", "inline"},
	{"HTTP GET", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "http"},
	{"HTTP POST", "POST /x HTTP/1.0\r\n", "http"},
	{"HTTP HEAD", "HEAD / HTTP/1.1\r\n", "http"},
	{"HTTP, bare newline", "GET / HTTP/1.1\n", "http"},
	{"HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http"},
	{"HTTP, half", "GET / HTTP/1.1", ""},
	{"HTTP in the middle", "SET HTTP/1.1 x\r\n", "inline"},
	{"HTTP without a space", "xHTTP/1.1\r\n", "inline"},
	{"HTTP without a method", " HTTP/1.1\r\n", "inline"},
	{"HTTP of another form", "GET / HTTP/11\r\n", "inline"},
	{"lower-case junk", "get / http/1.1\r\n", "inline"},
	{"HTTP on the second line", "x\r\nGET / HTTP/1.1\r\n", "inline"},
	{"zero byte", "\x00", "garbage"},
	{"zero byte later", "GET \x00", "garbage"},
	{"SSLv2 hello", "\x80\x2e\x01\x00\x02", "sslv2"},
	{"SSLv2 hello of a client that knows TLS", "\x80\x2e\x01\x03\x01", "sslv2"},
	{"high first byte", "\xff\xfe", ""},
	{"high first bytes", "\xff\xfe\xfd", "garbage"},
	{"delete", "a\x7f", "garbage"},
	{"long line", strings.Repeat("a", 4096), "garbage"},
	{"longest line", strings.Repeat("a", 4095) + "\n", "inline"},
	{"almost too long", strings.Repeat("a", 4095), ""},
}

func TestFirstLineDecides(t *testing.T) {
	t.Parallel()
	for _, tc := range lines {
		if got := string(firstline.Of([]byte(tc.in))); got != tc.want {
			t.Errorf("%s: %.40q is %q; want %q", tc.name, tc.in, got, tc.want)
		}
	}
}

// A decision holds whatever follows, so it is the same however the bytes were cut; and there is one after 4 KiB.
func FuzzFirstLine(f *testing.F) {
	for _, tc := range lines {
		f.Add([]byte(tc.in))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whole, decided := string(firstline.Of(b)), ""
		for i := 0; i <= min(len(b), 4097) && decided == ""; i++ {
			decided = string(firstline.Of(b[:i]))
		}
		if decided != whole {
			t.Errorf("byte by byte %q, at once %q", decided, whole)
		}
		switch whole {
		case "":
			if len(b) >= 4096 {
				t.Errorf("undecided after %d bytes", len(b))
			}
		case "http":
			line, _, _ := bytes.Cut(b, []byte("\n"))
			if !bytes.Contains(line, []byte(" HTTP/")) {
				t.Errorf("%q is HTTP", line)
			}
		case "inline":
			if !bytes.Contains(b[:min(len(b), 4096)], []byte("\n")) {
				t.Errorf("inline without a line")
			}
		case "sslv2":
			if b[0] < 0x80 || b[2] != 1 {
				t.Errorf("%q is SSL 2.0", b)
			}
		case "plaintext_resp", "garbage":
		default:
			t.Errorf("unknown kind %q", whole)
		}
	})
}
