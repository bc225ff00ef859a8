package rehearsal

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sealane/sealane/internal/ledger"
)

// This file says how a client refused a certificate, by what the gateway counts. The client's own error messages differ from
// library to library, and some libraries have none.

// refusals are the gateway's classes of failed handshakes that mean that the client did not accept the certificate, with words
// for each. If several were counted, the first one in this order is the reason.
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
	withoutAlert = "without an alert" // weaker evidence
)

// handshakes are the numbers of failed handshakes by class.
type handshakes map[string]uint64

func (re *rehearsal) handshakes(ctx context.Context) (handshakes, error) {
	plane, err := re.Manager.DataPlanes.Get(ctx, re.Name)
	if err == nil && plane.Failures == nil {
		err = fmt.Errorf("%w: its gateway does not answer", ErrLate)
	}
	return maps.Clone(plane.Failures), err
}

// awaitRefusal says in words how the client of an ended run refused a certificate; "": it did not. The gateway may know that only a
// moment after the client has ended, so awaitRefusal waits until the gateway has no connection left.
func (re *rehearsal) awaitRefusal(ctx context.Context, r *run) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for {
		plane, err := re.Manager.DataPlanes.Get(ctx, re.Name)
		if err != nil {
			return "", err
		}
		now, gone := handshakes(plane.Failures), plane.Connections == 0
		if how := now.refusalSince(r.before); how != "" || gone {
			return how, nil
		}
		select {
		case <-ctx.Done():
			return "", nil // another client is connected, or the client left a process behind
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// refusalSince says in words how certificates were refused since the earlier count; "": they were not.
func (h handshakes) refusalSince(before handshakes) string {
	for _, r := range refusals {
		if h[r.class] > before[r.class] {
			return r.how
		}
	}
	return ""
}

// connected says whether the client ever completed a handshake.
func (re *rehearsal) connected(ctx context.Context) (bool, error) {
	known, err := re.Manager.Clients.List(ctx, re.Name)
	return slices.ContainsFunc(known.Clients, func(c ledger.Status) bool { return c.User != "" }), err
}
