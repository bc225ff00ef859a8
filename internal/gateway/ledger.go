package gateway

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/relay"
)

const (
	// maxEvidence is how many clients are remembered; the one that was seen least recently makes room.
	maxEvidence = 4096
	// forgetAfter is for how long one that does not come any more is.
	forgetAfter = 90 * 24 * time.Hour
	ledgerPace  = time.Minute

	// DeclaresCA begins a protocol (ALPN) by which a client says that it trusts a CA: a name of Snapshot.Anchors follows.
	DeclaresCA = "sealane-ca/"
	// NoClient is a protocol that the controller offers when it looks at its gateway itself: it is not noted.
	NoClient = "sealane-proof"
)

// Peer is who is noted: as much as is known of a client. Behind an address translator several look like one.
type Peer struct {
	Address string `json:"address"` // without a port
	Name    string `json:"name,omitempty"`
	Library string `json:"library,omitempty"`
	User    string `json:"user,omitempty"`
}

// Evidence is what a client has shown, by the names of anchors.
type Evidence struct {
	Peer
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Proven is when it last completed a full handshake on a chain that only this CA verifies. (A resumed session shows
	// nothing, golang/go#77217.)
	Proven map[string]time.Time `json:"proven,omitempty"`
	// Declared is when it last said, by DeclaresCA, that it trusts the CA.
	Declared map[string]time.Time `json:"declared,omitempty"`
	// Failed is when it last refused a chain that it would have taken had it trusted the CA.
	Failed map[string]Refusal `json:"failed,omitempty"`
}

// Refusal is how a client refused a chain.
type Refusal struct {
	Time time.Time `json:"time"`
	Why  string    `json:"why"` // the class of the failed handshake, as in Status.Failures; "eof" and "reset" tell less than the others
}

// Ledger is what a gateway knows of its clients' trust.
type Ledger struct {
	Since   time.Time  `json:"since"` // when it was begun
	Clients []Evidence `json:"clients"`
	// Evicted counts the clients that had to make room for others.
	Evicted uint64 `json:"evicted"`
	// Sampled counts the handshakes that were shown Next for Sampling's sake, SamplesFailed those that failed for it.
	Sampled       uint64 `json:"sampled"`
	SamplesFailed uint64 `json:"samples_failed"`
}

// ledger gathers Evidence, and keeps it in a file.
type ledger struct {
	file string

	mu      sync.Mutex // guards all of it
	all     map[Peer]*Evidence
	total   Ledger            // without Clients
	changed bool              // since it was saved
	hour    time.Time         // that budget is of
	budget  int               // samples taken in it
	failed  map[string]string // by address: the anchor of a sample that it refused
}

func ledgerFile(dir string) string { return filepath.Join(dir, "ledger.json") }

// openLedger begins with what the file has. One that is not there or damaged is no reason not to serve: then it begins anew.
func openLedger(dir string) (*ledger, error) {
	l := &ledger{file: ledgerFile(dir), all: make(map[Peer]*Evidence), failed: make(map[string]string)}
	l.total.Since = time.Now().UTC()
	text, err := os.ReadFile(l.file)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	var kept Ledger
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil {
		return l, err
	}
	for _, e := range kept.Clients {
		l.all[e.Peer] = &e
		for anchor := range e.Failed {
			l.failed[e.Address] = anchor
		}
	}
	kept.Clients = nil
	l.total = kept
	return l, nil
}

// save writes the file if there is something new.
func (l *ledger) save() error {
	l.mu.Lock()
	changed := l.changed
	l.changed = false
	l.mu.Unlock()
	if !changed {
		return nil
	}
	text, err := json.Marshal(l.show())
	if err == nil {
		err = durable.WriteFile(l.file, append(text, '\n'), 0o600)
	}
	if err != nil {
		l.mu.Lock()
		l.changed = true
		l.mu.Unlock()
	}
	return err
}

// show returns a copy, in which who was seen last comes first.
func (l *ledger) show() Ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.total
	out.Clients = make([]Evidence, 0, len(l.all))
	for who, e := range l.all {
		if time.Since(e.Last) > forgetAfter {
			delete(l.all, who)
			continue
		}
		c := *e
		c.Proven, c.Declared, c.Failed = cloneMap(e.Proven), cloneMap(e.Declared), cloneMap(e.Failed)
		out.Clients = append(out.Clients, c)
	}
	slices.SortFunc(out.Clients, func(a, b Evidence) int {
		if d := b.Last.Compare(a.Last); d != 0 {
			return d
		}
		return strings.Compare(a.Address+a.Name+a.Library+a.User, b.Address+b.Name+b.Library+b.User)
	})
	return out
}

