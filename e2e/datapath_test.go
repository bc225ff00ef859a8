package e2e_test

import "testing"

// dataPaths are the ways in which a gateway joins clients and engine. What is promised of one is promised of all: the
// corpus and the client libraries are run on each.
var dataPaths = []string{"transparent"}

// realClients says whether CLIENT LIST and its like show and act on the clients behind the gateway.
const realClients = false

// needRealClients skips a test that looks at clients through the engine.
func needRealClients(t *testing.T) {
	t.Helper()
	if !realClients {
		t.Skip("the engine still shows the gateway's Unix socket as the address of every client, so this cannot be shown yet")
	}
}

// onEveryDataPath runs a story once per data path.
func onEveryDataPath(t *testing.T, story func(t *testing.T, path string)) {
	t.Helper()
	for _, path := range dataPaths {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			story(t, path)
		})
	}
}

// createOn makes an instance that is on a data path.
func (s *server) createOn(path, name string, flags ...string) instance {
	s.t.Helper()
	i := s.create(name, flags...)
	s.useDataPath(name, path)
	return i
}

// useDataPath puts an instance on a data path.
func (s *server) useDataPath(name, path string) {
	s.t.Helper()
	if len(dataPaths) == 1 {
		return // there is one, and no command to choose it
	}
	s.cli("instances", "update", name, "--data-path", path)
}
