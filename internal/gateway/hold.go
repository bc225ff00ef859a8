package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sealane/sealane/internal/relay"
)

const (
	// maxHold bounds the limit of a hold: clients wait for so long if the controller dies.
	maxHold = time.Minute
	// maxSettle is for how long a hold waits for what is in flight.
	maxSettle = 5 * time.Second
)

// holdBody is what is asked of POST /hold.
type holdBody struct {
	Limit time.Duration `json:"limit"`
}

// hold keeps clients' requests from the engine. See Client.Hold.
func (g *gateway) hold(w http.ResponseWriter, r *http.Request) error {
	var h holdBody
	if err := json.NewDecoder(io.LimitReader(r.Body, 4096)).Decode(&h); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidHold, err)
	}
	if h.Limit <= 0 || h.Limit > maxHold {
		return fmt.Errorf("%w: limit %v: must be more than 0, and %v at most", ErrInvalidHold, h.Limit, maxHold)
	}
	switch {
	case g.lifetime.accepting.Err() != nil:
		return ErrStopping
	case g.snapshots.active.Load() == nil:
		return fmt.Errorf("%w: no snapshot serves yet: apply one first", ErrInvalidHold)
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // what is in flight may take longer than a request may take to arrive
	err := g.loops.Hold(r.Context(), h.Limit, min(maxSettle, h.Limit/2))
	if busy := (*relay.BusyError)(nil); errors.As(err, &busy) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}
