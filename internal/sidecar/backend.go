package sidecar

import (
	"context"
	"strings"
	"syscall"

	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
)

// maxDials connections are made at a time: all clients of a server that was restarted want to be back at once.
const maxDials = 16

// backend is how relay's loops reach the server; t nil: they have to wait until more is known. What is known of the login they are
// told, also before it has worked: a connection that is set up without it is one of the server's default user.
func (l *link) backend(t *trust, generation uint64) *relay.Backend {
	b := &relay.Backend{
		Engine: l.Name, Generation: generation, Dial: l.dial, Name: "sealane-sidecar", ConnectTimeout: l.patience, Multiplexed: true,
		UnavailableReply: l.unavailableReply, Failed: func(error) { l.suspect(l.known()) },
	}
	if t == nil {
		return b
	}
	b.Login = t.server.login()
	l.mu.Lock()
	if l.wasWell {
		b.MinIdle = l.Warm
	}
	l.mu.Unlock()
	if !t.server.ClientsLogIn {
		b.Refused = func(string) bool { l.wasRefused(); return true }
	}
	return b
}

// publish tells the loops how the server is reached by t.
func (k *keeper) publish(t *trust) {
	k.published = t
	k.loops.SetBackend(k.backend(t, k.generation))
}

// unavailableReply is what a client reads that has waited for the server in vain. The loops ask for it when they need it, so a problem
// that comes, changes or ends needs no new backend.
func (l *link) unavailableReply() string {
	why := "connections to it end before they can be used"
	if f := l.whyNotServed(); f != nil {
		why = oneLine(f.Sentence)
	}
	return "-ERR the sidecar can't reach the server: " + why + ": retry with backoff\r\n"
}

func oneLine(s string) string { return strings.NewReplacer("\r", " ", "\n", " ").Replace(s) }

// dial makes a connection for the loops, once that may be done.
func (l *link) dial(ctx context.Context) (netloop.Conn, error) {
	for {
		t, err := l.waitAtGate(ctx)
		if err != nil {
			return netloop.Conn{}, err
		}
		if l.files.areShort(reservedFiles) {
			return netloop.Conn{}, l.areShort(syscall.EMFILE)
		}
		select {
		case l.dialSlots <- struct{}{}:
		case <-ctx.Done():
			return netloop.Conn{}, ctx.Err()
		}
		if !l.mayDial(t) { // no longer: another attempt has failed while this one waited for its turn
			<-l.dialSlots
			continue
		}
		end, f := t.dial(ctx)
		<-l.dialSlots
		switch {
		case f == nil:
			l.counted.dialled(nil)
			l.connected()
			return end, nil
		case ctx.Err() != nil:
			return netloop.Conn{}, f
		}
		l.counted.dialled(f)
		l.suspect(t)
	}
}
