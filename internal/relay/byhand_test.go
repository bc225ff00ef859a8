package relay_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
)

// asksCommands is what the first shared connection asks besides.
const asksCommands = "*1\r\n$7\r\nCOMMAND\r\n"

// byHand are loops whose engine connections the test answers itself.
type byHand struct {
	t       *testing.T
	loops   *relay.Loops
	backend relay.Backend
	conns   chan net.Conn
}

func newByHand(t *testing.T, b relay.Backend) *byHand {
	h := &byHand{t: t, loops: loops(t), backend: b, conns: make(chan net.Conn, 100)}
	if b.Connect == nil {
		h.backend.Connect = h.connect
	}
	h.loops.SetBackend(&h.backend)
	return h
}

func (h *byHand) connect() (int, error) {
	near, far := unixPair(h.t)
	fd := descriptor(h.t, near)
	if err := unix.SetNonblock(fd, true); err != nil {
		return -1, err
	}
	_ = far.SetDeadline(time.Now().Add(patience))
	h.conns <- far
	return fd, nil
}

func (h *byHand) client() net.Conn {
	c, _ := h.session()
	return c
}

func (h *byHand) session() (net.Conn, *relay.Session) {
	near, far := tcpPair(h.t)
	_ = near.SetDeadline(time.Now().Add(patience))
	return near, h.loops.Serve(netloop.Conn{FD: descriptor(h.t, far)}, relay.Config{})
}

// next is the next connection that the relay has made.
func (h *byHand) next() net.Conn {
	h.t.Helper()
	select {
	case c := <-h.conns:
		return c
	case <-time.After(patience):
		h.t.Fatal("there was no connection to the engine")
		return nil
	}
}

// shared is the next connection, which has to be a shared one; it is set up.
func (h *byHand) shared() net.Conn {
	h.t.Helper()
	c := h.next()
	expect(h.t, c, "*3\r\n$6\r\nCLIENT\r\n$8\r\nNO-EVICT\r\n$2\r\non\r\n"+asksID+asksCommands)
	send(h.t, c, "+OK\r\n:900\r\n*0\r\n")
	return c
}

// A reply that has to be complete may take longer than the loops wait until they free what idle connections hold.
func TestReplyThatTakesItsTimeSurvivesTidying(t *testing.T) {
	t.Parallel()
	h := newByHand(t, relay.Backend{Multiplexed: true})
	c := h.client()
	send(t, c, "INFO\r\n")
	e := h.shared()
	expect(t, e, "INFO\r\n")
	send(t, e, "$19\r\n# Clients\r\n")
	time.Sleep(20 * time.Millisecond)
	h.loops.ShrinkIdleForTest()
	send(t, e, "some:1\r\n\r\n")
	expect(t, c, "$19\r\n# Clients\r\nsome:1\r\n\r\n")
}

// The engine's refusal is the last word once, not once for each request, and what it closes is closed in order.
func TestRefusalIsSaidOnceAndTheCloseIsClean(t *testing.T) {
	t.Parallel()
	h := newByHand(t, relay.Backend{})
	c, s := h.session()
	send(t, c, strings.Repeat("PING\r\nCLIENT ID\r\n", 50))
	e := h.next()
	expect(t, e, asksID+strings.Repeat("PING\r\nCLIENT ID\r\n", 50))
	send(t, e, "-ERR max number of clients reached\r\n")
	e.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != "-ERR max number of clients reached\r\n" {
		t.Errorf("read %q, %v", got, err)
	}
	select {
	case <-s.Done():
		t.Error("the connection is closed before the client has ended: with input unread that is a reset")
	case <-time.After(50 * time.Millisecond):
	}
	c.Close()
	if r := s.Result(); r.Ended != relay.EngineClosed && r.Ended != relay.EngineFailed {
		t.Errorf("ended as %+v", r)
	}
}

