package gateway

import (
	"errors"
	"time"
)

// serving is a valid snapshot with what is made of it for connections. It is immutable.
type serving struct {
	snapshot Snapshot
	digest   string
	modes    map[string]bool // by listener address; true: it has TLS
	chains   *chains         // nil when no listener has TLS
	behind   behind
	timeout  time.Duration // for a handshake, from the client's first byte
	// firstByte is how long a client of a listener with TLS may send nothing.
	firstByte time.Duration
}

// newServing is the one place where a snapshot is validated. Where the previous one has the same certificates and TLS policy, its TLS
// configurations are used again, because they hold the session-ticket keys: so a client can resume its session after an apply, but not
// after a change of any certificate. The configurations are never cloned, because a clone shares the keys of that moment (CVE-2025-68121).
func newServing(s Snapshot, previous *serving) (*serving, error) {
	p := s.check()
	v := &serving{snapshot: s, digest: s.Digest(), modes: make(map[string]bool), timeout: s.HandshakeTimeout, firstByte: s.FirstByteTimeout}
	if v.timeout == 0 {
		v.timeout = defaultHandshakeTimeout
	}
	if v.firstByte == 0 {
		v.firstByte = defaultFirstByteTimeout
	}
	for _, l := range s.Listeners {
		v.modes[l.Address] = l.TLS
	}
	if len(p) == 0 {
		var err error
		if v.behind, err = newBehind(s, previous); err != nil {
			p.add("backend.%w", err)
		}
	}
	if !s.hasTLS() {
		return v, errors.Join(p...)
	}
	if previous != nil && previous.chains != nil && previous.snapshot.sameTLS(s) {
		v.chains = previous.chains
		return v, errors.Join(p...)
	}
	var err error
	v.chains, err = newChains(s)
	return v, errors.Join(append(p, err)...)
}

// at returns what serves a connection that came in at address when accepted was active: v, which is the newest, or accepted where
// v does not have that address any more.
func (v *serving) at(address string, accepted *serving) *serving {
	if _, ok := v.modes[address]; ok {
		return v
	}
	return accepted
}
