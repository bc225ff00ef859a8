// Package relay is the data path: it moves bytes between a client and an engine, both ways, until both are done.
//
// Guaranteed: every byte arrives once, in order and unchanged, and is never held back to wait for another; what is in
// flight is bounded (highWater and a read per direction, and the kernel's own), so a side that does not read slows the
// other down instead of growing memory; the end of one direction never cuts the other while it still lives; and what
// the engine said last reaches the client even if the client is still sending. When a Pipe is done, both ends are closed
// and nothing of it is left.
//
// Connections live on event loops, one goroutine each, which use edge-triggered epoll and never block on a
// connection. The ends may be encrypted or not: relay knows nothing of TLS policy, listeners, or who may connect. It
// does not look into the bytes.
package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// highWater is where reading from one side stops until the other has taken what is queued for it.
	highWater = 256 << 10
	lowWater  = 64 << 10
	// share is how much one direction of one pipe may move in a round before the others have their turn.
	share = 256 << 10

	defaultLingerTime  = 3 * time.Second
	defaultLingerBytes = 16 << 20
	defaultStallTime   = 10 * time.Second
)

// End is one end of a pipe, handed over to it: from here on the loop owns the descriptor.
type End struct {
	// FD is a connected stream socket, non-blocking, and watched by nobody else.
	FD int
	// TLS is the connection above it, its handshake done; nil for a plain end. Attach must make it read from and write
	// to the given transport, from then on.
	TLS    *tls.Conn
	Attach func(io.ReadWriter)
	// Head are bytes that were read already, of a plain end.
	Head []byte
}

