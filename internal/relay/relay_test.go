package relay_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
)

const patience = 30 * time.Second

// unixPair returns two connected stream sockets, as between the gateway and an engine.
func unixPair(t testing.TB) (*net.UnixConn, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return ends[0], ends[1]
}

// tcpPair returns the two ends of a TCP connection, as between a client and the gateway.
func tcpPair(t testing.TB) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	here, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	return here.(*net.TCPConn), there.(*net.TCPConn)
}

// descriptor takes a connection's descriptor out of the runtime's hands.
func descriptor(t testing.TB, c syscall.Conn) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		t.Fatal(err)
	}
	c.(io.Closer).Close()
	return fd
}

func loops(t testing.TB) *relay.Loops {
	t.Helper()
	ls, err := relay.NewLoops(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ls.Close)
	return ls
}

type rig struct {
	client  *net.TCPConn  // what the user's program holds
	engine  *net.UnixConn // what the engine holds
	session *relay.Session
	loops   *relay.Loops
}

// The engine is asked for the connection's id with the first request; noRequest makes a Session look at nothing more.
const (
	asksID    = "*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n"
	noRequest = "*x"
)

// start runs a Session between a TCP client and an engine, which speak no protocol. At the end of the test the Session must
// be gone.
func start(t testing.TB, cfg relay.Config) *rig {
	t.Helper()
	ls := loops(t)
	client, clientEnd := tcpPair(t)
	engineEnd, engine := unixPair(t)
	for _, c := range []net.Conn{client, engine} {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	r := &rig{client: client, engine: engine, loops: ls}
	fd := descriptor(t, engineEnd)
	ls.SetBackend(&relay.Backend{Connect: func() (int, error) { return fd, nil }})
	r.session = ls.Serve(netloop.Conn{FD: descriptor(t, clientEnd)}, cfg)
	t.Cleanup(func() {
		client.Close()
		engine.Close()
		select {
		case <-r.session.Done():
		case <-time.After(patience):
			t.Error("the Session is still there although both ends are closed")
		}
	})
	send(t, client, noRequest)
	expect(t, engine, asksID+noRequest)
	send(t, engine, ":1\r\n")
	return r
}

func (r *rig) wait(t testing.TB) relay.Result {
	t.Helper()
	select {
	case <-r.session.Done():
		return r.session.Result()
	case <-time.After(patience):
		t.Fatal("the Session did not end")
		return relay.Result{}
	}
}

// end is a stream socket that can be closed for writing alone.
type end interface {
	net.Conn
	CloseWrite() error
}

func send(t testing.TB, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatalf("write %q: %v", s, err)
	}
}

func expect(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// stream writes total random bytes in random chunks, ends its direction and returns the digest of what it wrote.
func stream(c end, seed byte, total int) (hash.Hash, error) {
	src := rand.NewChaCha8([32]byte{seed})
	rnd := rand.New(src)
	h, chunk := sha256.New(), make([]byte, 80<<10)
	for total > 0 {
		n := min(total, 1+rnd.IntN([]int{16, 1500, 16 << 10, len(chunk)}[rnd.IntN(4)]))
		src.Read(chunk[:n])
		h.Write(chunk[:n])
		if _, err := c.Write(chunk[:n]); err != nil {
			return h, err
		}
		total -= n
	}
	return h, c.CloseWrite()
}

func TestRandomBytesArriveExactlyBothWays(t *testing.T) {
	t.Parallel()
	size := 100 << 20
	if testing.Short() {
		size = 8 << 20
	}
	r := start(t, relay.Config{})
	type sum struct {
		hash hash.Hash
		err  error
	}
	sent, received := [2]chan sum{make(chan sum, 1), make(chan sum, 1)}, [2]chan sum{make(chan sum, 1), make(chan sum, 1)}
	ends := [2]end{r.client, r.engine}
	// The engine must not end before the client, or the rest of the client's input is rightly thrown away.
	clientDone := make(chan struct{})
	for i, end := range ends {
		end.SetDeadline(time.Now().Add(5 * time.Minute))
		total := size
		if i == 1 {
			total -= 4097
		}
		go func() {
			if i == 1 {
				h, err := stream(noEnd{end}, 1, total)
				sent[i] <- sum{h, err}
				<-clientDone
				end.CloseWrite()
				return
			}
			h, err := stream(end, 2, total)
			sent[i] <- sum{h, err}
		}()
		go func() {
			h := sha256.New()
			_, err := io.Copy(h, ends[1-i])
			if i == 0 {
				close(clientDone)
			}
			received[i] <- sum{h, err}
		}()
	}
	for i, from := range []string{"client", "engine"} {
		s, g := <-sent[i], <-received[i]
		if s.err != nil || g.err != nil || !bytes.Equal(s.hash.Sum(nil), g.hash.Sum(nil)) {
			t.Errorf("from the %s: sent (error %v), received (error %v); the bytes must be equal", from, s.err, g.err)
		}
	}
	want := relay.Result{In: uint64(size + len(noRequest)), Out: uint64(size - 4097), Ended: relay.ClientClosed, Client: relay.Client{User: "default"}}
	if got, all := r.wait(t), r.loops.Counts(); got != want || all.In != want.In || all.Out != want.Out {
		t.Errorf("result %+v, counters %d and %d; want %+v", got, all.In, all.Out, want)
	}
}

type noEnd struct{ end }

func (noEnd) CloseWrite() error { return nil }

func TestRepliesStillFlowAfterTheClientHalfClosed(t *testing.T) {
	t.Parallel()
	r := start(t, relay.Config{})
	send(t, r.client, "GET a")
	r.client.CloseWrite()
	all, err := io.ReadAll(r.engine)
	if err != nil || string(all) != "GET a" {
		t.Fatalf("engine read %q, %v", all, err)
	}
	send(t, r.engine, "first")
	expect(t, r.client, "first")
	send(t, r.engine, "second")
	r.engine.Close()
	expect(t, r.client, "second")
	if n, err := r.client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("client read %d, %v at the end; want EOF", n, err)
	}
	if got := r.wait(t); got.Ended != relay.ClientClosed || got.Err != nil {
		t.Errorf("result %+v; want %s", got, relay.ClientClosed)
	}
}

