package gateway

import "sync"

// maxIdleWorkers is how many goroutines are kept for later.
const maxIdleWorkers = 32

// workers are the goroutines that do what may wait for a client, its handshake above all. They are used again: crypto/tls needs
// tens of KiB of stack, and a new goroutine would copy its own three times on the way there.
type workers struct {
	work func(*conn)

	mu     sync.Mutex // guards the rest
	idle   []chan *conn
	closed bool
}

// run does not wait: where no worker is idle there is one more.
func (w *workers) run(c *conn) {
	w.mu.Lock()
	if n := len(w.idle); n > 0 {
		next := w.idle[n-1] // the one with the warmest stack
		w.idle = w.idle[:n-1]
		w.mu.Unlock()
		next <- c
		return
	}
	w.mu.Unlock()
	go w.worker(c)
}

func (w *workers) worker(c *conn) {
	next := make(chan *conn, 1)
	for ok := true; ok; c, ok = <-next {
		w.work(c)
		w.mu.Lock()
		if w.closed || len(w.idle) >= maxIdleWorkers {
			w.mu.Unlock()
			return
		}
		w.idle = append(w.idle, next)
		w.mu.Unlock()
	}
}

// close lets idle workers end, and the others when they are done.
func (w *workers) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, next := range w.idle {
		close(next)
	}
	w.idle = nil
}