func cloneMap[V any](m map[string]V) map[string]V {
	if m == nil {
		return nil
	}
	out := make(map[string]V, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// of returns the entry of a client, with mu held.
func (l *ledger) of(who Peer, now time.Time) *Evidence {
	e := l.all[who]
	if e == nil {
		if len(l.all) >= maxEvidence {
			var oldest *Evidence
			for _, o := range l.all {
				if oldest == nil || o.Last.Before(oldest.Last) {
					oldest = o
				}
			}
			delete(l.all, oldest.Peer)
			l.total.Evicted++
		}
		e = &Evidence{Peer: who, First: now}
		l.all[who] = e
	}
	if now.After(e.Last) {
		e.Last = now
	}
	l.changed = true
	return e
}

func put[V any](m *map[string]V, key string, v V) {
	if *m == nil {
		*m = make(map[string]V)
	}
	(*m)[key] = v
}

// shown is what a handshake has shown.
type shown struct {
	anchors  []string // of the chain; nil until there was a ClientHello
	declared []string
	sampled  bool
	resumed  bool
	nobody   bool      // it is the controller
	at       time.Time // its end; zero: it did not come to one
}

// noteClient enters what is known of a client that is served, or was until now.
func (l *ledger) noteClient(address string, s *relay.Session, h shown, now time.Time) {
	if h.nobody || h.at.IsZero() {
		return
	}
	who := Peer{Address: address}
	if s != nil {
		who.Name, who.Library, who.User = s.Client()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.of(who, now.UTC().Truncate(time.Second))
	at := h.at.UTC().Truncate(time.Second)
	if len(h.anchors) == 1 && !h.resumed {
		put(&e.Proven, h.anchors[0], at)
	}
	for _, anchor := range h.declared {
		put(&e.Declared, anchor, at)
	}
}

// noteRefusal enters a handshake that the client broke off after it had seen the chain.
func (l *ledger) noteRefusal(address, class string, h shown, now time.Time) {
	switch class {
	case "unknown_ca", "bad_certificate", "certificate_unknown", failEOF.class, failReset.class:
	default:
		return
	}
	if h.nobody || h.anchors == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := now.UTC().Truncate(time.Second)
	e := l.of(Peer{Address: address}, at)
	for _, anchor := range h.anchors {
		put(&e.Failed, anchor, Refusal{at, class})
		if h.sampled {
			l.failed[address] = anchor
		}
	}
	if h.sampled {
		l.total.SamplesFailed++
	}
}

// sample says whether a client that asked for nothing in particular is shown the next chain.
func (l *ledger) sample(s Sampling, address, anchor string, now time.Time) bool {
	if rand.Float64()*100 >= s.Percent {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed[address] == anchor {
		return false // it has paid for the answer
	}
	if hour := now.Truncate(time.Hour); !hour.Equal(l.hour) {
		l.hour, l.budget = hour, 0
	}
	if l.budget >= s.PerHour {
		return false
	}
	l.budget++
	l.total.Sampled++
	return true
}

// shownNext decides which chain the client is shown, and notes it.
func (c *conn) shownNext(h *tls.ClientHelloInfo) bool {
	s := c.served.snapshot
	c.shown = shown{anchors: s.Anchors, nobody: slices.Contains(h.SupportedProtos, NoClient)}
	for _, p := range h.SupportedProtos {
		if anchor, ok := strings.CutPrefix(p, DeclaresCA); ok && len(c.shown.declared) < 8 {
			c.shown.declared = append(c.shown.declared, anchor)
		}
	}
	next := false
	switch {
	case s.Next == nil:
	case strings.EqualFold(h.ServerName, s.Next.Name):
		next = true
	case s.Sampling != nil && !c.shown.nobody && !c.resumes:
		next = c.door.g.ledger.sample(*s.Sampling, c.remote.Addr().String(), s.Next.Anchors[0], time.Now())
		c.shown.sampled = next
	}
	if next {
		c.shown.anchors = s.Next.Anchors
	}
	return next
}

// showLedger is the ledger with those who are connected now.
func (g *gateway) showLedger() Ledger {
	now := time.Now()
	g.each(func(c *conn) {
		if p := c.pipe.Load(); p != nil {
			g.ledger.noteClient(c.remote.Addr().String(), p, c.shown, now)
		}
	})
	return g.ledger.show()
}

// keepLedger saves the ledger now and then, and at the end.
func (g *gateway) keepLedger() {
	tick := time.NewTicker(ledgerPace)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.showLedger()
			if err := g.ledger.save(); err != nil {
				g.lines.warn("ledger", "what clients have shown of their trust cannot be kept on disk, trying again", "error", err)
			}
		case <-g.accepting.Done():
			return
		}
	}
}

// Ledger asks what is known of the clients' trust.
func (c *Client) Ledger(ctx context.Context) (Ledger, error) {
	var l Ledger
	err := c.do(ctx, http.MethodGet, "/ledger", nil, &l)
	return l, err
}
