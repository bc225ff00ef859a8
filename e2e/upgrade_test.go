package e2e_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// crowd is many clients that each count with a connection of their own, some milliseconds apart.
type crowd struct {
	t       *testing.T
	clients []*goredis.Client
	stopped atomic.Bool
	running sync.WaitGroup

	mu     sync.Mutex
	errors map[string]int // by kind
	dials  int
	slow   time.Duration // the longest answer
}

func startCrowd(t *testing.T, i instance, ca string, size int) *crowd {
	t.Helper()
	f := &crowd{t: t, errors: map[string]int{}}
	var ready sync.WaitGroup
	for n := range size {
		o := goRedis(t, i, ca, "")
		o.PoolSize, o.MaxRetries = 1, -1
		o.DialTimeout, o.ReadTimeout, o.PoolTimeout = time.Minute, time.Minute, time.Minute
		o.OnConnect = func(context.Context, *goredis.Conn) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.dials++
			return nil
		}
		c := goredis.NewClient(o)
		f.clients = append(f.clients, c)
		ready.Add(1)
		f.running.Go(func() { f.count(c, fmt.Sprint("crowd-", n), ready.Done) })
	}
	t.Cleanup(func() { f.stop() })
	ready.Wait()
	return f
}

func (f *crowd) count(c *goredis.Client, key string, ready func()) {
	for n := int64(1); !f.stopped.Load(); n++ {
		began := time.Now()
		got, err := c.Incr(context.Background(), key).Result()
		took := time.Since(began)
		if n == 1 {
			ready()
			took = 0 // its handshake
		}
		f.mu.Lock()
		f.slow = max(f.slow, took)
		switch {
		case err != nil:
			f.errors[errorKind(err)]++
		case got != n:
			f.errors[fmt.Sprintf("a count is lost or doubled: %d after %d", got, n-1)]++
		}
		f.mu.Unlock()
		if err != nil || got != n {
			return
		}
		time.Sleep(20 * time.Millisecond) // it thinks
	}
}

// errorKind is a kind of error that a client sees.
func errorKind(err error) string {
	var network net.Error
	switch {
	case errors.Is(err, io.EOF):
		return "connection closed"
	case errors.As(err, &network) && network.Timeout():
		return "timeout"
	}
	word, _, _ := strings.Cut(err.Error(), " ")
	return word + ": " + err.Error()
}

func (f *crowd) stop() {
	f.stopped.Store(true)
	f.running.Wait()
	for _, c := range f.clients {
		c.Close()
	}
}

// wantUnnoticed ends the crowd and fails the test if any client saw an error, lost a count or had to connect again.
func (f *crowd) wantUnnoticed() {
	f.t.Helper()
	f.stop()
	f.t.Logf("%d clients, %d connections, the longest answer took %v, errors by kind: %v", len(f.clients), f.dials, f.slow.Round(time.Millisecond), f.errors)
	if len(f.errors) > 0 || f.dials != len(f.clients) {
		f.t.Errorf("%d clients connected %d times and saw %v", len(f.clients), f.dials, f.errors)
	}
}

// versions are the engines that were found by their names in the API.
func versions(t *testing.T) map[string][]testEngine {
	t.Helper()
	found := map[string][]testEngine{}
	for _, e := range allEngines(t) {
		kind, version, _ := strings.Cut(e.name, "-")
		parts := strings.SplitN(version, ".", 3)
		name := strings.ToUpper(kind) + "_" + parts[0] + "_" + parts[1]
		if kind == "redis" && parts[0] == "6" {
			name = "REDIS_6_X"
		}
		found[name] = append(found[name], e)
	}
	return found
}

// withEngines is a configuration with these engines.
func withEngines(engines ...testEngine) string {
	var programs []string
	for _, e := range engines {
		programs = append(programs, e.program)
	}
	return localConfig() + "engines: [" + strings.Join(programs, ", ") + "]\n"
}

