package gateway

import "sync"

// maxIdleWorkers is how many goroutines are kept for later.
const maxIdleWorkers = 32

// crew runs the blocking part of a connection's life, its handshake above all. Goroutines are used again: crypto/tls needs
// tens of KiB of stack, and a new goroutine would copy its own three times on the way there.
type crew struct {
	work func(*conn)

	mu     sync.Mutex // guards the rest
	idle   []chan *conn
	closed bool
}

func (k *crew) run(c *conn) {
	k.mu.Lock()
	if n := len(k.idle); n > 0 {
		w := k.idle[n-1] // the one with the warmest stack
		k.idle = k.idle[:n-1]
		k.mu.Unlock()
		w <- c
		return
	}
	k.mu.Unlock()
	go k.worker(c)
}

func (k *crew) worker(c *conn) {
	next := make(chan *conn, 1)
	for ok := true; ok; c, ok = <-next {
		k.work(c)
		k.mu.Lock()
		if k.closed || len(k.idle) >= maxIdleWorkers {
			k.mu.Unlock()
			return
		}
		k.idle = append(k.idle, next)
		k.mu.Unlock()
	}
}

// close lets idle goroutines end, and the others when they are done.
func (k *crew) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, w := range k.idle {
		close(w)
	}
	k.idle = nil
}
