package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/ops"
)

// listenAdmin opens the admin socket. It is called with the folder locked, so a socket file that is there already belongs to nobody.
func listenAdmin(dir string) (net.Listener, error) {
	path := Socket(dir)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("open admin socket %s: the path has %d bytes, %d are possible: choose a shorter folder", path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace admin socket: %w", err)
	}
	// Linux gives the file the mode of the unbound socket, less the umask: it is 0600 from the start.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, failed)
	}}
	ln, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	return ln, nil
}

func (g *gateway) adminServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /snapshot", func(w http.ResponseWriter, r *http.Request) {
		s, err := decodeSnapshot(http.MaxBytesReader(w, r.Body, maxSnapshotBytes))
		if err != nil {
			reply(w, nil, fmt.Errorf("%w: %w", ErrInvalid, err))
			return
		}
		if err := g.snapshots.apply(s); err != nil {
			reply(w, nil, err)
			return
		}
		reply(w, g.status(), nil)
	})
	mux.HandleFunc("POST /hold", func(w http.ResponseWriter, r *http.Request) {
		err := g.hold(w, r)
		reply(w, g.status(), err)
	})
	mux.HandleFunc("POST /release", func(w http.ResponseWriter, _ *http.Request) {
		g.loops.Release()
		reply(w, g.status(), nil)
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { reply(w, g.status(), nil) })
	mux.HandleFunc("GET /ledger", func(w http.ResponseWriter, _ *http.Request) { reply(w, g.ledger(), nil) })
	mux.HandleFunc("GET /plaintext", func(w http.ResponseWriter, _ *http.Request) { reply(w, g.plaintextClients(), nil) })
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, r *http.Request) {
		// Draining may take longer than a request may take to arrive. Without this, ReadTimeout would cut off whoever waits for it.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		g.lifetime.requestStop()
		select {
		case <-g.lifetime.drained:
			reply(w, struct{}{}, nil)
		case <-r.Context().Done():
		}
	})
	s := ops.NewServer(mux)
	// One request per connection, so that at the end of Run no idle connection keeps Shutdown waiting.
	s.SetKeepAlivesEnabled(false)
	return s
}

// refusals maps the errors of apply and hold to HTTP status codes, for the server and for Client.
var refusals = []struct {
	err  error
	code int
}{
	{ErrInvalid, http.StatusBadRequest},
	{ErrStale, http.StatusConflict},
	{ErrStopping, http.StatusServiceUnavailable},
	{ErrInvalidHold, http.StatusUnprocessableEntity},
	{ErrBusy, http.StatusRequestTimeout},
}

type failureBody struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, body any, err error) {
	code := http.StatusOK
	if err != nil {
		code, body = http.StatusInternalServerError, failureBody{err.Error()}
		for _, r := range refusals {
			if errors.Is(err, r.err) {
				code = r.code
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // a caller who has gone needs no answer
}
