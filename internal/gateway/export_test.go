package gateway

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"time"
)

// FirstLine shows the classifier.
func FirstLine(b []byte) string { return string(firstLine(b)) }

// OpenLogForTest is OpenLog with a limit that a test can reach.
func OpenLogForTest(path string, limit int64) (io.WriteCloser, error) { return openLog(path, limit) }

// ThrottleForTest shows when a topic may be logged.
func ThrottleForTest() func(topic string, now time.Time) (uint64, bool) {
	return newThrottle(slog.New(slog.DiscardHandler)).allow
}

// AcceptForTest offers a listener that cannot accept to a door, which looks every tenth of a second for so long, and
// returns how often it tried.
func AcceptForTest(address string, err error, duration time.Duration) (calls int, failure error) {
	g := newGateway(context.Background(), Config{Log: slog.New(slog.DiscardHandler)})
	d, failure := newDoor(g)
	if failure != nil {
		return 0, failure
	}
	go d.run()
	defer d.close()
	l, failure := d.listen(address)
	if failure != nil {
		return 0, failure
	}
	defer d.shut(l)
	l.next = func() (int, netip.AddrPort, error) { calls++; return -1, netip.AddrPort{}, err }
	d.mu.Lock()
	d.listeners[l.fd] = l
	d.mu.Unlock()
	start := time.Now()
	for now := start; now.Before(start.Add(duration)); now = now.Add(doorPace) {
		if d.tick(now); l.retry.IsZero() {
			d.accept(l, now)
		}
	}
	return calls, nil
}

// EncodeForTest is what goes to disk.
func EncodeForTest(s Snapshot) ([]byte, error) { return encodeSnapshot(s) }

// AlertForTest is the alert found in records that come in pieces of n bytes.
func AlertForTest(records []byte, n int) uint8 {
	var a alertWatch
	for len(records) > 0 {
		m := min(n, len(records))
		a.see(records[:m])
		records = records[m:]
	}
	return a.alert
}

// PeekForTest shows what the first bytes of a connection tell.
func PeekForTest(b []byte) (resumes bool, version uint16, complete bool) {
	g, complete := peek(b)
	return g.resumes, g.version, complete
}
