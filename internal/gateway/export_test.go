package gateway

import (
	"context"
	"io"
	"log/slog"
	"net"
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

// AcceptForTest runs one accept loop until ctx ends.
func AcceptForTest(ctx context.Context, ln net.Listener) {
	g := newGateway(ctx, Config{Log: slog.New(slog.DiscardHandler)})
	g.accept(ln, "test")
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
