package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"

	"github.com/sealane/sealane/internal/instance"
)

// The control socket is how `sealane stop` talks to the server: HTTP over a Unix socket in the state folder, which only the folder's
// owner can open.
//
//	POST /stop?force=false   stops everything; the answer is a stopEvent per line, as things happen, the last with the outcome

// stopRequest asks a running server to stop everything.
type stopRequest struct {
	force    bool
	progress func(instance.Name, string) // nil: nobody is told
	outcome  chan<- error
}

// stopEvent is a line of the answer to a request to stop, a JSON object each; the last one has the outcome.
type stopEvent struct {
	Progress string `json:"progress,omitempty"`
	Stopped  bool   `json:"stopped,omitempty"`
	Error    string `json:"error,omitempty"`
}

// serveControl serves the socket that `sealane stop` uses.
func (s *Server) serveControl() error {
	path := s.dir.Control()
	// The lock on the records is held: a socket that is there belongs to a server that died.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /stop", s.answerStop)
	s.serveOn("control socket", l, mux)
	return nil
}

// answerStop is the server's side of `sealane stop`.
func (s *Server) answerStop(w http.ResponseWriter, r *http.Request) {
	events, outcome := make(chan stopEvent, 16), make(chan error, 1)
	request := stopRequest{force: r.FormValue("force") == "true", outcome: outcome, progress: func(n instance.Name, what string) {
		select {
		case events <- stopEvent{Progress: n.ID + ": " + what}:
		default: // the caller is slow to read: the next one tells as much
		}
	}}
	select {
	case s.stopping <- request:
	case <-r.Context().Done():
		return
	}
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	for {
		var event stopEvent
		select {
		case event = <-events:
		case err := <-outcome:
			event.Stopped = err == nil
			if err != nil {
				event.Error = err.Error()
			}
		}
		// Whoever asked may have gone; everything is stopped all the same.
		out.Encode(event)
		flush.Flush()
		if event.Progress == "" {
			return
		}
	}
}