// A reset would reach the client before the error line if the Pipe closed with input unread.
func TestLastWordsArriveThoughTheClientKeepsSending(t *testing.T) {
	t.Parallel()
	const lastWords = "-ERR max number of clients reached\r\n"
	r := start(t, relay.Config{LingerTime: patience, LingerBytes: 1 << 40})
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		chunk := make([]byte, 32<<10)
		for {
			select {
			case <-stop:
				stopped <- r.client.CloseWrite()
				return
			default:
			}
			if _, err := r.client.Write(chunk); err != nil {
				stopped <- err
				return
			}
		}
	}()
	expect(t, r.engine, "\x00")
	send(t, r.engine, lastWords)
	r.engine.Close()
	all, err := io.ReadAll(r.client)
	if err != nil || string(all) != lastWords {
		t.Errorf("client read %q, %v; want %q", all, err, lastWords)
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Errorf("client's write while the engine was gone: %v", err)
	}
	if got := r.wait(t); got.Ended != relay.EngineFailed && got.Ended != relay.EngineClosed {
		t.Errorf("result %+v", got)
	}
}

func TestLingerIsBoundedInTime(t *testing.T) {
	t.Parallel()
	r := start(t, relay.Config{LingerTime: 20 * time.Millisecond})
	r.engine.Close()
	// The client neither sends nor closes.
	if got := r.wait(t); got.Ended != relay.EngineClosed {
		t.Errorf("result %+v; want %s", got, relay.EngineClosed)
	}
}

func TestLingerIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	r := start(t, relay.Config{LingerTime: time.Hour, LingerBytes: 1 << 20})
	r.engine.Close()
	if _, err := io.ReadAll(r.client); err != nil { // its end: from here on the engine is known to be gone
		t.Fatal(err)
	}
	n, err := 0, error(nil)
	for chunk := make([]byte, 64<<10); err == nil && n < 1<<30; n += len(chunk) {
		_, err = r.client.Write(chunk)
	}
	if err == nil {
		t.Errorf("a gone engine's client could send %d bytes", n)
	}
	if got := r.wait(t); got.In != uint64(len(noRequest)) {
		t.Errorf("%d bytes counted as delivered to a gone engine", got.In)
	}
}

func TestClientResetClosesTheEngineEnd(t *testing.T) {
	t.Parallel()
	r := start(t, relay.Config{})
	send(t, r.client, "BLPOP q 0")
	expect(t, r.engine, "BLPOP q 0")
	r.client.SetLinger(0)
	r.client.Close()
	if n, err := r.engine.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("engine read %d, %v; want EOF", n, err)
	}
	if got := r.wait(t); got.Ended != relay.ClientFailed || !errors.Is(got.Err, unix.ECONNRESET) {
		t.Errorf("result %+v; want %s with a reset", got, relay.ClientFailed)
	}
}

// The client went away in the middle of a big reply, and its own direction says nothing.
func TestFailedWriteToTheClientClosesTheEngineEnd(t *testing.T) {
	t.Parallel()
	r := start(t, relay.Config{})
	r.client.CloseWrite()
	if _, err := io.ReadAll(r.engine); err != nil {
		t.Fatal(err)
	}
	r.client.SetLinger(0)
	r.client.Close()
	var err error
	for chunk := make([]byte, 64<<10); err == nil; {
		_, err = r.engine.Write(chunk)
	}
	if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("engine's write ended with %v", err)
	}
	r.wait(t)
}

func TestEngineDeathReachesTheClient(t *testing.T) {
	t.Parallel()
	r := start(t, relay.Config{LingerTime: 20 * time.Millisecond})
	send(t, r.client, "SET a b")
	send(t, r.engine, "+O")
	r.engine.Close() // with input unread: the Pipe reads ECONNRESET
	all, err := io.ReadAll(r.client)
	if err != nil || string(all) != "+O" {
		t.Errorf("client read %q, %v; want the half reply and EOF", all, err)
	}
	r.wait(t)
}