// needVersions returns an engine of each version, or skips the test.
func needVersions(t *testing.T, names ...string) (engines []testEngine) {
	t.Helper()
	have := versions(t)
	for _, n := range names {
		if len(have[n]) == 0 {
			t.Skipf("NOT SHOWN HERE: there is no %s, only %v; `make engines` unpacks some", n, sortedNames(have))
		}
		engines = append(engines, have[n]...)
	}
	return engines
}

// oldest leaves one engine of each version.
func oldest(engines []testEngine) (one []testEngine) {
	seen := map[string]bool{}
	for _, e := range engines {
		if version := e.name[:strings.LastIndex(e.name, ".")]; !seen[version] {
			seen[version] = true
			one = append(one, e)
		}
	}
	return one
}

// newerPatch adds a newer engine of the version to the server's configuration, which counts from its next start. "": there is none.
func (s *server) newerPatch(version string) string {
	s.t.Helper()
	all := versions(s.t)[version]
	if len(all) < 2 {
		s.t.Logf("NOT SHOWN HERE: maintenance, for want of a second patch of %s", version)
		return ""
	}
	conf, err := os.ReadFile(s.conf)
	if err != nil {
		s.t.Fatal(err)
	}
	newest := all[len(all)-1]
	s.write(s.conf, strings.Replace(string(conf), "engines: [", "engines: ["+newest.program+", ", 1))
	return newest.name
}

func sortedNames(m map[string][]testEngine) (names []string) {
	for n := range maps.Keys(m) {
		names = append(names, n)
	}
	return names
}

// Two hundred clients under load go through every change of an instance that needs no new connection, up to other engines, and none of
// them notices.
func TestManyClientsGoThroughEveryChange(t *testing.T) {
	for name, path := range map[string][]string{
		"to Redis 8":  {"REDIS_7_0", "REDIS_8_0"},
		"to Valkey 9": {"REDIS_7_0", "VALKEY_8_1", "VALKEY_9_1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, serverOptions{config: withEngines(oldest(needVersions(t, path...))...)})
			first := s.create("first", "--redis-version", path[0])
			ca := s.bundle("first")
			clients := startCrowd(t, first, ca, 200)
			s.cli("instances", "update", "first", "--size", "2")
			s.cli("instances", "update", "first", "--update-redis-config", "maxmemory-policy=allkeys-lfu,notify-keyspace-events=Ex")
			s.cli("instances", "update", "first", "--size", "1")
			s.cli("instances", "export", "gs://backups/first.rdb", "first")
			for _, version := range path[1:] {
				t.Log(strings.TrimSpace(s.cli("instances", "upgrade", "first", "--redis-version", version, "-q")))
				if got := s.describe("first"); got.RedisVersion != version || got.State != "READY" {
					t.Errorf("after the upgrade to %s: %+v", version, got)
				}
			}
			if newer := s.newerPatch(path[len(path)-1]); newer != "" {
				s.signal(syscall.SIGTERM)
				s.start()
				t.Log(strings.TrimSpace(s.cli("instances", "reschedule-maintenance", "first", "--reschedule-type", "immediate")))
			}
			clients.wantUnnoticed()
			s.wantOneEngine()
		})
	}
}

// wantOneEngine waits until of several engines of an instance only one is left.
func (s *server) wantOneEngine() {
	s.t.Helper()
	var sockets []string
	eventually(s.t, 10*time.Second, "one engine is left", func() bool {
		own, _ := filepath.Glob(filepath.Join(s.state, "nodes", "*", "engine.sock"))
		others, _ := filepath.Glob(filepath.Join(s.state, "nodes", "*", "[12]", "engine.sock"))
		sockets = append(own, others...)
		return len(sockets) == 1
	})
}

// fillKeys writes n keys of 100 bytes.
func (s *server) fillKeys(i instance, ca string, n int) {
	s.t.Helper()
	script := "for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'key:' .. i, string.rep('v', 100) .. i) end return 'filled'"
	if got := s.redisCLI(i, ca, "EVAL", script, "0", fmt.Sprint(n)); strings.TrimSpace(got.stdout) != "filled" {
		s.t.Fatalf("%+v", got)
	}
}

