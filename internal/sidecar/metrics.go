package sidecar

import (
	"encoding/hex"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/firstline"
	"github.com/sealane/sealane/internal/relay"
)

// counters are a link's, since the start.
type counters struct {
	accepted, turnedAway, moved, refreshed, refreshFailed atomic.Uint64

	mu          sync.Mutex // guards the maps
	dials       map[string]uint64
	ends        map[relay.Reason]uint64
	misdirected map[firstline.Kind]uint64
}

func (c *counters) dialled(f *diagnosis.Fault) {
	result := "ok"
	if f != nil {
		result = f.Code
	}
	add(c, &c.dials, result)
}

func (c *counters) ended(r relay.Reason)       { add(c, &c.ends, r) }
func (c *counters) misdirect(k firstline.Kind) { add(c, &c.misdirected, k) }
func (c *counters) count(f func(*counters))    { c.mu.Lock(); defer c.mu.Unlock(); f(c) }

func add[K comparable](c *counters, m *map[K]uint64, k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *m == nil {
		*m = make(map[K]uint64)
	}
	(*m)[k]++
}

var (
	descReady       = desc("ready", "1 when clients are served, 0 when something keeps them from it.")
	descProblem     = desc("problem", "1 for each problem that there is now, by its code.", "code")
	descConnections = desc("connections", "Clients now.")
	descAccepted    = desc("connections_total", "Clients accepted.")
	descTurnedAway  = desc("turned_away_total", "How often clients were turned away because there was no free file descriptor.")
	descEnded       = desc("connections_ended_total", "Clients gone, by reason.", "reason")
	descMisdirected = desc("misdirected_total", "Clients that spoke the wrong protocol, by what they spoke.", "kind")
	descDials       = desc("dials_total", "Attempts to connect to the server, by result: ok, or the code of the fault.", "result")
	descMoved       = desc("moves_total", "How often clients were moved to fresh connections.")
	descRefreshes   = desc("refreshes_total", "How often it was asked where the server is and what to trust, by result.", "result")
	descCAs         = desc("ca_expiry_timestamp_seconds", "When a trusted CA expires, in seconds since 1970, by its key id.", "ca")
	descClientCert  = desc("client_certificate_expiry_timestamp_seconds", "When the client certificate expires, in seconds since 1970.")
	descBytes       = desc("bytes_total", "Bytes relayed, without TLS's own.", "direction")
	descRequests    = desc("requests_total", "Requests by the connection that carried them: shared or own.", "connection")
)

func desc(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc("sealane_sidecar_"+name, help, append([]string{"link"}, more...), nil)
}

type collector struct{ *Sidecar }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descReady, descProblem, descConnections, descAccepted, descTurnedAway, descEnded, descMisdirected, descDials, descMoved, descRefreshes,
		descCAs, descClientCert, descBytes, descRequests,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	for _, l := range c.links {
		l.collect(ch)
	}
}

func (l *link) collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{l.Name}, labels...)...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{l.Name}, labels...)...)
	}
	ready := 0.0
	if l.whyNotServed() == nil {
		ready = 1
	}
	gauge(descReady, ready)
	for _, code := range l.problemCodes() {
		gauge(descProblem, 1, code)
	}
	gauge(descConnections, float64(l.loops.Clients()))
	counter(descAccepted, l.counted.accepted.Load())
	counter(descTurnedAway, l.counted.turnedAway.Load())
	counter(descMoved, l.counted.moved.Load())
	counter(descRefreshes, l.counted.refreshed.Load(), "ok")
	counter(descRefreshes, l.counted.refreshFailed.Load(), "failed")
	l.counted.count(func(c *counters) {
		for result, n := range c.dials {
			counter(descDials, n, result)
		}
		for reason, n := range c.ends {
			counter(descEnded, n, string(reason))
		}
		for kind, n := range c.misdirected {
			counter(descMisdirected, n, string(kind))
		}
	})
	seen := make(map[string]bool)
	if t := l.known(); t != nil {
		if t.shows != nil {
			gauge(descClientCert, float64(t.shows.Leaf.NotAfter.Unix()))
		}
		for _, ca := range t.cas {
			if id := hex.EncodeToString(ca.SubjectKeyId); !seen[id] {
				seen[id] = true
				gauge(descCAs, float64(ca.NotAfter.Unix()), id)
			}
		}
	}
	n := l.loops.Counts()
	counter(descBytes, n.In, "in")
	counter(descBytes, n.Out, "out")
	counter(descRequests, n.Shared, "shared")
	counter(descRequests, n.Dedicated, "own")
}
