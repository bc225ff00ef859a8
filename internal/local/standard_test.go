package local_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/local"
	"github.com/sealane/sealane/internal/objects"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/process"
	"github.com/sealane/sealane/internal/store"
)

// standard is a server with one instance of tier STANDARD_HA, whose clients need no TLS.
type standard struct {
	t    *testing.T
	dir  string
	name instance.Name
	pool netip.Prefix

	store   *store.Store
	key     pki.MasterKey
	manager *instance.Manager
	runtime *local.Runtime
	wrap    func(*local.Runtime) instance.Runtime
	later   atomic.Int64 // by how much the server's clock is ahead
	log     io.Writer    // where the server's log goes; nil: nowhere
}

func newStandard(t *testing.T, change func(*instance.Spec)) *standard {
	t.Helper()
	return newStandardOn(t, change, nil)
}

// newStandardOn is newStandard with a Runtime that wrap makes of this machine's.
func newStandardOn(t *testing.T, change func(*instance.Spec), wrap func(*local.Runtime) instance.Runtime) *standard {
	t.Helper()
	s := newServer(t, wrap)
	if _, err := s.create(change); err != nil {
		t.Fatal(err)
	}
	s.await("the instance is READY with its replicas in sync", inSync)
	return s
}

// create begins to create the instance.
func (s *standard) create(change func(*instance.Spec)) (instance.Operation, error) {
	spec := instance.Spec{Tier: instance.StandardHA, MemorySizeGB: 1, Labels: map[string]string{}}
	if change != nil {
		change(&spec)
	}
	return s.manager.Create(s.name, spec, "v1")
}