// wantKeys fails the test unless those keys are there, and nothing but what is named besides.
func (s *server) wantKeys(i instance, ca string, n int, besides ...string) {
	s.t.Helper()
	if got := strings.TrimSpace(s.redisCLI(i, ca, "DBSIZE").stdout); got != fmt.Sprint(n+len(besides)) {
		s.t.Errorf("%s keys; want %d", got, n+len(besides))
	}
	if got := strings.TrimSpace(s.redisCLI(i, ca, "GET", fmt.Sprintf("key:%d", n)).stdout); got != strings.Repeat("v", 100)+fmt.Sprint(n) {
		s.t.Errorf("the last key has %q", got)
	}
}

// begin has the CLI ask for an operation, and returns its name as soon as there is one. The answer to the CLI itself waits for its end.
func (s *server) begin(args ...string) (operation string) {
	s.t.Helper()
	before := s.operations()
	command := s.command(append(args, "--async")...)
	if err := command.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		command.Wait()
		close(ended)
	}()
	s.t.Cleanup(func() { <-ended })
	within(20*time.Second, func() bool {
		for _, name := range s.operations() {
			if !slices.Contains(before, name) {
				operation = name
			}
		}
		return operation != "" || isClosed(ended)
	})
	if operation == "" {
		s.t.Fatalf("%v began no operation", args)
	}
	return operation
}

// operations are the names of all.
func (s *server) operations() (names []string) {
	s.t.Helper()
	var list struct{ Operations []struct{ Name string } }
	r := s.rest("GET", "/v1/projects/local/locations/local/operations", "")
	if err := json.Unmarshal(r.body, &list); err != nil || r.code != 200 {
		s.t.Fatalf("operations: %d, %s", r.code, r.body)
	}
	for _, op := range list.Operations {
		names = append(names, op.Name)
	}
	return names
}

// endOf waits until an operation has ended, and returns why it failed, "" if it did not.
func (s *server) endOf(name string) (failure string) {
	s.t.Helper()
	eventually(s.t, time.Minute, name+" has ended", func() (done bool) {
		done, failure = s.operation(name)
		return done
	})
	return failure
}

var killDelays = []time.Duration{0, 40 * time.Millisecond, 120 * time.Millisecond, 250 * time.Millisecond, 400 * time.Millisecond}

// However far an operation has come when the server is killed, the next one ends it, and all data are there. The client notices
// nothing.
func TestServerKilledInTheMiddleOfAnUpgrade(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{config: withEngines(needVersions(t, "REDIS_7_0", "REDIS_8_0")...)})
	for n, delay := range killDelays {
		name := fmt.Sprint("i", n)
		i := s.create(name, "--redis-version", "redis_7_0")
		ca := s.bundle(name)
		s.fillKeys(i, ca, 50000)
		client := startStream(t, i, ca, "counter")
		op := s.begin("instances", "upgrade", name, "--redis-version", "redis_8_0", "-q")
		time.Sleep(delay) // this picks the moment of the kill; it does not wait for anything
		s.kill9(s.pid)
		s.waitEnd()
		s.start()
		if failure := s.endOf(op); failure != "" {
			t.Errorf("killed after %v: %s", delay, failure)
		}
		if got := s.describe(name); got.State != "READY" || got.RedisVersion != "REDIS_8_0" {
			t.Errorf("killed after %v: %+v", delay, got)
		}
		s.wantKeys(i, ca, 50000, "counter")
		client.wantUnnoticed(t)
		s.cli("instances", "delete", name, "-q")
	}
}

