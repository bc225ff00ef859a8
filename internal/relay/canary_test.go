package relay_test

import (
	"io"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
	"github.com/sealane/sealane/internal/resp"
)

// fakeClients are clients of a fake engine, over one loop.
func fakeClients(t *testing.T, f *fake, n int) []end {
	t.Helper()
	ls, err := relay.NewLoops(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.stop)
	t.Cleanup(ls.Close)
	ls.SetBackend(&relay.Backend{Engine: "a", Connect: f.connect, ConnectTimeout: patience, Multiplexed: true})
	clients := make([]end, n)
	for i := range clients {
		near, far := tcpPair(t)
		_ = near.SetDeadline(time.Now().Add(patience))
		ls.Serve(netloop.Conn{FD: descriptor(t, far)}, relay.Config{})
		clients[i] = near
		ask(t, near, "echo", "hello")
	}
	return clients
}

// ask sends one request and returns the bytes of the answer.
func ask(t *testing.T, c end, args ...string) string {
	t.Helper()
	if _, err := c.Write(resp.AppendCommand(nil, args...)); err != nil {
		t.Fatal(err)
	}
	answer, err := oneReply(c)
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return answer
}

func oneReply(c io.Reader) (string, error) {
	var scan resp.ReplyScanner
	var got []byte
	for one := make([]byte, 1); ; {
		if _, err := io.ReadFull(c, one); err != nil {
			return string(got), err
		}
		got = append(got, one...)
		if _, done, err := scan.Next(one); done || err != nil {
			return string(got), err
		}
	}
}

// An engine that leaves one request unanswered shifts all replies behind it. Nobody is told another's.
func TestConnectionWhoseRepliesAreShiftedIsClosed(t *testing.T) {
	for _, others := range []struct{ name, command string }{
		{"the next reply is of another kind", "incr"},
		{"all replies look alike", "echo"},
	} {
		t.Run(others.name, func(t *testing.T) {
			f := newFake(t, 1)
			f.drops = "lost"
			clients := fakeClients(t, f, 2)
			if _, err := clients[0].Write(resp.AppendCommand(nil, "echo", "lost")); err != nil {
				t.Fatal(err)
			}
			// Another client's request is enough for one kind; where all look alike, what the relay asks from time to time shows it.
			if _, err := clients[1].Write(resp.AppendCommand(nil, others.command, "other")); err != nil {
				t.Fatal(err)
			}
			_ = clients[1].SetReadDeadline(time.Now().Add(patience))
			if answer, err := io.ReadAll(clients[1]); err != nil || len(answer) > 0 {
				t.Errorf("the client behind the one without an answer was told %q, %v; want a close", answer, err)
			}
			if others.command == "echo" {
				clients[0].Close() // the other's answer has reached it: nothing tells them apart before the next check
				return
			}
			got, err := io.ReadAll(clients[0])
			if len(got) > 0 {
				t.Errorf("the client without an answer was told %q, %v", got, err)
			}
		})
	}
}

// A login is answered, and answered rightly, also behind a request whose reply is still to be sent.
func TestLoginBehindAnUnreadReplyIsAnswered(t *testing.T) {
	f := newFake(t, 1)
	f.mute = true
	clients := fakeClients(t, f, 2)
	pipeline := resp.AppendCommand(nil, "ping", "1")
	pipeline = append(pipeline, resp.AppendCommand(nil, "auth", "u1", "wrong")...)
	pipeline = append(pipeline, resp.AppendCommand(nil, "mget", "k")...)
	if _, err := clients[0].Write(pipeline); err != nil {
		t.Fatal(err)
	}
	want := "+PONG 1\r\n-WRONGPASS u1\r\n*2\r\n$13\r\nk|default|0|2\r\n$-1\r\n"
	got := make([]byte, len(want))
	if n, err := io.ReadFull(clients[0], got); err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got[:n], err, want)
	}
	if got, want := ask(t, clients[1], "echo", "mine"), "$4\r\nmine\r\n"; got != want {
		t.Errorf("the other client was told %q; want %q", got, want)
	}
}
