package e2e_test

import (
	"strings"
	"testing"
)

// Clients don't notice that the data path changes, and neither does a server that is killed lose it.
func TestDataPathChangesUnderALiveClient(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	first := s.create("first")
	ca := s.bundle("first")
	client := startStream(t, first, ca, "counter")
	for _, path := range []string{"multiplexed", "transparent", "multiplexed"} {
		s.cli("instances", "update", "first", "--data-path", path)
		client.wantProgress(t)
		if got, want := s.rest("GET", "/v1/projects/local/locations/local/instances/first/dataPlane", "").json(t)["dataPath"], strings.ToUpper(path); got != want {
			t.Errorf("data path: got %v, want %s", got, want)
		}
		s.wantPong(first, ca)
	}
	s.kill9(s.pid)
	s.waitEnd()
	s.start()
	client.wantProgress(t)
	if got := s.cli("instances", "describe", "first"); !strings.Contains(got, "MULTIPLEXED") {
		t.Errorf("after a restart: got %s", got)
	}
	client.wantUnnoticed(t)
}