// newServer is a server without instances.
func newServer(t *testing.T, wrap func(*local.Runtime) instance.Runtime) *standard {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.ParseMasterKey(pki.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	s := &standard{t: t, dir: dir, name: instance.Name{Project: "p", Location: "local", ID: "ha"}, pool: nextPool(), key: key, wrap: wrap}
	t.Cleanup(func() {
		s.close()
		folders, _ := os.ReadDir(filepath.Join(dir, "nodes"))
		runtime := local.New(filepath.Join(dir, "nodes"), nil, nil)
		for _, f := range folders {
			if err := runtime.KillNode(context.Background(), f.Name()); err != nil {
				t.Error(err)
			}
		}
		os.RemoveAll(dir)
	})
	s.start()
	return s
}

var pools atomic.Int32

// nextPool is loopback addresses that no other test of this process uses.
func nextPool() netip.Prefix {
	n := int(pools.Add(1))
	return netip.MustParsePrefix(fmt.Sprintf("127.%d.%d.%d/28", 100+os.Getpid()%100, (os.Getpid()/100+n/16*50)%250, n%16*16))
}

// brokenVersion is an engine that never starts.
const brokenVersion = "REDIS_8_999"

// start starts a server.
func (s *standard) start() {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	records, err := s.key.RecordsKey()
	if err != nil {
		s.t.Fatal(err)
	}
	if s.store, err = store.Open(filepath.Join(s.dir, "state.db"), records); err != nil {
		s.t.Fatal(err)
	}
	buckets, err := objects.New(objects.Config{StateDir: s.dir, DefaultFolder: filepath.Join(s.dir, "buckets")})
	if err != nil {
		s.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if s.log != nil {
		log = slog.New(slog.NewTextHandler(s.log, nil))
	} else if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var builds []engine.Binary
	for _, b := range enginetest.All(s.t) {
		if b.TLS {
			builds = append(builds, b)
		}
	}
	builds = append(builds, engine.Binary{Path: "/bin/false", Kind: engine.Redis, Version: engine.Version{Major: 8, Minor: 999}, TLS: true})
	s.runtime = local.New(filepath.Join(s.dir, "nodes"), []string{self, "gateway"}, builds)
	var runtime instance.Runtime = s.runtime
	if s.wrap != nil {
		runtime = s.wrap(s.runtime)
	}
	s.manager, err = instance.New(instance.Config{Store: s.store, Runtime: runtime, Key: s.key, Log: log, Objects: buckets,
		Now:       func() time.Time { return time.Now().Add(time.Duration(s.later.Load())) },
		Addresses: instance.Addresses{Pool: s.pool}})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.manager.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.manager.Settled(s.t.Context())
}

// close ends the server and leaves the processes.
func (s *standard) close() {
	if s.manager != nil {
		s.manager.Close()
		s.runtime.Close()
		s.store.Close()
		s.manager = nil
	}
}

func (s *standard) get() instance.Instance {
	s.t.Helper()
	i, err := s.manager.Get(s.name)
	if err != nil {
		s.t.Fatal(err)
	}
	return i
}

// await waits until something is so, for half a minute at most.
func (s *standard) await(what string, is func(instance.Instance) bool) instance.Instance {
	s.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		i := s.get()
		if is(i) {
			return i
		}
		select {
		case <-deadline:
			s.t.Fatalf("it never came to be that %s: %s %q %+v", what, i.State, i.StatusMessage, i.NodeInfos())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// inSync says whether the instance is READY and all its replicas are in sync.
func inSync(i instance.Instance) bool {
	for _, n := range i.NodeInfos() {
		if !n.Primary && !n.InSync {
			return false
		}
	}
	return i.State == instance.Ready
}

func (s *standard) client() *client {
	s.t.Helper()
	s.await("the endpoint is there", func(i instance.Instance) bool { // after all processes have ended it takes a moment
		conn, err := net.Dial("tcp", i.Address())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return dialClient(s.t, s.get().Address())
}

// primaryDir is the folder of the primary's engine.
func (s *standard) primaryDir() string {
	i := s.get()
	dir := filepath.Join(s.dir, "nodes", i.UID+"-"+strconv.Itoa(i.Replication.Primary))
	for _, n := range i.Replication.Nodes {
		if n.Number == i.Replication.Primary && n.Slot > 0 {
			dir = filepath.Join(dir, strconv.Itoa(n.Slot))
		}
	}
	return dir
}

// primary is the process of the primary's engine.
func (s *standard) primary() *process.Process {
	s.t.Helper()
	p, err := process.Adopt(engine.Socket(s.primaryDir()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.Release)
	return p
}

// The primary's death is noticed, a replica takes over with all data, and the old primary comes back as a replica.
func TestReplicaTakesOver(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			s := newStandard(t, nil)
			c := s.client()
			for k := range 100 {
				c.do("SET", "key"+strconv.Itoa(k), strconv.Itoa(k))
			}
			if n := c.do("WAIT", "1", "5000"); n.Int != 1 {
				t.Fatalf("WAIT: %v", n)
			}
			before := s.get()
			began := time.Now()
			if err := s.primary().Signal(signal); err != nil {
				t.Fatal(err)
			}
			i := s.await("another node is the primary", func(i instance.Instance) bool { return i.Replication.Primary != before.Replication.Primary })
			took := time.Since(began)
			c = s.client()
			for k := range 100 {
				if v := c.do("GET", "key"+strconv.Itoa(k)); v.Str != strconv.Itoa(k) {
					t.Fatalf("key%d is %q", k, v.Str)
				}
			}
			c.do("SET", "after", "1")
			if took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
			t.Logf("%v: %v; %+v", signal, took, i.Replication.Failovers)
			if i.Address() != before.Address() {
				t.Error("the endpoint has moved")
			}
			s.await("the old primary is a replica in sync", inSync)
		})
	}
}

// Who was the primary before a planned failover, and refused writes for it, takes them when it is promoted again.
func TestFailoverThereAndBack(t *testing.T) {
	t.Parallel()
	s := newStandard(t, nil)
	c := s.client()
	for k := range 4 {
		before := s.get().Replication.Primary
		if _, err := s.manager.Failover(t.Context(), s.name, false, "v1"); err != nil {
			t.Fatal(err)
		}
		s.await("the other node is the primary", func(i instance.Instance) bool { return i.State == instance.Ready && i.Replication.Primary != before })
		c.do("SET", "key", strconv.Itoa(k))
	}
}

// wantOnePrimary fails the test unless one engine takes writes, which is the recorded one.
func (s *standard) wantOnePrimary() {
	s.t.Helper()
	i := s.get()
	for _, n := range i.Replication.Nodes {
		info, err := s.runtime.EngineInfo(s.t.Context(), i.UID+"-"+strconv.Itoa(n.Number), "replication")
		if err != nil {
			s.t.Fatal(err)
		}
		if want := n.Number == i.Replication.Primary; (info["role"] == "master") != want {
			s.t.Errorf("node-%d is %s, and the primary is node-%d", n.Number, info["role"], i.Replication.Primary)
		}
	}
}

// A planned failover costs no full synchronisation.
func TestPlannedFailoverNeedsNoFullSynchronisation(t *testing.T) {
	t.Parallel()
	s := newStandard(t, nil)
	c := s.client()
	c.do("SET", "ends", "1", "PX", "20")
	c.do("SET", "key", "1")
	before := s.get().Replication.Primary
	if _, err := s.manager.Failover(t.Context(), s.name, false, "v1"); err != nil {
		t.Fatal(err)
	}
	i := s.await("the other node is the primary", func(i instance.Instance) bool { return i.Replication.Primary != before && inSync(i) })
	info, err := s.runtime.EngineInfo(t.Context(), i.UID+"-"+strconv.Itoa(i.Replication.Primary), "stats")
	if err != nil {
		t.Fatal(err)
	}
	if info["sync_full"] != "0" || info["sync_partial_ok"] != "1" {
		t.Errorf("full synchronisations: %s, partial ones: %s", info["sync_full"], info["sync_partial_ok"])
	}
}

// A replica that hangs for good is started again, and comes back into sync.
func TestReplicaThatHangsIsStartedAgain(t *testing.T) {
	t.Parallel()
	s := newStandard(t, nil)
	s.client().do("SET", "key", "1")
	s.engineOf(1).send(syscall.SIGSTOP)
	s.await("the replica is missed", func(i instance.Instance) bool { return !inSync(i) })
	s.await("it is in sync again", inSync)
}
