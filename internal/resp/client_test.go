package resp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// script is a server that says the same whatever it is asked, in pieces of these lengths, and closes.
type script struct {
	says []byte
	cuts []byte
	sent strings.Builder
	read int // bytes of it that were read
}

func (s *script) Write(b []byte) (int, error) { return s.sent.Write(b) }
func (s *script) SetDeadline(time.Time) error { return nil }
func (s *script) Read(b []byte) (int, error) {
	if s.read == len(s.says) {
		return 0, io.EOF
	}
	n := min(len(b), len(s.says)-s.read)
	if len(s.cuts) > 0 {
		n = min(n, max(1, int(s.cuts[0])))
		s.cuts = append(s.cuts[1:], s.cuts[0])
	}
	copy(b, s.says[s.read:s.read+n])
	s.read += n
	return n, nil
}

func TestClientReadsReplies(t *testing.T) {
	t.Parallel()
	text := func(s string) resp.Value { return resp.Value{Kind: resp.Simple, Str: s} }
	for _, tc := range []struct {
		name, says string
		want       []resp.Value
		err        string
	}{
		{"one for each command", "+OK\r\n+PONG\r\n", []resp.Value{text("OK"), text("PONG")}, "<nil>"},
		{"more than was asked for", "+OK\r\n+PONG\r\n+PONG\r\n", []resp.Value{text("OK"), text("PONG")}, "<nil>"},
		{"a push between them", "+OK\r\n>1\r\n$14\r\nsealane-goaway\r\n+PONG\r\n", []resp.Value{text("OK"), text("PONG")}, "<nil>"},
		{"an error first", "-NOAUTH no\r\n+PONG\r\n", []resp.Value{{Kind: resp.Error, Str: "NOAUTH no"}}, "NOAUTH no"},
		{"an error last", "+OK\r\n-BUSY yes\r\n", []resp.Value{text("OK"), {Kind: resp.Error, Str: "BUSY yes"}}, "BUSY yes"},
		{"an error and the end", "-ERR max number of clients reached\r\n", []resp.Value{{Kind: resp.Error, Str: "ERR max number of clients reached"}},
			"ERR max number of clients reached"},
		{"nothing", "", nil, "read reply: EOF"},
		{"half of one", "+OK\r\n+PO", []resp.Value{text("OK")}, "read reply: EOF"},
		{"HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n", nil, "read reply: protocol error at byte 0: unknown kind 'H'"},
		{"a string that is too long", "$101\r\n", nil, "read reply: protocol error at byte 1: length 101 is over the limit of 100"},
		{"too many elements", "*65\r\n", nil, "read reply: protocol error at byte 1: length 65 is over the limit of 64"},
		{"too deep", strings.Repeat("*1\r\n", 9), nil, "read reply: protocol error at byte 32: nested deeper than 8"},
		{"a line without an end", "+" + strings.Repeat("x", 200), nil, "read reply: protocol error at byte 100: no end within 100 bytes"},
		{"short values without an end", "*60\r\n" + strings.Repeat(":1\r\n", 59), nil, "read reply: protocol error at byte 100: no end within 100 bytes"},
	} {
		for _, cuts := range [][]byte{nil, {1}, {7, 2}} {
			s := &script{says: []byte(tc.says), cuts: slices.Clone(cuts)}
			got, err := resp.NewClient(s, 100).Pipeline(t.Context(), []string{"AUTH", "x"}, []string{"PING"})
			if !reflect.DeepEqual(got, tc.want) || fmt.Sprint(err) != tc.err {
				t.Errorf("%s, cut %v: %+v, %v; want %+v, %s", tc.name, cuts, got, err, tc.want, tc.err)
			}
			if want := "*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n*1\r\n$4\r\nPING\r\n"; s.sent.String() != want {
				t.Errorf("%s: sent %q; want %q", tc.name, s.sent.String(), want)
			}
		}
	}
}

// What is no reply is there to be shown.
func TestClientKeepsWhatIsNoReply(t *testing.T) {
	t.Parallel()
	for _, says := range []string{"SSH-2.0-OpenSSH_9.2\r\n", "+PO", ""} {
		_, err := resp.NewClient(&script{says: []byte(says)}, 100).Do(t.Context(), "PING")
		failed, ok := errors.AsType[*resp.ReadError](err)
		if !ok || string(failed.Received) != says {
			t.Errorf("%q: %+v", says, err)
		}
	}
}