func TestStoppedReaderHoldsTheWriterBack(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		ends func(*rig) (from, to net.Conn)
	}{
		{"client does not read", func(r *rig) (net.Conn, net.Conn) { return r.engine, r.client }},
		{"engine does not read", func(r *rig) (net.Conn, net.Conn) { return r.client, r.engine }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := start(t, relay.Config{})
			from, to := tc.ends(r)
			// Small kernel buffers make the bound tight; TCP on loopback would take 4 MiB and more by itself.
			r.client.SetReadBuffer(64 << 10)
			r.client.SetWriteBuffer(64 << 10)
			from.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			sent, chunk := 0, bytes.Repeat([]byte("x"), 64<<10)
			for {
				n, err := from.Write(chunk)
				sent += n
				if errors.Is(err, os.ErrDeadlineExceeded) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if sent > 64<<20 {
					t.Fatalf("%d bytes were taken although nobody reads", sent)
				}
			}
			got := make([]byte, sent)
			if _, err := io.ReadFull(to, got); err != nil || strings.Trim(string(got), "x") != "" {
				t.Errorf("the %d bytes in flight did not arrive whole: %v", sent, err)
			}
		})
	}
}

func TestClientThatNeverReadsIsCutOnceTheEngineHasGone(t *testing.T) {
	t.Parallel()
	r := start(t, relay.Config{StallTime: time.Second})
	// The engine writes until nothing more goes, three times over: then the Pipe is stuck with the client.
	for stuck := 0; stuck < 3; stuck++ {
		r.engine.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		for n, err := 0, error(nil); err == nil; {
			if n, err = r.engine.Write(make([]byte, 64<<10)); n > 0 {
				stuck = 0
			}
		}
	}
	select {
	case <-r.session.Done():
		t.Fatal("cut a slow client of a living engine")
	default:
	}
	r.engine.Close()
	if got := r.wait(t); got.Ended != relay.Cut && got.Ended != relay.EngineClosed {
		t.Errorf("result %+v; want %s, or %s if the engine's end was seen before", got, relay.Cut, relay.EngineClosed)
	}
}

func TestCloseCutsWhateverTheEndsAreDoing(t *testing.T) {
	t.Parallel()
	r := start(t, relay.Config{})
	send(t, r.client, "a")
	expect(t, r.engine, "a")
	r.session.Close()
	r.session.Close()
	if got, want := r.wait(t), (relay.Result{In: 1 + uint64(len(noRequest)), Ended: relay.Cut, Client: relay.Client{User: "default"}}); got != want {
		t.Errorf("result %+v; want %+v", got, want)
	}
}

func TestQuietTellsAnsweredFromWaiting(t *testing.T) {
	t.Parallel()
	r := start(t, relay.Config{})
	send(t, r.client, "BLPOP q 0")
	expect(t, r.engine, "BLPOP q 0")
	// The request is there before the Session has taken note of it.
	deadline := time.Now().Add(patience)
	for r.session.Quiet(); r.session.Quiet() && time.Now().Before(deadline); {
	}
	if r.session.Quiet() {
		t.Error("a connection that waits for its reply is quiet")
	}
	send(t, r.engine, "reply")
	expect(t, r.client, "reply")
	// So is the reply.
	deadline = time.Now().Add(patience)
	for !r.session.Quiet() && time.Now().Before(deadline) {
	}
	if !r.session.Quiet() {
		t.Error("an answered connection never becomes quiet")
	}
}

// What a client says first is shown to whoever wants to see it, until that has decided; only then it is served, or answered.
func TestOpeningDecidesAboutWhatComesFirst(t *testing.T) {
	t.Parallel()
	h := newByHand(t, relay.Backend{Engine: "a", ConnectTimeout: patience})
	serve := func() (net.Conn, *relay.Session) {
		near, far := tcpPair(t)
		_ = near.SetDeadline(time.Now().Add(patience))
		return near, h.loops.Serve(netloop.Conn{FD: descriptor(t, far)}, relay.Config{Opening: func(head []byte) ([]byte, bool) {
			switch {
			case head[0] == '*':
				return nil, true
			case !bytes.Contains(head, []byte("\n")):
				return nil, false
			}
			return []byte("not here\n"), true
		}})
	}
	wrong, s := serve()
	for _, part := range []string{"GET / ", "HTTP/1.1\r\n"} {
		if _, err := wrong.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := io.ReadAll(wrong); string(got) != "not here\n" {
		t.Errorf("it is told %q, %v", got, err)
	}
	wrong.Close()
	if r := s.Result(); r.Ended != relay.Misdirected {
		t.Errorf("ended by %s", r.Ended)
	}
	right, _ := serve()
	if _, err := right.Write([]byte("*1\r\n$4\r\nPING\r\n")); err != nil {
		t.Fatal(err)
	}
	engine := h.next()
	got := make([]byte, len("*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n*1\r\n$4\r\nPING\r\n"))
	if _, err := io.ReadFull(engine, got); err != nil || !bytes.HasSuffix(got, []byte("PING\r\n")) {
		t.Errorf("the engine is asked %q, %v", got, err)
	}
}
