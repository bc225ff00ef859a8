package e2e_test

import (
	"os"
	"strings"
	"testing"
)

// SEALANE_CLIENTS=all gives tests under load 200 clients. It is read here because TestMain removes Sealane's variables.
var loadClients = func() int {
	if os.Getenv("SEALANE_CLIENTS") == "all" {
		return 200
	}
	return 60
}()

// The size and every parameter change while clients write, and no client notices.
func TestLiveUpdatesUnderLoad(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"transparent", "multiplexed"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, serverOptions{})
			i := s.createOn(path, "first")
			ca := s.bundle("first")
			clients := startCrowd(t, i, ca, loadClients)
			engine := s.node("engine")
			for _, c := range []struct{ flags, directive, want string }{
				{"--size 4", "maxmemory", "4294967296"},
				{"--update-redis-config maxmemory-gb=2.5,maxmemory-policy=allkeys-lru", "maxmemory", "2684354560"},
				{"--update-redis-config timeout=300", "maxmemory-policy", "allkeys-lru"},
				{"--update-redis-config notify-keyspace-events=KEA", "notify-keyspace-events", "AKE"},
				{"--remove-redis-config maxmemory-gb,notify-keyspace-events", "maxmemory", "4294967296"},
				{"--update-redis-config stream-node-max-entries=7 --display-name x", "notify-keyspace-events", ""},
				{"--update-redis-config lazyfree-lazy-expire=yes,lfu-log-factor=5,lfu-decay-time=2", "stream-node-max-entries", "7"},
				{"--remove-redis-config maxmemory-policy,stream-node-max-entries", "maxmemory-policy", "volatile-lru"},
				{"--persistence-mode rdb --rdb-snapshot-period 1h", "lfu-log-factor", "5"},
				{"--size 1", "maxmemory", "1073741824"},
			} {
				s.cli(append([]string{"instances", "update", "first"}, strings.Fields(c.flags)...)...)
				got := strings.Fields(s.redis(i, ca, "CONFIG", "GET", c.directive))
				if len(got) == 1 {
					got = append(got, "")
				}
				if len(got) != 2 || got[1] != c.want {
					t.Errorf("after %s: %s is %q; want %q", c.flags, c.directive, got, c.want)
				}
			}
			clients.wantUnnoticed()
			if now := s.node("engine"); now != engine {
				t.Errorf("the engine was process %d and is %d: it was restarted", engine, now)
			}
			refused := s.cliFails(1, "instances", "update", "first", "--update-redis-config", "databases=3")
			if !strings.Contains(refused, `redis_configs["databases"]`) {
				t.Errorf("another number of databases: %s", refused)
			}
		})
	}
}

// An instance isn't made smaller than its data.
func TestScaleDownBelowTheDataIsRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	i := s.create("first", "--size", "2")
	ca := s.bundle("first")
	// 3 × 400 MiB of zeros: memory that is asked for, and hardly touched.
	for _, k := range []string{"a", "b", "c"} {
		s.redis(i, ca, "SETRANGE", k, "419430399", "x")
	}
	said := s.cliFails(1, "instances", "update", "first", "--size", "1")
	for _, w := range []string{"memory_size_gb: 1: the data take 1.", " GiB, and there would be room for 1.0 GiB", "ask for 2"} {
		if !strings.Contains(said, w) {
			t.Errorf("the error doesn't say %q: %s", w, said)
		}
	}
	if now := s.describe("first"); now.State != "READY" || now.MemorySizeGB != 2 {
		t.Errorf("afterwards: %+v", now)
	}
	if got := strings.TrimSpace(s.redis(i, ca, "EXISTS", "a", "b", "c")); got != "3" {
		t.Errorf("%s of 3 keys are there", got)
	}
	s.redis(i, ca, "DEL", "a")
	s.cli("instances", "update", "first", "--size", "1")
}