// Config has the limits of one Pipe. The zero value is ready to use.
type Config struct {
	// LingerTime is for how long a client's input is still read, and thrown away, after the engine has ended: closing a
	// socket with unread input sends a reset, which can destroy the last reply on its way. Zero: 3 s.
	LingerTime time.Duration
	// LingerBytes is how much input is thrown away at most. Zero: 16 MiB.
	LingerBytes int64
	// StallTime is how long a client may leave the last words of an engine that is gone unread before it is cut.
	// Zero: 10 s.
	StallTime time.Duration
	// In and Out, where given, grow with the bytes delivered to the engine and to the client.
	In, Out *atomic.Uint64
	// Ended, where given, is called once, when both ends are closed. It runs on the loop and must not wait.
	Ended func(Result)
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

// Pipe joins a client and an engine on a loop. Its methods may be called from anywhere.
type Pipe struct {
	loop *loop
	cfg  Config
	done chan struct{}

	// What a watcher may look at while the loop works.
	moved atomic.Uint64 // grows with everything that happens
	busy  atomic.Bool   // a request has no reply yet, or a reply is not sent
	seen  uint64        // of the watcher: moved, when Quiet was last asked

	// Of the loop.
	client, engine end
	result         Result
	over           bool
	used           bool      // something moved since the last tidy
	wasBusy        bool      // what busy was set to
	engineGone     bool      // it takes nothing more; what the client sends is thrown away
	asked          bool      // what moved last was a request
	discarded      int64     // of that
	progressed     time.Time // when the client last took some of a gone engine's words, as far as ticks tell
	unsent         int       // at the last tick
}

type end struct {
	socket
	tls    *tls.Conn
	eof    bool // it has said all
	paused bool // it is not read, because the other end takes nothing
}

// Join makes a Pipe of two ends. The Pipe closes both, whatever happens.
func (ls *Loops) Join(client, engine End, cfg Config) *Pipe {
	if cfg.LingerTime == 0 {
		cfg.LingerTime = defaultLingerTime
	}
	if cfg.LingerBytes == 0 {
		cfg.LingerBytes = defaultLingerBytes
	}
	if cfg.StallTime == 0 {
		cfg.StallTime = defaultStallTime
	}
	p := &Pipe{loop: ls.pick(), cfg: cfg, done: make(chan struct{})}
	p.client.init(p, client)
	p.engine.init(p, engine)
	if !p.loop.post(p.start) {
		p.client.abandon()
		p.engine.abandon()
		p.result.Ended = Cut
		p.finish()
	}
	return p
}

func (e *end) init(p *Pipe, from End) {
	e.socket = socket{fd: int32(from.FD), loop: p.loop, owner: p, in: from.Head}
	e.tls = from.TLS
	if from.Attach != nil {
		from.Attach(&e.socket)
	}
}

// start is the pipe's first task.
func (p *Pipe) start() {
	for _, e := range []*end{&p.client, &p.engine} {
		if err := p.loop.adopt(&e.socket); err != nil {
			p.cut(ClientFailed, err)
			return
		}
	}
	// The handshake may have read ahead, and no event tells of that.
	p.loop.again(&p.client.socket)
}

// Done is closed when both ends are closed; then Result says why.
func (p *Pipe) Done() <-chan struct{} { return p.done }

// Result waits for the end of the pipe.
func (p *Pipe) Result() Result {
	<-p.done
	return p.result
}

// Close cuts the connection, whatever the ends are doing. It may be called more than once.
func (p *Pipe) Close() {
	p.loop.post(func() {
		if !p.over && p.client.tls != nil && p.client.pending() == 0 {
			// The client is told that nothing is missing, if it can be told without waiting.
			p.client.tls.CloseWrite()
			p.client.flush()
		}
		p.cut(Cut, nil)
	})
}

// Quiet reports whether nothing has moved since the call before, and what moved last was a reply, so that
// closing now most likely interrupts nothing. (Only most likely: an engine may take its time over the rest of a reply.)
// It is for one watching goroutine.
func (p *Pipe) Quiet() bool {
	moved := p.moved.Load()
	same := moved == p.seen
	p.seen = moved
	return same && !p.busy.Load()
}

// progress does all that can be done for a socket now.
func (p *Pipe) progress(s *socket) {
	if s == &p.client.socket {
		p.turn(&p.client, &p.engine)
	} else {
		p.turn(&p.engine, &p.client)
	}
	p.settle()
}

func (p *Pipe) turn(e, peer *end) {
	if e.pending() > 0 && e.flush() != nil {
		p.failed(e)
	}
	if peer.paused && e.pending() < lowWater && !p.over {
		peer.paused = false
		p.pump(peer, e)
	}
	if !p.over {
		p.pump(e, peer)
	}
}

// pump moves what there is from one end to the other.
func (p *Pipe) pump(from, to *end) {
	for left := share; !from.eof && !from.closed; {
		if to.pending() >= highWater {
			from.paused = true
			if from == &p.engine && from.hangup {
				p.expect(time.Now())
			}
			break
		}
		n, err := from.read(p.loop.plain[:])
		if n > 0 {
			p.deliver(from, to, p.loop.plain[:n])
		}
		if err != nil {
			if err != errAgain {
				p.ended(from, err)
			}
			break
		}
		if left -= n; left <= 0 {
			p.loop.again(&from.socket)
			break
		}
	}
	if p.over {
		return
	}
	from.keep()
	if !to.closed && to.flush() != nil {
		p.failed(to)
	}
}

// read returns as much as there is and fits.
func (e *end) read(b []byte) (int, error) {
	if e.tls == nil {
		if len(e.in) > 0 {
			return e.socket.Read(b)
		}
		return e.readInto(b)
	}
	total := 0
	for total < len(b) {
		n, err := e.tls.Read(b[total:])
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func (p *Pipe) deliver(from, to *end, b []byte) {
	p.moved.Add(1)
	p.used, p.loop.used = true, true
	n := uint64(len(b))
	if from == &p.client {
		p.asked = true
		if p.engineGone {
			if p.discarded += int64(n); p.discarded > p.cfg.LingerBytes {
				p.cut(Cut, nil)
			}
			return
		}
		// An engine that takes no more may still have last words under way (-ERR max number of clients reached), so
		// a failure here ends nothing: its own direction shows the end.
		if to.send(b) != nil {
			p.engineGone = true
			return
		}
		p.result.In += n
		if p.cfg.In != nil {
			p.cfg.In.Add(n)
		}
		return
	}
	p.asked = false
	var err error
	if to.tls != nil {
		_, err = to.tls.Write(b)
	} else {
		err = to.send(b)
	}
	if err != nil {
		return // flush reports it
	}
	p.result.Out += n
	if p.cfg.Out != nil {
		p.cfg.Out.Add(n)
	}
}

// ended is called when an end has said all, or broke.
func (p *Pipe) ended(e *end, err error) {
	if p.over {
		return
	}
	e.eof = true
	orderly := errors.Is(err, io.EOF)
	switch {
	case e == &p.engine:
		// A Unix socket whose peer closed with input unread says ECONNRESET instead of EOF, and only after everything that
		// the peer had written: so both are an end.
		if orderly {
			p.why(EngineClosed, nil)
		} else {
			p.why(EngineFailed, err)
		}
		p.sayGoodbye()
	case orderly:
		p.why(ClientClosed, nil)
		p.engine.shutdown = true
	default:
		p.cut(ClientFailed, err)
	}
}

// sayGoodbye passes the engine's end on. What the client sends from now on is thrown away.
func (p *Pipe) sayGoodbye() {
	p.engineGone = true
	p.engine.close()
	if p.client.tls != nil {
		p.client.tls.CloseWrite()
	}
	p.client.shutdown = true
	p.expect(time.Now())
	p.client.paused = false
	p.loop.again(&p.client.socket)
	if p.client.flush() != nil {
		p.failed(&p.client)
	}
}

// failed is called when an end takes no more.
func (p *Pipe) failed(e *end) {
	if e == &p.client {
		p.cut(ClientFailed, e.outErr)
		return
	}
	p.engineGone = true
	e.release()
}

// settle closes the pipe when both directions are done.
func (p *Pipe) settle() {
	if p.over {
		return
	}
	left := p.client.pending()
	if busy := p.asked && !p.engine.eof || left > 0; busy != p.wasBusy {
		p.wasBusy = busy
		p.busy.Store(busy)
	}
	if left == 0 && p.engine.eof && p.client.eof && p.client.finished {
		p.cut(Cut, nil) // the reason is known already
	}
}

// expect begins to measure how long the client takes over the last words of an engine that is gone.
func (p *Pipe) expect(now time.Time) {
	p.loop.waiting[p] = struct{}{}
	p.progressed, p.unsent = now, p.client.pending()
}

// tick looks at a pipe whose engine is gone.
func (p *Pipe) tick(now time.Time) {
	left := p.client.pending()
	waited := now.Sub(p.progressed)
	switch {
	case left != p.unsent:
		p.unsent, p.progressed = left, now
	case left > 0 && waited >= p.cfg.StallTime, left == 0 && waited >= p.cfg.LingerTime:
		p.cut(Cut, nil)
	}
}

// tidy frees what an idle connection doesn't need.
func (p *Pipe) tidy() {
	if p.used {
		p.used, p.loop.used = false, true // looked at again, once it is idle
		return
	}
	p.loop.freed.Add(uint64(freeInput(p.client.tls)))
}

func (p *Pipe) why(r Reason, err error) {
	if p.result.Ended == "" {
		p.result.Ended, p.result.Err = r, err
	}
}

// cut closes both ends at once.
func (p *Pipe) cut(r Reason, err error) {
	if p.over {
		return
	}
	p.over = true
	p.why(r, err)
	if !p.client.closed && p.client.pending() > 0 {
		p.client.flush() // crypto/tls has said what it thinks of a broken record
	}
	p.engine.close()
	p.client.close()
	delete(p.loop.waiting, p)
	p.finish()
}

func (p *Pipe) finish() {
	if p.cfg.Ended != nil {
		p.cfg.Ended(p.result)
	}
	close(p.done)
}

// abandon closes an end that no loop has taken.
func (e *end) abandon() { unix.Close(int(e.fd)) }