func TestServerKilledInTheMiddleOfAnImportOrExport(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	i := s.create("first")
	ca := s.bundle("first")
	s.fillKeys(i, ca, 50000)
	s.cli("instances", "export", "gs://backups/good.rdb", "first")
	for n, delay := range killDelays {
		object := fmt.Sprintf("gs://backups/export-%d.rdb", n)
		op := s.begin("instances", "export", object, "first")
		time.Sleep(delay)
		s.kill9(s.pid)
		s.waitEnd()
		s.start()
		if failure := s.endOf(op); failure != "" {
			t.Errorf("export, killed after %v: %s", delay, failure)
		}
		s.redisCLI(i, ca, "SET", "besides", "x")
		op = s.begin("instances", "import", "gs://backups/good.rdb", "first", "-q")
		time.Sleep(delay)
		s.kill9(s.pid)
		s.waitEnd()
		s.start()
		if failure := s.endOf(op); failure != "" {
			t.Errorf("import, killed after %v: %s", delay, failure)
		}
		s.wantKeys(i, ca, 50000)
		s.cli("instances", "import", object, "first", "-q") // it is whole
		s.wantKeys(i, ca, 50000)
		if got := s.describe("first"); got.State != "READY" {
			t.Errorf("killed after %v: %+v", delay, got)
		}
	}
	files, err := os.ReadDir(filepath.Join(s.state, "buckets", "backups"))
	if err != nil || len(files) != 1+len(killDelays) {
		t.Errorf("in the bucket: %v, %v", files, err)
	}
}

// A stop in the middle of an operation keeps the data too, and the operation ends after the next start.
func TestEverythingStoppedInTheMiddleOfAnUpgrade(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{config: withEngines(needVersions(t, "REDIS_7_0", "REDIS_8_0")...)})
	for n, delay := range killDelays[1:] {
		name := fmt.Sprint("i", n)
		i := s.create(name, "--redis-version", "redis_7_0")
		ca := s.bundle(name)
		s.fillKeys(i, ca, 50000)
		op := s.begin("instances", "upgrade", name, "--redis-version", "redis_8_0", "-q")
		time.Sleep(delay)
		s.cli("stop")
		s.waitEnd()
		s.start()
		if failure := s.endOf(op); failure != "" {
			t.Errorf("stopped after %v: %s", delay, failure)
		}
		s.wantKeys(i, ca, 50000)
		s.cli("instances", "delete", name, "-q")
	}
}

func TestUpgradeToAnEngineThatDoesNotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broken := filepath.Join(dir, "valkey-server")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\n[ \"$1\" = --version ] && exec echo 'Valkey server v=9.9.0 sha=0:0 malloc=libc'\necho no luck >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	old := needVersions(t, "REDIS_7_0")[0]
	s := startServer(t, serverOptions{config: withEngines(old, testEngine{"broken", broken})})
	i := s.create("first", "--redis-version", "redis_7_0")
	ca := s.bundle("first")
	s.fillKeys(i, ca, 1000)
	client := startStream(t, i, ca, "counter")
	got := s.cliFails(1, "instances", "upgrade", "first", "--redis-version", "valkey_9_9", "-q")
	for _, want := range []string{"the engine of VALKEY_9_9 ended at its start (exit status 3)", "the instance is as it was before", "sealane: hint: "} {
		if !strings.Contains(got, want) {
			t.Errorf("%q does not say %q", got, want)
		}
	}
	if strings.Contains(got, s.state) {
		t.Errorf("the message has a path of the server: %q", got)
	}
	if !strings.Contains(s.stderr.String(), "no luck") {
		t.Error("the server's log does not have the engine's last words")
	}
	if got := s.describe("first"); got.State != "READY" || got.RedisVersion != "REDIS_7_0" {
		t.Errorf("afterwards: %+v", got)
	}
	client.wantUnnoticed(t)
	s.wantKeys(i, ca, 1000, "counter")
}

func TestImportOfABadFileChangesNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	i := s.create("first")
	ca := s.bundle("first")
	s.fillKeys(i, ca, 20000)
	s.cli("instances", "export", "gs://backups/good.rdb", "first")
	bucket := filepath.Join(s.state, "buckets", "backups")
	good, err := os.ReadFile(filepath.Join(bucket, "good.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)/2] ^= 0x55
	noChecksum := append([]byte(nil), flipped...) // only the engine can see that
	copy(noChecksum[len(noChecksum)-8:], make([]byte, 8))
	newer := append([]byte("REDIS0099"), good[9:]...)
	client := startStream(t, i, ca, "counter")
	for name, c := range map[string]struct {
		content []byte
		says    string
	}{
		"truncated":     {good[:len(good)/2], "it was cut off"},
		"empty":         {nil, "the file is empty"},
		"text":          {[]byte("hello"), "is no RDB file but text"},
		"newer":         {newer, "can't load"},
		"damaged":       {flipped, "its checksum is not that of"},
		"without a sum": {noChecksum, ""},
	} {
		s.write(filepath.Join(bucket, "bad.rdb"), string(c.content))
		r := run(s.command("instances", "import", "gs://backups/bad.rdb", "first", "-q"))
		if name == "without a sum" && r.code == 0 {
			t.Log("the engine has loaded a file that was changed and has no checksum; nobody could have told")
			s.cli("instances", "import", "gs://backups/good.rdb", "first", "-q")
			continue
		}
		if r.code != 1 || !strings.Contains(r.stderr, c.says) || !strings.Contains(r.stderr, "the instance is as it was before") || strings.Contains(r.stderr, s.state) {
			t.Errorf("%s: %+v", name, r)
		}
		if got := s.describe("first"); got.State != "READY" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	client.stop()
	if err := <-client.ended; err != nil && !strings.Contains(err.Error(), "got") {
		t.Errorf("the client saw an error: %v", err)
	}
	if got := s.redisCLI(i, ca, "GET", "key:20000"); !strings.HasSuffix(strings.TrimSpace(got.stdout), "v20000") {
		t.Errorf("%+v", got)
	}
}

func TestExportToAFullDisk(t *testing.T) {
	t.Parallel()
	disk := tmpfs(t, "3m")
	s := startServer(t, serverOptions{config: localConfig() + "buckets: {small: {folder: " + disk + "}}\n"})
	i := s.create("first")
	ca := s.bundle("first")
	s.fillKeys(i, ca, 1000)
	s.cli("instances", "export", "gs://small/first.rdb", "first")
	before, err := os.ReadFile(filepath.Join(disk, "first.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	script := "for i = 1, 400 do redis.call('SET', 'big:' .. i, string.rep(ARGV[1] .. i, 700)) end return redis.call('CONFIG', 'GET', 'maxmemory')[1]"
	s.redisCLI(i, ca, "EVAL", script, "0", "incompressible?")
	s.redisCLI(i, ca, "EVAL", "math.randomseed(7) for i = 1, 60000 do redis.call('SET', 'r:' .. i, tostring(math.random()) .. tostring(math.random()) .. tostring(math.random())) end", "0")
	client := startStream(t, i, ca, "counter")
	got := s.cliFails(1, "instances", "export", "gs://small/first.rdb", "first")
	if !strings.Contains(got, "gs://small/first.rdb: ") || !strings.Contains(strings.ToLower(got), "full") || strings.Contains(got, disk) {
		t.Errorf("the error is %q", got)
	}
	after, err := os.ReadFile(filepath.Join(disk, "first.rdb"))
	if err != nil || string(after) != string(before) {
		t.Errorf("the export that was there is not there any more: %d bytes, %v", len(after), err)
	}
	if files, err := os.ReadDir(disk); err != nil || len(files) != 1 {
		t.Errorf("left on the disk: %v, %v", files, err)
	}
	if got := s.describe("first"); got.State != "READY" {
		t.Errorf("afterwards: %+v", got)
	}
	client.wantUnnoticed(t)
}

// An operation that is given up leaves nothing behind.
func TestAnExportIsCancelled(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	i := s.create("first")
	ca := s.bundle("first")
	s.fillKeys(i, ca, 300000)
	op := s.begin("instances", "export", "gs://backups/first.rdb", "first")
	s.cli("operations", "cancel", op)
	failure := s.endOf(op)
	files, _ := os.ReadDir(filepath.Join(s.state, "buckets", "backups"))
	switch {
	case failure == "" && len(files) == 1: // it was faster
	case strings.Contains(failure, "cancelled") && len(files) == 0:
	default:
		t.Errorf("%q, and there are %v", failure, files)
	}
	s.wantKeys(i, ca, 300000)
}

// A gateway or an engine that is killed in the middle of an operation ends it, with an error or not, and the instance is READY again. Only
// an engine's own end costs data, as at any other time.
func TestNodeKilledInTheMiddleOfAnOperation(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{config: withEngines(needVersions(t, "REDIS_7_0", "REDIS_8_0")...)})
	for _, victim := range []string{"gateway", "engine"} {
		for n, operation := range [][]string{
			{"upgrade", "NAME", "--redis-version", "redis_8_0", "-q"},
			{"export", "gs://backups/out.rdb", "NAME"},
			{"import", "gs://backups/in.rdb", "NAME", "-q"},
		} {
			name := fmt.Sprint(victim, n)
			i := s.create(name, "--redis-version", "redis_7_0")
			ca := s.bundle(name)
			s.fillKeys(i, ca, 50000)
			s.cli("instances", "export", "gs://backups/in.rdb", name)
			for _, delay := range []time.Duration{20 * time.Millisecond, 150 * time.Millisecond} {
				args := append([]string{"instances"}, operation...)
				args[slices.Index(args, "NAME")] = name
				if operation[0] == "upgrade" && s.describe(name).RedisVersion == "REDIS_8_0" {
					break
				}
				op := s.begin(args...)
				time.Sleep(delay) // this picks the moment of the kill; it does not wait for anything
				for _, pid := range s.nodes(victim) {
					syscall.Kill(pid, syscall.SIGKILL)
				}
				if failure := s.endOf(op); failure != "" {
					t.Logf("%s, %s killed after %v: %s", operation[0], victim, delay, failure)
					if strings.Contains(failure, s.state) || strings.Contains(failure, "\n") {
						t.Errorf("the message has a path or a log in it: %q", failure)
					}
				}
				eventually(t, 20*time.Second, name+" is READY", func() bool { return s.describe(name).State == "READY" })
				eventually(t, 20*time.Second, name+" serves", func() bool { return s.redisCLI(i, ca, "PING").stdout == "PONG\n" })
				if victim == "gateway" {
					s.wantKeys(i, ca, 50000)
				} else {
					s.fillKeys(i, ca, 50000)
				}
			}
			s.cli("instances", "delete", name, "-q")
		}
	}
}

// Before Redis 7.0 an instance of 1 GB serves 1,000 connections with TLS. After an upgrade all of them are still there, and more fit.
func TestAnUpgradeLiftsTheLimitOfConnections(t *testing.T) {
	s := startServer(t, serverOptions{config: withEngines(needVersions(t, "REDIS_6_X", "REDIS_7_0")...)})
	first := s.create("first", "--redis-version", "redis_6_x")
	config := goRedis(t, first, s.bundle("first"), "").TLSConfig
	ping := func(conn net.Conn) string {
		conn.SetDeadline(time.Now().Add(time.Minute))
		answer := make([]byte, 200)
		if _, err := conn.Write([]byte("PING\r\n")); err != nil {
			return err.Error()
		}
		n, err := conn.Read(answer)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(answer[:n]))
	}
	var conns []net.Conn
	dial := func() net.Conn {
		conn, err := tls.Dial("tcp", first.address(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	const limit = 1000
	for len(conns) < limit {
		conns = append(conns, dial())
		if got := ping(conns[len(conns)-1]); got != "+PONG" {
			t.Fatalf("connection %d: %s", len(conns), got)
		}
	}
	if got := ping(dial()); got != "-ERR max number of clients reached" {
		t.Errorf("connection %d: %s", limit+1, got)
	}
	t.Log(strings.TrimSpace(s.cli("instances", "upgrade", "first", "--redis-version", "redis_7_0", "-q")))
	for n, conn := range conns {
		if got := ping(conn); got != "+PONG" {
			t.Fatalf("connection %d after the upgrade: %s", n+1, got)
		}
	}
	for range 50 {
		if got := ping(dial()); got != "+PONG" {
			t.Fatalf("one more connection: %s", got)
		}
	}
}
