package gateway_test

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

const full = "-ERR max number of clients reached\r\n"

func limited(t *testing.T, clients int) *world {
	t.Helper()
	w := newWorld(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	s := w.snapshot(1)
	s.MaxClients = clients
	w.apply(s)
	return w
}

// served connects and is served.
func (w *world) served() *tls.Conn {
	w.t.Helper()
	c := w.dial()
	roundTrip(w.t, c, "hello")
	return c
}

func (w *world) wantRefused() {
	w.t.Helper()
	c := w.dial()
	send(w.t, c, "PING\r\n") // so that a careless close would reset the connection
	if got, err := io.ReadAll(c); string(got) != full || err != nil {
		w.t.Errorf("client beyond the limit read %q, %v; want %q", got, err, full)
	}
}

func TestClientBeyondTheLimitIsToldSoOverTLS(t *testing.T) {
	t.Parallel()
	w := limited(t, 2)
	first := w.served()
	w.served()
	w.wantRefused()
	if st := w.status(); st.Clients != 2 || st.Limit != 2 || st.Rejected != 1 || st.LimitedBy != "" {
		t.Errorf("status %+v; want 2 clients of 2, 1 rejected", st)
	}
	first.Close()
	eventually(t, "the place is free again", func() bool { return w.status().Clients == 1 })
	w.served()
}

func TestLimitChangesLive(t *testing.T) {
	t.Parallel()
	w := limited(t, 1)
	old := w.served()
	w.wantRefused()
	s := w.snapshot(2)
	s.MaxClients = 3
	w.apply(s)
	w.served()
	more := w.served()
	s.Generation, s.MaxClients = 3, 1
	w.apply(s)
	w.wantRefused()
	// No client is disconnected because the limit is lower now.
	roundTrip(t, old, "still here")
	roundTrip(t, more, "still here")
}

func TestLimitCountsPlainClientsToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fakeEngine(t, w.engine, echo)
	w.run()
	s := w.plain(1)
	s.MaxClients = 1
	w.apply(s)
	first := dialTCP(t, w.addr)
	roundTrip(t, first, "hello")
	second := dialTCP(t, w.addr)
	send(t, second, "PING\r\n")
	if got, err := io.ReadAll(second); string(got) != full || err != nil {
		t.Errorf("read %q, %v; want %q", got, err, full)
	}
	if got := w.status().Rejected; got != 1 {
		t.Errorf("%d rejected; want 1", got)
	}
}

func TestLimitOfOpenFilesIsSaidPlainly(t *testing.T) {
	t.Parallel()
	w := limited(t, 1<<30)
	st := w.status()
	if st.Limit <= 0 || st.Limit >= 1<<30 || st.LimitedBy == "" {
		t.Errorf("limit %d, reason %q; want what the machine allows, and why", st.Limit, st.LimitedBy)
	}
	w.served()
}

func TestNegativeLimitIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.snapshot(1)
	s.MaxClients = -1
	if err := s.ValidateForTest(); err == nil {
		t.Error("max_clients -1 is accepted")
	}
}

// Pools, and redis-benchmark, open all their connections before the first handshake.
func TestManySilentConnectionsAreServedWhenTheySpeak(t *testing.T) {
	t.Parallel()
	const clients = 1100
	w := limited(t, 2000)
	silent := make([]*net.TCPConn, clients)
	for i := range silent {
		silent[i] = dialTCP(t, w.addr)
	}
	eventually(t, "all are accepted", func() bool { return w.status().Connections == clients })
	for _, raw := range silent {
		if err := raw.SetDeadline(time.Now().Add(patience)); err != nil { // for each its own: a busy machine takes long for all
			t.Fatal(err)
		}
		roundTrip(t, tls.Client(raw, w.trust()), "hello")
	}
	if st := w.status(); st.Clients != clients || st.Rejected != 0 {
		t.Errorf("%d clients, %d rejected; want %d and none", st.Clients, st.Rejected, clients)
	}
}
