package doctor

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Latency holds medians; 0: not measured.
type Latency struct {
	Connect          Milliseconds `json:"connectMs,omitempty"`
	Handshake        Milliseconds `json:"handshakeMs,omitempty"`
	ResumedHandshake Milliseconds `json:"resumedHandshakeMs,omitempty"`
	Ping             Milliseconds `json:"pingMs,omitempty"`
}

// Milliseconds is how long something took.
type Milliseconds float64

const (
	connections = 5 // of each kind are measured
	pings       = 15
)

// latencyStep measures what works: TCP connections, and where they verify, handshakes and PING.
func (d *diagnoser) latencyStep(ctx context.Context) finding {
	var connect, full, resumed, ping []time.Duration
	defer func() {
		d.latency = &Latency{median(connect), median(full), median(resumed), median(ping)}
	}()
	if d.session == nil { // nothing verifies
		connect = d.dialer.timeConnects(ctx)
		return ok("connect %s", median(connect))
	}
	once := func(t trust, times int) {
		s, err := d.dialer.open(ctx, t)
		if err != nil {
			return
		}
		defer s.close()
		connect = append(connect, s.connect)
		switch {
		case s.resumed:
			resumed = append(resumed, s.handshake)
		case !d.dialer.plain:
			full = append(full, s.handshake)
		}
		for range times {
			began := time.Now()
			if !d.answers || s.do(ctx, "PING").err != nil {
				return
			}
			ping = append(ping, time.Since(began))
		}
	}
	for range connections {
		once(trust{roots: d.roots}, pings/connections)
	}
	if !d.dialer.plain && d.answers {
		again := trust{roots: d.roots}
		again.cache = tls.NewLRUClientSessionCache(1)
		for range connections + 1 {
			once(again, 1) // a ticket comes after the handshake: with the reply to a PING
		}
	}
	parts := []string{"connect " + median(connect).String()}
	for _, p := range []struct {
		name string
		took []time.Duration
	}{{"handshake", full}, {"resumed handshake", resumed}, {"PING", ping}} {
		if len(p.took) > 0 {
			parts = append(parts, p.name+" "+median(p.took).String())
		}
	}
	if !d.dialer.plain && d.answers && len(resumed) == 0 {
		parts = append(parts, "no handshake is resumed")
	}
	return ok("%s", strings.Join(parts, ", "))
}

// timeConnects measures TCP connections alone.
func (d *dialer) timeConnects(ctx context.Context) (took []time.Duration) {
	for range connections {
		began := time.Now()
		conn, err := d.connect(ctx)
		if err != nil {
			break
		}
		took = append(took, time.Since(began))
		conn.Close()
	}
	return took
}

func median(d []time.Duration) Milliseconds {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return Milliseconds(d[len(d)/2].Round(time.Microsecond).Microseconds()) / 1000
}

func (m Milliseconds) String() string {
	if m >= 100 {
		return fmt.Sprintf("%.0f ms", float64(m))
	}
	return fmt.Sprintf("%.2g ms", float64(m))
}
