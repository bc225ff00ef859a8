package backend_test

import (
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/enginetest"
)

func TestWhatInfoSays(t *testing.T) {
	t.Parallel()
	for info, want := range map[string]backend.Facts{
		"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\nserver_mode:standalone\r\n":      {Version: "8.1.1", Valkey: true, Mode: "standalone"},
		"redis_version:2.8.24\r\nredis_mode:standalone\r\nused_memory:862000\r\nused_memory_human:841K\r\nrole:master\r\n": {Version: "2.8.24", Mode: "standalone", Role: "master", UsedMemory: 862000},
		"redis_version:7.0.0-rc1\r\nredis_mode:\x1b[31m\r\nrole:" + strings.Repeat("x", 99) + "\r\nmaxclients:many\r\n":    {},
		"nothing": {}, "": {}, ":::\n\n:": {},
	} {
		if got := backend.ReadInfo(info); got != want {
			t.Errorf("%.80q: %+v; want %+v", info, got, want)
		}
	}
}

// What should be known of a server that serves: a replica, a node of a cluster, one with less room than the instance.
func TestWarningsOfRealServers(t *testing.T) {
	t.Parallel()
	binary := enginetest.All(t)[0].Path
	master := enginetest.Run(t, binary, "--maxclients", "50")
	host, port, _ := strings.Cut(master.Address, ":")
	for words, e := range map[string]*enginetest.Running{
		"maxclients": master, "replica": enginetest.Run(t, binary, "--replicaof", host+" "+port), "cluster": enginetest.Run(t, binary, "--cluster-enabled", "yes"),
	} {
		facts := reached(t, backend.Server{Address: e.Address})
		if all := strings.Join(facts.Warnings(65000), "\n"); !strings.Contains(all, words) {
			t.Errorf("%s: %q of %+v", words, all, facts)
		}
	}
	if all := (backend.Facts{Mode: "sentinel"}).Warnings(1); len(all) != 1 || !strings.Contains(all[0], "Sentinel") {
		t.Errorf("%q", all)
	}
}

// Whatever a server says of itself may be shown.
func FuzzInfo(f *testing.F) {
	f.Add("redis_version:7.2.4\r\nredis_mode:cluster\r\nrole:slave\r\nmaxclients:1\r\nused_memory:-5\r\n")
	f.Add("valkey_version:\x00\nserver_name:valkey\nrole:\u202e\n")
	f.Fuzz(func(t *testing.T, info string) {
		facts := backend.ReadInfo(info)
		for _, shown := range append(facts.Warnings(10), facts.Name(), facts.Role, facts.Mode) {
			for _, c := range shown {
				if c < ' ' || c > '~' {
					t.Fatalf("%q shows %q", info, shown)
				}
			}
		}
	})
}