// Who has not logged in gets a connection of its own, which may not be had.
func TestLongRequestBeforeLoginWithoutAnEngineIsToldSo(t *testing.T) {
	t.Parallel()
	h := newByHand(t, relay.Backend{Multiplexed: true, UnavailableReply: func() string { return "-ERR away\r\n" }})
	c := h.client()
	send(t, c, "PING\r\n")
	e := h.next()
	expect(t, e, "*3\r\n$6\r\nCLIENT\r\n$8\r\nNO-EVICT\r\n$2\r\non\r\n"+asksID+asksCommands)
	send(t, e, strings.Repeat("-NOAUTH Authentication required.\r\n", 3))
	own := h.next() // who has not logged in shares nothing
	expect(t, own, asksID+"PING\r\n")
	send(t, own, strings.Repeat("-NOAUTH Authentication required.\r\n", 2))
	expect(t, c, "-NOAUTH Authentication required.\r\n")
	own.Close()
	gone := h.backend
	gone.Connect = func() (int, error) { return -1, errors.New("no engine") }
	h.loops.SetBackend(&gone)
	send(t, c, "*2\r\n$4\r\nECHO\r\n$20000\r\n"+strings.Repeat("v", 20000)+"\r\n")
	expect(t, c, "-ERR away\r\n")
}

// The engine closes a moment after it has called a long request before the login a protocol error. Until then nobody else may be
// given the connection.
func TestConnectionWithAProtocolErrorIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	const noAuth = "-NOAUTH Authentication required.\r\n"
	const protocolError = "-ERR Protocol error: unauthenticated bulk length\r\n"
	h := newByHand(t, relay.Backend{Multiplexed: true})
	c, other := h.client(), h.client()
	send(t, c, "PING\r\n")
	shared := h.next()
	expect(t, shared, "*3\r\n$6\r\nCLIENT\r\n$8\r\nNO-EVICT\r\n$2\r\non\r\n"+asksID+asksCommands)
	send(t, shared, strings.Repeat(noAuth, 3))
	dedicated := h.next()
	expect(t, dedicated, asksID+"PING\r\n")
	send(t, dedicated, noAuth+noAuth)
	expect(t, c, noAuth)
	long := "*2\r\n$4\r\nECHO\r\n$20000\r\n" + strings.Repeat("v", 20000) + "\r\n"
	send(t, c, long)
	expect(t, dedicated, long)
	send(t, dedicated, protocolError)
	expect(t, c, protocolError)
	send(t, other, "PING\r\n")
	expect(t, h.next(), asksID+"PING\r\n")
}

// A group may have the name of the word that ends the options.
func TestXReadGroupOfAGroupCalledStreamsBlocksNobodyElse(t *testing.T) {
	t.Parallel()
	h := newByHand(t, relay.Backend{Multiplexed: true})
	c, other := h.client(), h.client()
	send(t, other, "PING\r\n")
	shared := h.shared()
	expect(t, shared, "PING\r\n")
	send(t, shared, "+PONG\r\n")
	expect(t, other, "+PONG\r\n")
	const blocks = "XREADGROUP GROUP streams me BLOCK 0 STREAMS k >\r\n"
	send(t, c, blocks)
	own := h.next()
	expect(t, own, asksID+blocks)
}

// The engine closes after QUIT: nobody must be given that connection.
func TestConnectionThatWasToldToQuitIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	h := newByHand(t, relay.Backend{Multiplexed: true})
	c := h.client()
	send(t, c, "WATCH k\r\n")
	own := h.next()
	expect(t, own, asksID+"WATCH k\r\n")
	send(t, own, ":7\r\n+OK\r\n")
	expect(t, c, "+OK\r\n")
	send(t, c, "UNWATCH\r\nQUIT\r\n")
	expect(t, own, "UNWATCH\r\nQUIT\r\n")
	send(t, own, "+OK\r\n+OK\r\n")
	expect(t, c, "+OK\r\n+OK\r\n")
	send(t, c, "PING\r\n")
	expect(t, own, "PING\r\n") // which an engine does not read
	own.Close()
	if got, err := io.ReadAll(c); err != nil || len(got) > 0 {
		t.Errorf("read %q, %v after QUIT", got, err)
	}
}

