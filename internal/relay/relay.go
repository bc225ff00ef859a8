// Package relay is the data path: it moves bytes between a client and an engine, both ways, until both are done.
//
// Guaranteed: every byte arrives once, in order and unchanged, and is never held back to wait for another; what is in
// flight is bounded by one buffer per direction (bufferSize) and the kernel's own, so a side that does not read slows the
// other down instead of growing memory; the end of one direction never cuts the other while it still lives; and what
// the engine said last reaches the client even if the client is still sending. When Run has returned, both ends are
// closed and nothing that the Pipe started is left.
//
// The ends may be encrypted or not: relay knows nothing of TLS policy, listeners, or who may connect. It does not
// look into the bytes.
package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize is the most plaintext that one TLS record holds: a bigger read would not come back fuller from a TLS
// client, and a bigger write makes crypto/tls keep its larger buffers for as long as the connection lives.
const bufferSize = 16 << 10

const (
	defaultLingerTime  = 3 * time.Second
	defaultLingerBytes = 16 << 20
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Conn is one end of a Pipe: *net.TCPConn, *net.UnixConn, or a TLS connection over one.
type Conn interface {
	net.Conn
	// CloseWrite ends the direction away from us and leaves the other open: FIN, and before it close_notify where there
	// is TLS. Called at most once, never during a Write.
	CloseWrite() error
}

// Config has the limits of one Pipe. The zero value is ready to use.
type Config struct {
	// LingerTime is for how long a client's input is still read, and thrown away, after the engine has ended: closing a
	// socket with unread input sends a reset, which can destroy the last reply on its way. Zero: 3 s.
	LingerTime time.Duration
	// LingerBytes is how much input is thrown away at most. Zero: 16 MiB.
	LingerBytes int64
	// In and Out, where given, grow with the bytes delivered to the engine and to the client, as they are delivered.
	In, Out *atomic.Uint64
}

// Reason says what ended a Pipe. The set is closed, so it may label a metric.
type Reason string

const (
	ClientClosed Reason = "client_closed" // the client ended its direction first
	EngineClosed Reason = "engine_closed" // the engine did
	ClientFailed Reason = "client_failed" // reset, time-out, broken TLS
	EngineFailed Reason = "engine_failed" // reset: the engine closed while it had input left to read
	Cut          Reason = "cut"           // Close was called, or the client never read what a gone engine had said
)

// Result is what became of a Pipe.
type Result struct {
	In, Out uint64 // bytes delivered to the engine, to the client
	Ended   Reason // what came first
	Err     error  // the error behind Ended; nil where that is an orderly end
}

// Pipe joins two ends. Run does the work; Close may be called from anywhere; Quiet and CutIfStalled are for one
// watching goroutine.
type Pipe struct {
	client, engine Conn
	cfg            Config

	in, out atomic.Uint64
	asked   atomic.Bool   // the last bytes that moved went to the engine
	writes  atomic.Uint64 // odd while a write to the client is under way

	mu    sync.Mutex // guards ended and err
	ended Reason
	err   error

	// Of the watching goroutine alone.
	quietSum, stalledWrite uint64
}

// New joins client and engine. From here on they belong to the Pipe, which closes them at the end of Run.
func New(client, engine Conn, cfg Config) *Pipe {
	if cfg.LingerTime == 0 {
		cfg.LingerTime = defaultLingerTime
	}
	if cfg.LingerBytes == 0 {
		cfg.LingerBytes = defaultLingerBytes
	}
	if cfg.In == nil {
		cfg.In = new(atomic.Uint64)
	}
	if cfg.Out == nil {
		cfg.Out = new(atomic.Uint64)
	}
	return &Pipe{client: client, engine: engine, cfg: cfg}
}

// Run moves bytes until both directions have ended, closes both ends and says why. Call it once.
func (p *Pipe) Run() Result {
	var down sync.WaitGroup
	down.Go(p.engineToClient)
	p.clientToEngine()
	down.Wait()
	p.closeBoth()
	p.mu.Lock()
	defer p.mu.Unlock()
	return Result{In: p.in.Load(), Out: p.out.Load(), Ended: p.ended, Err: p.err}
}

// Close cuts the connection: Run returns soon, whatever the ends are doing. It may be called more than once.
func (p *Pipe) Close() {
	p.end(Cut, nil)
	p.closeBoth()
}

// Quiet reports whether nothing has moved since the call before, and what moved last was a reply, so that
// closing now most likely interrupts nothing. (Only most likely: an engine may take its time over the rest of a reply.)
func (p *Pipe) Quiet() bool {
	sum := p.in.Load() + p.out.Load() + p.writes.Load()
	same := sum == p.quietSum
	p.quietSum = sum
	return same && !p.asked.Load() && p.writes.Load()%2 == 0
}

// CutIfStalled cuts a client that, since the call before, has not taken the bytes offered to it although the engine has
// hung up. Without it a client that never reads holds its connection for ever after the engine has dropped it, because the
// goroutine that would notice is the one waiting for the client. A slow client of a living engine is the engine's business.
func (p *Pipe) CutIfStalled() bool {
	n := p.writes.Load()
	same := n == p.stalledWrite
	p.stalledWrite = n
	if n%2 == 0 || !same || !hungUp(p.engine) {
		return false
	}
	p.Close()
	return true
}

func (p *Pipe) clientToEngine() {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	engineGone, discarded := false, int64(0)
	for {
		n, err := p.client.Read(buf[:])
		if n > 0 && !engineGone {
			p.asked.Store(true)
			// An engine that takes no more may still have last words under way (-ERR max number of clients reached), so
			// a failure here ends nothing: the other direction notices by itself.
			if _, werr := p.engine.Write(buf[:n]); werr != nil {
				engineGone = true
			} else {
				p.in.Add(uint64(n))
				p.cfg.In.Add(uint64(n))
			}
		} else if n > 0 {
			if discarded += int64(n); discarded > p.cfg.LingerBytes {
				return
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			p.end(ClientClosed, nil)
			// Fails if the engine is gone, which the other direction sees too.
			_ = p.engine.CloseWrite()
			return
		case p.lingerOver(err):
			return
		default:
			p.end(ClientFailed, err)
			p.closeBoth()
			return
		}
	}
}

func (p *Pipe) engineToClient() {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for {
		n, err := p.engine.Read(buf[:])
		if n > 0 {
			// Before the write: the client's next request may be on its way before the write has returned.
			p.asked.Store(false)
			p.writes.Add(1)
			_, werr := p.client.Write(buf[:n])
			p.writes.Add(1)
			if werr != nil {
				p.end(ClientFailed, werr)
				p.closeBoth()
				return
			}
			p.out.Add(uint64(n))
			p.cfg.Out.Add(uint64(n))
		}
		if err != nil {
			p.engineEnded(err)
			return
		}
	}
}

// engineEnded passes the engine's end on and leaves the client LingerTime to read it. A Unix socket whose peer closed with
// input unread says ECONNRESET instead of EOF, and only after everything that the peer had written: so both are an end.
func (p *Pipe) engineEnded(err error) {
	if errors.Is(err, io.EOF) {
		p.end(EngineClosed, nil)
	} else {
		p.end(EngineFailed, err)
	}
	// Makes the other direction throw away what it reads, even if it is stuck in a write to the engine.
	p.engine.Close()
	if err := p.client.CloseWrite(); err != nil {
		p.client.Close()
		return
	}
	_ = p.client.SetReadDeadline(time.Now().Add(p.cfg.LingerTime))
}

// lingerOver reports whether err is the read deadline that engineEnded has set.
func (p *Pipe) lingerOver(err error) bool {
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// ETIMEDOUT, a peer that no longer answers keep-alives, is a Timeout as well: that one is a failure of the client.
	return p.ended == EngineClosed || p.ended == EngineFailed
}

func (p *Pipe) end(why Reason, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == "" {
		p.ended, p.err = why, err
	}
}

// closeBoth closes the engine first: closing a TLS client says goodbye, and may wait for room to say it.
func (p *Pipe) closeBoth() {
	p.engine.Close()
	p.client.Close()
}

func hungUp(c Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = rc.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLRDHUP) != 0
	})
	return gone || err != nil
}
