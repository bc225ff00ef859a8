package e2e_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wire is a connection that speaks RESP and keeps every byte that it gets.
type wire struct {
	net.Conn
	unread []byte
	silent bool // an answer did not come, so the test does not wait for later ones
}

// wireTimeout is how long an answer may take. A test that waits for bytes that never come takes that long.
const wireTimeout = 10 * time.Second

// send writes and doesn't report errors, so that the answers of a server that closes are still read afterwards.
func (w *wire) send(b []byte) {
	w.SetWriteDeadline(time.Now().Add(wireTimeout))
	w.Write(b)
}

// fill reads more bytes. The error is nil only if there were some.
func (w *wire) fill() error {
	if w.silent {
		return os.ErrDeadlineExceeded
	}
	w.SetReadDeadline(time.Now().Add(wireTimeout))
	buf := make([]byte, 64<<10)
	n, err := w.Read(buf)
	w.unread = append(w.unread, buf[:n]...)
	if n > 0 {
		return nil
	}
	return err
}

func (w *wire) take(n int) []byte {
	b := w.unread[:n:n]
	w.unread = w.unread[n:]
	return b
}

// frames returns the next n frames. If fewer came, it returns those, followed by a word that says why.
func (w *wire) frames(n int) []byte {
	end := 0
	for n > 0 {
		size, ok := frameSize(w.unread[end:])
		if ok {
			end += size
			n--
			continue
		}
		if err := w.fill(); err != nil {
			return w.cutOff(err)
		}
	}
	return w.take(end)
}

// until returns everything up to the end of mark.
func (w *wire) until(mark string) []byte {
	from := 0
	for {
		if i := bytes.Index(w.unread[from:], []byte(mark)); i >= 0 {
			return w.take(from + i + len(mark))
		}
		from = max(0, len(w.unread)-len(mark))
		if err := w.fill(); err != nil {
			return w.cutOff(err)
		}
	}
}

// rest returns all bytes until the server closes.
func (w *wire) rest() []byte {
	for {
		if err := w.fill(); err != nil {
			return w.cutOff(err)
		}
	}
}

// cutOff makes the end of a connection part of what is compared. A reset counts as an ordinary end: a Unix socket gives one if the
// engine has not read all input, and TCP has other rules for it.
func (w *wire) cutOff(err error) []byte {
	why := "<closed>"
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.silent = true
		why = fmt.Sprintf("<nothing more within %v>", wireTimeout)
	}
	return append(w.take(len(w.unread)), why...)
}

// frameSize is the length of the first whole frame of RESP2 or RESP3 in b. Bytes that are not RESP are a frame up to the end of
// their line.
func frameSize(b []byte) (int, bool) {
	at, pending := 0, 1
	for pending > 0 {
		line := bytes.Index(b[at:], []byte("\r\n"))
		if line < 0 {
			return 0, false
		}
		head := string(b[at : at+line])
		at += line + 2
		pending--
		if head == "" || !strings.Contains("*~>%|$=!", head[:1]) {
			continue
		}
		n, err := strconv.Atoi(head[1:])
		if err != nil || n < 0 {
			continue // a null
		}
		switch head[0] {
		case '*', '~', '>':
			pending += n
		case '%':
			pending += 2 * n
		case '|': // an attribute comes before the reply to which it belongs
			pending += 2*n + 1
		default:
			at += n + 2
		}
		if at > len(b) {
			return 0, false
		}
	}
	return at, true
}

// command encodes a command as client libraries do.
func command(words ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	return b.Bytes()
}

// words splits a line at its spaces. "…" is one word, with Go's escapes.
func words(line string) []string {
	var all []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] != '"' {
			word, rest, _ := strings.Cut(line, " ")
			all, line = append(all, word), rest
			continue
		}
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			panic("in a table of commands: " + line)
		}
		word, _ := strconv.Unquote(quoted)
		all, line = append(all, word), line[len(quoted):]
	}
	return all
}

// dialTLS connects to an instance, with verification.
func dialTLS(i instance, config *tls.Config) (*wire, error) {
	d := &net.Dialer{Timeout: wireTimeout}
	c, err := tls.DialWithDialer(d, "tcp", i.address(), config)
	if err != nil {
		return nil, err
	}
	return &wire{Conn: c}, nil
}

func dialUnix(path string) (*wire, error) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return &wire{Conn: c}, nil
}

// verified is the TLS configuration of a client that trusts an instance's CA bundle and nothing else.
func verified(t *testing.T, i instance, ca string) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", ca)
	}
	return &tls.Config{RootCAs: roots, ServerName: i.Host, ClientSessionCache: tls.NewLRUClientSessionCache(8)}
}
