// Package replicationlink lets the replicas on an instance's other nodes replicate from an engine that listens on a Unix socket only. It
// is a port with mutual TLS: who shows a certificate of the instance's nodes is logged in at the engine and reaches it, byte for byte.
//
// Guaranteed:
//   - Nobody reaches the engine without a certificate of one of the authorities that has the identity, and with it as the user
//     "replication" only.
//   - A change of the certificate or of the authorities does not touch links that are up, as long as what the replica has shown is by one
//     of the authorities. So a rotation does not begin a full synchronisation again, and a CA that was given up lets nobody stay.
//   - After a change to Closed, or to another engine, no byte goes over a link that was up before.
//   - Connections without a certificate are bounded in number and time. The key and the password are in no error, log or status.
//
// Not guaranteed: that a link is of any use to the replica. Replication itself is between the engines.
package replicationlink

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// maxPending is how many may be without a certificate at a time. For one more, the oldest is closed.
	maxPending = 32
	// acceptPause is between two attempts where accepting fails: most likely there is no descriptor left.
	acceptPause = 100 * time.Millisecond
)

// keepAlive finds a replica whose machine has vanished after 25 seconds.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// Status is who replicates, and who was not let in.
type Status struct {
	Replicas []Replica `json:"replicas,omitempty"` // by Since
	// Refused counts the connections that were refused, by reason (see refusal.go). Reasons that never occurred are left out.
	Refused map[string]uint64 `json:"refused,omitempty"`
	// BytesOut counts what replicas were sent, BytesIn what they sent, both without TLS.
	BytesOut uint64 `json:"bytes_out,omitempty"`
	BytesIn  uint64 `json:"bytes_in,omitempty"`
}

// Replica is one link that is up. An engine may have two at a time while it synchronises.
type Replica struct {
	Address  string    `json:"address"`
	Since    time.Time `json:"since"`
	BytesOut uint64    `json:"bytes_out"`
	BytesIn  uint64    `json:"bytes_in"`
}

// Listener is the port, and the links that were made through it. Prepare, Commit, Discard and Close are called by one at a time; Status by
// anybody.
type Listener struct {
	log     *slog.Logger
	warn    func(topic, message string, args ...any) // bounded in how often it logs
	refused tally
	running sync.WaitGroup

	mu      sync.Mutex // guards what follows
	port    net.Listener
	serving *Prepared
	peers   map[*peer]struct{} // all that were accepted and have not ended
	pending []*peer            // those of them without a certificate, the oldest first
	before  Status             // what links carried that have ended
}

// New returns a Listener that lets nobody in. warn logs what could be caused by anybody, and is to bound how often.
func New(log *slog.Logger, warn func(topic, message string, args ...any)) *Listener {
	return &Listener{log: log, warn: warn, refused: newTally(), peers: make(map[*peer]struct{})}
}

// Prepared is a Config whose port is open. Nobody is accepted there until Commit.
type Prepared struct {
	config *Config // nil: there is no replication
	tls    *tls.Config
	port   net.Listener // nil: the one that is open stays, or none is needed
}

