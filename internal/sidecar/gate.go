package sidecar

import "context"

// The gate is open while connections for clients may be made. This file also has what wakes the keeper, which opens it.

// waitAtGate returns what to connect by, once that may be done.
func (l *link) waitAtGate(ctx context.Context) (*trust, error) {
	for {
		l.mu.Lock()
		t, gate, open := l.trust, l.gate, l.gateOpen
		l.mu.Unlock()
		if open {
			return t, nil
		}
		select {
		case <-gate: // what is known now may be newer than what was known before
		case <-ctx.Done():
			if f := l.whyNotServed(); f != nil {
				return nil, f
			}
			return nil, ctx.Err()
		}
	}
}

// mayDial says whether attempts by t may be made now.
func (l *link) mayDial(t *trust) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gateOpen && l.trust == t
}

func (l *link) openGate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.gateOpen {
		l.gateOpen = true
		close(l.gate)
	}
}

func (l *link) closeGate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gateOpen {
		l.gateOpen, l.gate = false, make(chan struct{})
	}
}

// suspect is called when a connection could not be made by t.
func (l *link) suspect(t *trust) {
	l.mu.Lock()
	same := l.trust == t
	l.suspected = l.suspected || same
	l.mu.Unlock()
	if same {
		l.closeGate()
		l.wakeKeeper()
	}
}

// connected is called when a connection was made for a client. A server that was restarted may accept connections and refuse what is
// asked all the same, because it loads its data, or what it allows has changed.
func (l *link) connected() {
	l.mu.Lock()
	l.fresh = true
	l.mu.Unlock()
	l.wakeKeeper()
}

// wasRefused is called when the server refused a client's connection for its login.
func (l *link) wasRefused() {
	l.mu.Lock()
	l.refused = true
	l.mu.Unlock()
	l.wakeKeeper()
}

func (l *link) wakeKeeper() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
