package e2e_test

import (
	"strings"
	"testing"
)

// dataPaths are the data paths of a gateway. Each makes the same promises, so the corpus and the client libraries run on each.
var dataPaths = []string{"transparent", "multiplexed"}

// onEveryDataPath runs a test once per data path.
func onEveryDataPath(t *testing.T, story func(t *testing.T, path string)) {
	t.Helper()
	for _, path := range dataPaths {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			story(t, path)
		})
	}
}

// createOn creates an instance with a data path.
func (s *server) createOn(path, name string, flags ...string) instance {
	s.t.Helper()
	i := s.create(name, flags...)
	s.useDataPath(name, path)
	return i
}

// useDataPath switches an instance to a data path.
func (s *server) useDataPath(name, path string) {
	s.t.Helper()
	s.cli("instances", "update", name, "--data-path", path)
}

// Clients don't notice a change of the data path, and the choice survives a server that is killed.
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
