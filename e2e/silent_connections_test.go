package e2e_test

import (
	"net"
	"strings"
	"testing"
	"time"
)

// A thousand silent connections lock nobody out, not even clients at the same address, and the operator is told.
func TestSilentConnectionsLockNobodyOut(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{files: 2400}) // 994 clients
	first := s.create("first")
	ca := s.bundle("first")
	const source, many = "127.0.0.1", 1200
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 10 * time.Second}
	for range many {
		conn, err := dialer.Dial("tcp", first.address())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	eventually(t, 10*time.Second, "all have come", func() bool {
		return s.metric("sealane_gateway_accepted_total") >= many
	})
	began := time.Now()
	s.wantPong(first, ca)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("redis-cli takes %v, want it to get in at once", took)
	}
	if got := s.cli("instances", "describe", "first"); !strings.Contains(got, source) || !strings.Contains(got, "have sent nothing") {
		t.Errorf("describe doesn't say that %s has connections that say nothing:\n%s", source, got)
	}
	if n := s.metric("sealane_gateway_unserved_connections", `stage="silent"`); n < 900 || n > 1024 {
		t.Errorf("%v silent connections in the metrics, want about 1,000", n)
	}
}
