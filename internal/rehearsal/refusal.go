package rehearsal

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sealane/sealane/internal/ledger"
)

// What a client does with the certificates that it is shown, as the gateway sees it. The client's own words differ from library
// to library, and some have none.

// refusals are the failed handshakes by which a client says that it does not take a certificate, in words; the gateway's
// classes. The first that was seen is the reason.
var refusals = []struct{ class, how string }{
	{"unknown_ca", unknownCA},
	{"bad_certificate", "with the alert bad_certificate"},
	{"certificate_unknown", "with the alert certificate_unknown"},
	{"unsupported_certificate", "with the alert unsupported_certificate"},
	{"certificate_expired", "with the alert certificate_expired"},
	{"client_handshake_failure", "with the alert handshake_failure"},
	{"client_alert", "with an alert that names no reason"},
	{"eof", withoutAlert},
	{"reset", withoutAlert},
}

const (
	unknownCA    = "with the alert unknown_ca"
	withoutAlert = "without an alert" // lesser evidence
)

// handshakes counts the failed ones by class.
type handshakes map[string]uint64

func (l *live) handshakes(ctx context.Context) (handshakes, error) {
	plane, err := l.Manager.DataPlanes.Get(ctx, l.Name)
	if err == nil && plane.Failures == nil {
		err = fmt.Errorf("%w: its gateway does not answer", ErrLate)
	}
	return maps.Clone(plane.Failures), err
}

// refusal is how the client of a run that has ended refused a certificate, in words; "": it didn't. The gateway may know a moment
// after the client has ended: once it has no connection left.
func (l *live) refusal(ctx context.Context, r *run) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for {
		plane, err := l.Manager.DataPlanes.Get(ctx, l.Name)
		if err != nil {
			return "", err
		}
		now, gone := handshakes(plane.Failures), plane.Connections == 0
		if how := now.refused(r.before); how != "" || gone {
			return how, nil
		}
		select {
		case <-ctx.Done():
			return "", nil // somebody else is connected, or the client left something behind
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// refused says how certificates were refused since before; "": they weren't.
func (h handshakes) refused(before handshakes) string {
	for _, r := range refusals {
		if h[r.class] > before[r.class] {
			return r.how
		}
	}
	return ""
}

// connected says whether the client has ever completed a handshake.
func (l *live) connected(ctx context.Context) (bool, error) {
	known, err := l.Manager.Clients.List(ctx, l.Name)
	return slices.ContainsFunc(known.Clients, func(c ledger.Status) bool { return c.User != "" }), err
}