// Prepare makes a Config ready to take effect, without any effect yet. Nil is for no replication.
func (l *Listener) Prepare(ctx context.Context, c *Config) (*Prepared, error) {
	if c == nil {
		return &Prepared{}, nil
	}
	config, problems := c.tls()
	if len(problems) > 0 {
		return nil, problems[0]
	}
	p := &Prepared{config: c, tls: config}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.port != nil && l.serving.config.Address == c.Address {
		return p, nil
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	var err error
	if p.port, err = lc.Listen(ctx, "tcp", c.Address); err != nil {
		return nil, fmt.Errorf("open replication listener %s: %w", c.Address, err)
	}
	return p, nil
}

// trusts says whether a certificate that was shown at a time is one of the instance's nodes, by the authorities of now.
func (p *Prepared) trusts(chain []*x509.Certificate, shown time.Time) bool {
	opts := x509.VerifyOptions{
		Roots: p.tls.ClientCAs, Intermediates: x509.NewCertPool(), CurrentTime: shown, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	return err == nil && hasIdentity(chain, p.config.Identity)
}

// Discard gives up what was prepared.
func (p *Prepared) Discard() {
	if p.port != nil {
		p.port.Close()
	}
}

// Commit makes p take effect. When it returns, what is not to go on has ended.
func (l *Listener) Commit(p *Prepared) {
	l.mu.Lock()
	closing := l.port
	switch {
	case p.port != nil:
		l.port = p.port
		l.running.Go(func() { l.accept(p.port) })
	case p.config == nil:
		l.port = nil
	default:
		closing = nil
	}
	before := l.serving
	l.serving = p
	var cut []*peer
	if before != nil && before.config != nil && (p.config == nil || p.config.Closed || p.config.Engine != before.config.Engine) {
		for x := range l.peers {
			cut = append(cut, x)
		}
	} else if p.config != nil {
		for x := range l.peers {
			if x.chain != nil && !p.trusts(x.chain, x.shown) {
				cut = append(cut, x)
			}
		}
	}
	l.mu.Unlock()
	if closing != nil {
		closing.Close()
	}
	for _, x := range cut {
		x.cut()
	}
	for _, x := range cut {
		<-x.done
	}
}

// Close ends everything, and returns when it has ended.
func (l *Listener) Close() {
	l.Commit(&Prepared{})
	l.running.Wait()
}

// StopAccepting closes the port. Links that are up stay.
func (l *Listener) StopAccepting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.port != nil {
		l.port.Close()
	}
}

// accept lets connections in until the port is closed.
func (l *Listener) accept(port net.Listener) {
	for {
		conn, err := port.Accept()
		if err == nil {
			l.begin(conn.(*net.TCPConn))
			continue
		}
		if closed(err) {
			return
		}
		l.warn("replication accept", "replica cannot be accepted, trying again", "error", err)
		time.Sleep(acceptPause)
	}
}

// begin begins a connection.
func (l *Listener) begin(conn *net.TCPConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.serving
	if s.config == nil || s.config.Closed {
		conn.Close()
		l.refuse(conn.RemoteAddr(), refusedClosed, nil)
		return
	}
	if len(l.pending) >= maxPending {
		l.pending[0].crowd()
		l.pending = l.pending[1:]
	}
	p := newPeer(conn, s)
	l.peers[p] = struct{}{}
	l.pending = append(l.pending, p)
	l.running.Go(func() {
		defer close(p.done)
		defer l.forget(p)
		l.serve(p)
	})
}

// admitted notes what p has shown, and says whether it may go on.
func (l *Listener) admitted(p *peer, chain []*x509.Certificate) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = slices.DeleteFunc(l.pending, func(x *peer) bool { return x == p })
	p.chain, p.shown = chain, time.Now()
	return p.serving == l.serving || l.serving.config != nil && l.serving.trusts(chain, p.shown) // there may have been a change meanwhile
}

func (l *Listener) forget(p *peer) {
	p.cut()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.peers, p)
	l.pending = slices.DeleteFunc(l.pending, func(x *peer) bool { return x == p })
	l.before.BytesOut += p.out.Load()
	l.before.BytesIn += p.in.Load()
}

// refuse counts and logs a connection that does not become a link.
func (l *Listener) refuse(from net.Addr, r refusal, err error) {
	args := []any{"from", from.String(), "reason", r.reason}
	if err != nil {
		args = append(args, "error", err)
	}
	l.warn("replication "+r.reason, "replica refused", append(args, "hint", r.hint)...)
	l.refused[r.reason].Add(1) // who sees the count finds the line in the log
}

// Status says who replicates now.
func (l *Listener) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.before
	s.Refused = l.refused.load()
	for p := range l.peers {
		out, in := p.out.Load(), p.in.Load()
		s.BytesOut += out
		s.BytesIn += in
		if since := p.since.Load(); since != nil {
			s.Replicas = append(s.Replicas, Replica{p.conn.RemoteAddr().String(), *since, out, in})
		}
	}
	slices.SortFunc(s.Replicas, func(a, b Replica) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Address, b.Address))
	})
	return s
}