func TestClientGoesOnAfterAnErrorReply(t *testing.T) {
	t.Parallel()
	c := resp.NewClient(&script{says: []byte("-WRONGPASS no\r\n+PONG\r\n")}, 100)
	v, err := c.Do(t.Context(), "AUTH", "x")
	reply, ok := errors.AsType[resp.ReplyError](err)
	if !ok || reply.Code() != "WRONGPASS" || v.Str != "WRONGPASS no" {
		t.Errorf("AUTH: %+v, %v", v, err)
	}
	if v, err := c.Do(t.Context(), "PING"); err != nil || v.Str != "PONG" {
		t.Errorf("PING: %+v, %v", v, err)
	}
}

// After these the next bytes are not the next reply.
func TestClientIsOfNoMoreUse(t *testing.T) {
	t.Parallel()
	for _, says := range []string{"-NOAUTH no\r\n-NOAUTH no\r\n+PONG\r\n", "+OK\r\nx\r\n+PONG\r\n", "+OK\r\n"} {
		c := resp.NewClient(&script{says: []byte(says)}, 100)
		if _, err := c.Pipeline(t.Context(), []string{"AUTH", "x"}, []string{"PING"}); err == nil {
			t.Errorf("%q: no error", says)
		}
		if v, err := c.Do(t.Context(), "PING"); err == nil || errors.As(err, new(resp.ReplyError)) {
			t.Errorf("%q: another reply is %+v, %v", says, v, err)
		}
	}
}

func TestClientWaitsAsLongAsItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		here, far := net.Pipe()
		defer far.Close()
		defer here.Close()
		go io.Copy(io.Discard, far)
		c := resp.NewClient(here, 100)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		if _, err := c.Do(ctx, "PING"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if _, err := c.Do(t.Context(), "PING"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("and then: %v", err)
		}
		why := errors.New("stopped")
		over, end := context.WithCancelCause(t.Context())
		end(why)
		if _, err := resp.NewClient(here, 100).Do(over, "PING"); !errors.Is(err, why) {
			t.Errorf("a context that is over: %v", err)
		}
	})
}

// Whoever has made the connection may have given it a deadline for that.
func TestClientLiftsAnEarlierDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		here, far := net.Pipe()
		defer far.Close()
		defer here.Close()
		here.SetDeadline(time.Now().Add(time.Second))
		go func() {
			far.Read(make([]byte, 100))
			time.Sleep(2 * time.Second)
			io.WriteString(far, "+PONG\r\n")
		}()
		if v, err := resp.NewClient(here, 100).Do(t.Context(), "PING"); err != nil || v.Str != "PONG" {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// A server without room answers before it is asked, and closes.
func TestClientHearsWhoDoesNotListen(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, says := range []string{"-ERR max number of clients reached\r\n", ""} {
		conn, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(far, says)
		far.Close()
		_, err = resp.NewClient(conn, 100).Do(t.Context(), "PING")
		if says != "" && fmt.Sprint(err) != "ERR max number of clients reached" {
			t.Errorf("got %v", err)
		}
		if says == "" && (!errors.Is(err, io.EOF) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("who says nothing: %v", err)
		}
		conn.Close()
	}
}

// FuzzClient: whatever a server says and however it is cut, the Client returns the replies that ParseReply finds, takes no more
// memory than it may, and ends.
func FuzzClient(f *testing.F) {
	for _, s := range []string{"+OK\r\n+PONG\r\n", "-ERR x\r\n", ">1\r\n+x\r\n+OK\r\n", "$3\r\nabc\r\n*2\r\n:1\r\n_\r\n", "x", "$-1\r\n*-1\r\n", "|1\r\n+a\r\n+b\r\n+c\r\n"} {
		f.Add([]byte(s), []byte{3, 1})
	}
	f.Fuzz(func(t *testing.T, b, cuts []byte) {
		const most = 256
		s := &script{says: b, cuts: slices.Clone(cuts)}
		got, err := resp.NewClient(s, most).Pipeline(t.Context(), []string{"A"}, []string{"B"})
		var want []resp.Value
		for rest := b; len(want) < 2; {
			v, n, err := resp.ParseReply(rest, resp.Limits{MaxBulk: most, MaxElements: 64, MaxDepth: 8})
			if err != nil || n > most {
				break
			}
			if rest = rest[n:]; v.Kind == resp.Push {
				continue
			}
			if want = append(want, v); v.IsError() {
				break
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q in %v: %+v; want %+v", b, cuts, got, want)
		}
		if complete := len(want) == 2 && !want[1].IsError(); complete != (err == nil) {
			t.Errorf("%q: %d replies and %v", b, len(want), err)
		}
		if failed, ok := errors.AsType[*resp.ReadError](err); ok && len(failed.Received) > most {
			t.Errorf("%q: %d bytes were kept", b, len(failed.Received))
		}
	})
}