// RESET does not end the debugger: the next client's script would run in it.
func TestConnectionWithTheDebuggerOnIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	h := newByHand(t, relay.Backend{Multiplexed: true})
	c, other := h.client(), h.client()
	send(t, c, "SCRIPT DEBUG yes\r\nRESET\r\n")
	own := h.next()
	expect(t, own, asksID+"SCRIPT DEBUG yes\r\nRESET\r\n")
	send(t, own, ":7\r\n+OK\r\n+RESET\r\n")
	expect(t, c, "+OK\r\n+RESET\r\n")
	send(t, c, "PING\r\n")
	expect(t, own, "PING\r\n")
	send(t, own, "+PONG\r\n")
	expect(t, c, "+PONG\r\n")
	send(t, other, "EVAL x 0\r\n")
	expect(t, h.next(), asksID+"EVAL x 0\r\n")
}

// Who waited for a shared connection and then did not need it has nothing to do with its end.
func TestEndOfAConnectionThatAClientNoLongerWaitsForIsNoneOfItsBusiness(t *testing.T) {
	t.Parallel()
	h := newByHand(t, relay.Backend{Multiplexed: true})
	c := h.client()
	send(t, c, "PING\r\n")
	shared := h.next() // not answered: not ready
	expect(t, shared, "*3\r\n$6\r\nCLIENT\r\n$8\r\nNO-EVICT\r\n$2\r\non\r\n"+asksID)
	transparent := h.backend
	transparent.Multiplexed = false
	h.loops.SetBackend(&transparent)
	send(t, c, "PING\r\n") // makes the relay look at it again
	own := h.next()
	expect(t, own, asksID+"PING\r\nPING\r\n")
	shared.Close()
	time.Sleep(20 * time.Millisecond)
	send(t, own, ":8\r\n+PONG\r\n+PONG\r\n")
	expect(t, c, "+PONG\r\n+PONG\r\n")
}

// An engine is asked for its commands once, and again when it has gone: the next one may be another version.
func TestCommandsAreAskedOfEachEngineOnce(t *testing.T) {
	t.Parallel()
	h := newByHand(t, relay.Backend{Multiplexed: true})
	ping := func(c, e net.Conn) {
		expect(t, e, "PING\r\n")
		send(t, e, "+PONG\r\n")
		expect(t, c, "+PONG\r\n")
		// Behind it comes what proves that replies match requests.
		echo := make([]byte, len("*2\r\n$4\r\nECHO\r\n$40\r\n")+40+2)
		if _, err := io.ReadFull(e, echo); err != nil || !strings.Contains(string(echo), "sealane-") {
			t.Fatalf("read %q, %v", echo, err)
		}
		send(t, e, string(echo[len("*2\r\n$4\r\nECHO\r\n"):]))
	}
	c, s := h.session()
	send(t, c, "PING\r\n")
	first := h.shared()
	ping(c, first)
	// Another shared connection to the same engine, for another key.
	other := h.client()
	send(t, other, "HELLO 3\r\n")
	own := h.next()
	expect(t, own, asksID)
	send(t, own, ":901\r\n")
	expect(t, own, "HELLO 3\r\n")
	send(t, own, "%0\r\n")
	expect(t, other, "%0\r\n")
	send(t, other, "PING\r\n")
	second := h.next()
	expect(t, second, "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*3\r\n$6\r\nCLIENT\r\n$8\r\nNO-EVICT\r\n$2\r\non\r\n"+asksID)
	send(t, second, "%0\r\n+OK\r\n:902\r\n")
	ping(other, second)
	send(t, c, "PING\r\n")
	expect(t, first, "PING\r\n")
	first.Close()
	if _, err := io.ReadAll(c); err != nil {
		t.Error(err)
	}
	c.Close()
	<-s.Done()
	c = h.client()
	send(t, c, "PING\r\n")
	ping(c, h.shared())
}
