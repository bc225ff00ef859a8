package gateway

import (
	"errors"
	"time"
)

// serving is a valid snapshot, made ready for connections. Immutable.
type serving struct {
	snapshot Snapshot
	digest   string
	modes    map[string]bool // by listener address: whether it has TLS
	chains   *chains         // nil when no listener has TLS
	timeout  time.Duration
	// firstByte is how long a client of a listener with TLS may send nothing.
	firstByte time.Duration
}

// newServing is the one place where a snapshot is validated. A predecessor with the same certificates and policy lends its
// TLS configurations, because they hold the session-ticket keys: a client resumes its session across an apply, and cannot
// across a change of any certificate. Clones of them would share the keys of the moment (CVE-2025-68121), so there are none.
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

// at returns what a connection accepted at address under the snapshot accepted is to be served with: always the newest,
// except where that one no longer has the address.
func (v *serving) at(address string, accepted *serving) *serving {
	if _, ok := v.modes[address]; ok {
		return v
	}
	return accepted
}
