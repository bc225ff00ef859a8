package replication_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/rdb"
	"github.com/sealane/sealane/internal/replication"
	"github.com/sealane/sealane/internal/resp"
)

// echo is a server in place of an engine.
func echo(t *testing.T) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			io.Copy(theirs, theirs)
			theirs.Close()
		}()
		t.Cleanup(func() { ours.Close(); theirs.Close() })
		return ours, nil
	}
}

// Whoever else on the machine finds the port is turned away, and the process that it is for still gets through, once.
func TestALinkLetsOneProcessIn(t *testing.T) {
	t.Parallel()
	l, err := replication.Listen(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	host, port := l.Addr()
	address := net.JoinHostPort(host, port)
	ended := make(chan error, 1)
	go func() { ended <- l.Serve(t.Context(), os.Getpid()) }()

	stranger := exec.Command("bash", "-c", "exec 3<>/dev/tcp/"+host+"/"+port+" && echo hello >&3 && cat <&3")
	if out, _ := stranger.CombinedOutput(); strings.Contains(string(out), "hello") {
		t.Errorf("another process was let in: %q", out)
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("the process itself reads %q, %v", got, err)
	}
	if second, err := net.Dial("tcp", address); err == nil {
		second.Close()
		t.Error("the port is still open after the first connection")
	}
	conn.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("Serve goes on after the connection has ended")
	}
}

func TestALinkThatNobodyUsesEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l, err := replication.Listen(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Serve(ctx, os.Getpid()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// answering is a connection whose other side says this, whatever it is asked, and then hangs up.
func answering(said io.Reader) net.Conn { return &scripted{Reader: said} }

type scripted struct {
	net.Conn
	io.Reader
}

func (s *scripted) Read(p []byte) (int, error)      { return s.Reader.Read(p) }
func (s *scripted) Write(p []byte) (int, error)     { return len(p), nil }
func (s *scripted) Close() error                    { return nil }
func (s *scripted) SetReadDeadline(time.Time) error { return nil }

const mark = "0123456789abcdef0123456789abcdef01234567"

func TestADumpIsReadToItsEndAndNoFurther(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		said, want string
		err        error
		fails      string // what the beginning fails with
	}{
		"of known size":            {said: "+OK\r\n+OK\r\n-ERR\r\n$5\r\nhello*1\r\n$4\r\nPING\r\n", want: "hello"},
		"of unknown size":          {said: "+OK\r\n+OK\r\n-ERR\r\n$EOF:" + mark + "\r\nhello" + mark + "*1\r\n", want: "hello"},
		"after some waiting":       {said: "+OK\r\n+OK\r\n-ERR\r\n\n\n\n$EOF:" + mark + "\r\nhello" + mark, want: "hello"},
		"older than rdb-only":      {said: "+OK\r\n-ERR Unrecognized REPLCONF option: rdb-only\r\n-ERR\r\n$5\r\nhello", want: "hello"},
		"with nothing in it":       {said: "+OK\r\n+OK\r\n-ERR\r\n$EOF:" + mark + "\r\n" + mark},
		"with half a mark in it":   {said: "+OK\r\n+OK\r\n-ERR\r\n$EOF:" + mark + "\r\n" + mark[:20] + mark, want: mark[:20]},
		"cut off":                  {said: "+OK\r\n+OK\r\n-ERR\r\n$EOF:" + mark + "\r\nhello" + mark[:39], err: replication.ErrCut},
		"cut off, of known size":   {said: "+OK\r\n+OK\r\n-ERR\r\n$50\r\nhello", err: replication.ErrCut},
		"that the engine refuses":  {said: "+OK\r\n+OK\r\n-ERR\r\n-NOPERM no\r\n", fails: "NOPERM"},
		"that never begins":        {said: "+OK\r\n+OK\r\n-ERR\r\n", fails: replication.ErrCut.Error()},
		"of a size that is none":   {said: "+OK\r\n+OK\r\n-ERR\r\n$-1\r\n", fails: "announces"},
		"of an engine that's busy": {said: "-BUSY running a script\r\n", fails: "BUSY"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for way, said := range map[string]io.Reader{"at once": strings.NewReader(c.said), "byte by byte": iotest.OneByteReader(strings.NewReader(c.said))} {
				d, err := replication.NewDump(t.Context(), answering(said))
				if c.fails != "" {
					if err == nil || !strings.Contains(err.Error(), c.fails) {
						t.Errorf("%s: got %v; want %q", way, err, c.fails)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(d)
				if !errors.Is(err, c.err) || c.err == nil && string(got) != c.want {
					t.Errorf("%s: %q, %v; want %q, %v", way, got, err, c.want, c.err)
				}
			}
		})
	}
}

// Every engine gives out a whole RDB file, without writing one itself.
func TestEveryEngineIsDumped(t *testing.T) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		dir, err := os.MkdirTemp("", "sl")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		e, err := engine.Start(t.Context(), b, engine.Config{Dir: dir, AdminPassword: "admin-password", Directives: map[string]string{"save": ""}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { e.Kill(); <-e.Done(); e.Release() }()
		restore, err := e.OpenForCopy(t.Context(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		fill, err := e.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer fill.Close()
		for _, command := range [][]string{{"HSET", "hash", "a", "1", "b", "2"}, {"HEXPIRE", "hash", "1000", "FIELDS", "1", "a"}} {
			_, err := resp.NewClient(fill, 1<<10).Do(t.Context(), command...) // engines before Redis 7.4 and Valkey 9 don't know the second
			if err != nil && !strings.Contains(err.Error(), "unknown command") {
				t.Fatal(err)
			}
		}
		for range 2 {
			conn, err := e.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			d, err := replication.NewDump(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := rdb.Check(d); err != nil {
				t.Error(err)
			}
			conn.Close()
		}
		if _, err := os.Stat(engine.Dump(dir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a file of the engine's own: %v", err)
		}
		if err := restore(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func FuzzDump(f *testing.F) {
	f.Add([]byte("+OK\r\n+OK\r\n-ERR\r\n$EOF:"+mark+"\r\nhello"+mark+"*1\r\n"), true)
	f.Add([]byte("+OK\r\n-ERR\r\n-ERR\r\n\n$5\r\nhello"), false)
	f.Fuzz(func(t *testing.T, said []byte, slowly bool) {
		var in io.Reader = bytes.NewReader(said)
		if slowly {
			in = iotest.OneByteReader(in)
		}
		d, err := replication.NewDump(t.Context(), answering(in))
		if err != nil {
			return
		}
		got, err := io.ReadAll(d)
		if err == nil && !bytes.Contains(said, got) {
			t.Errorf("%q was read, which was not sent", got)
		}
		if n, again := d.Read(make([]byte, 1)); err == nil && (n != 0 || again != io.EOF) {
			t.Errorf("after its end: %d, %v", n, again)
		}
	})
}
