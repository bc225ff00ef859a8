package instance_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/plaintext"
	"github.com/sealane/sealane/internal/store"
)

// machine is what survives a server: its disk and the processes of its nodes. Every call of a server that changes
// either is a step, and a chosen step can go wrong. It is used inside a synctest bubble.
type machine struct {
	t         *testing.T
	key       pki.MasterKey
	addresses instance.Addresses
	builds    []instance.EngineBuild // that are installed; nil: some
	skew      time.Duration          // of the clock
	tick      time.Duration          // by which the clock goes on each time that it is looked at
	// constraints says that CAs have name constraints by the configuration.
	constraints bool
	configure   func(*instance.Config) // changes the configuration of the servers that start from now on

	mu      sync.Mutex
	records map[string]store.Record
	history []store.Record // every value that was ever stored
	audited []audit.Entry
	nodes   map[string]*node
	secrets []string // that nodes were given
	log     bytes.Buffer

	steps    int // changes since arm
	faultAt  int
	fault    fault
	blind    time.Time // reads fail until then
	storeErr error     // every call of the store fails with it
	putErr   error     // every write does
	auditErr error     // every call of the audit log fails with it

	// Hooks run before the work, and onEnsured after it, without the lock; an error stands in for the work.
	onPut     func(key string)
	onEnsure  func(context.Context, instance.Node) error
	onEnsured func(context.Context, instance.Node)
	onRemove  func(context.Context, string) error
	onStop    func(context.Context, instance.Node) error
	onRestart func(context.Context, instance.StopOptions) error
	onReplace func(context.Context) error
	status    func() (gateway.Status, error)    // of every gateway
	info      func() (map[string]string, error) // of every engine; nil: its data take nothing
	ledger    func() (ledger.Ledger, error)     // likewise
	probe     func(backend.Server) error        // of every backend; nil: it serves
	plain     func() (plaintext.Account, error) // likewise

	server *server
}

// node is one node's processes.
type node struct {
	instance.Node
	running bool
	patch   string // of its engine
	busy    bool   // a call for it is under way
	starts  int
	started time.Time // the last time
	stops   int
	applied int // changes of what the gateway serves
}

// fault is how a step goes wrong.
type fault string

const (
	lost          fault = "lost"
	doneButFailed fault = "done but failed"
	doneButBlind  fault = "done but failed, and reads fail"
	killedBefore  fault = "killed before"
	killedAfter   fault = "killed after"
)

const (
	blindness      = 5 * time.Second
	patience       = 15 * time.Minute // of the bubble's clock
	defaultVersion = "REDIS_7_0"
)

var faults = []fault{lost, doneButFailed, doneButBlind, killedBefore, killedAfter}

var (
	errBroken = errors.New("injected fault")
	errKilled = errors.New("this server was killed")
)

// server is one process of `sealane serve`.
type server struct {
	*instance.Manager
	dead  atomic.Bool
	exits chan instance.Exit
}

var machines atomic.Uint32

func newMachine(t *testing.T) *machine {
	t.Helper()
	key, err := pki.ParseMasterKey(pki.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{
		t: t, key: key, addresses: instance.Addresses{Pool: ownPool(24)},
		records: make(map[string]store.Record), nodes: make(map[string]*node),
	}
	m.boot()
	t.Cleanup(func() {
		m.server.Close()
		m.checkInvariants()
	})
	return m
}

// ownPool is a loopback network that no other test uses, in this process or, likely, another.
func ownPool(bits int) netip.Prefix {
	n := machines.Add(1)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(130 + os.Getpid()%100), byte(1 + n%250), 0}), bits)
}

func (m *machine) newManager(s *server) (*instance.Manager, error) {
	cfg := instance.Config{
		Store: disk{m, s}, Audit: auditLog{m, s}, Runtime: host{m, s}, Key: m.key, Addresses: m.addresses, Now: m.now, NameConstraints: m.constraints,
		Log:      slog.New(slog.NewTextHandler(lockedWriter{m}, nil)),
		Commands: commands,
	}
	if m.configure != nil {
		m.configure(&cfg)
	}
	return instance.New(cfg)
}

// commands are spelled as a program might.
var commands = instance.Commands{
	CABundle:     func(n instance.Name) string { return "program bundle " + n.ID + " of " + n.Project },
	ForceRestart: func(n instance.Name) string { return "program kill " + n.ID },
	ForceStop:    "program kill all",
}

// boot starts a server, again and again where a fault keeps it from starting.
func (m *machine) boot() {
	m.t.Helper()
	for range 10 {
		s := &server{exits: make(chan instance.Exit, 64)}
		manager, err := m.newManager(s)
		if err == nil {
			s.Manager = manager
			err = manager.Start()
		}
		if err == nil {
			m.server = s
			return
		}
		if s.Manager != nil {
			s.Close()
		}
		time.Sleep(blindness)
	}
	m.t.Fatal("the server does not start")
}

// kill ends the server as SIGKILL does: from now on it changes nothing.
func (m *machine) kill() {
	m.server.dead.Store(true)
	m.server.Close()
}

// reconfigure replaces the server by one with another configuration.
func (m *machine) reconfigure(change func(*instance.Config)) {
	m.t.Helper()
	m.configure = change
	m.kill()
	m.boot()
}

// lockedWriter is the log.
type lockedWriter struct{ m *machine }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	return w.m.log.Write(p)
}

func (m *machine) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.skew += m.tick
	return time.Now().Add(m.skew)
}

// bubbleNow is now for whoever holds the lock.
func (m *machine) bubbleNow() time.Time { return time.Now().Add(m.skew) }

// jump sets the clock forward.
func (m *machine) jump(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.skew += d
}

func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *machine) logged(text string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Count(m.log.String(), text)
}

// arm makes the step with that number, from now, go wrong. It returns whether that happened.
func (m *machine) arm(at int, f fault) (hit func() bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps, m.faultAt, m.fault = 0, at, f
	return func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.steps >= at
	}
}

// step does one change for a server, or what the fault makes of it. It is called with the lock held.
func (m *machine) step(s *server, change func() error) error {
	if s.dead.Load() {
		return errKilled
	}
	m.steps++
	if m.steps != m.faultAt {
		return change()
	}
	if m.fault == lost {
		return errBroken
	}
	if m.fault != killedBefore {
		if err := change(); err != nil {
			return err
		}
	}
	switch m.fault {
	case killedBefore, killedAfter:
		s.dead.Store(true)
		return errKilled
	case doneButBlind:
		m.blind = time.Now().Add(blindness)
	}
	return errBroken
}

// disk is a server's Store.
type disk struct {
	m *machine
	s *server
}

func (d disk) read() error {
	switch {
	case d.s.dead.Load():
		return errKilled
	case d.m.storeErr != nil:
		return d.m.storeErr
	case time.Now().Before(d.m.blind):
		return errBroken
	}
	return nil
}

func (d disk) Get(key string) (store.Record, error) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if err := d.read(); err != nil {
		return store.Record{}, err
	}
	r, ok := d.m.records[key]
	if !ok {
		return r, fmt.Errorf("get %s: %w", key, store.ErrNotFound)
	}
	r.Value = bytes.Clone(r.Value)
	return r, nil
}

func (d disk) List(prefix string) ([]store.Record, error) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if err := d.read(); err != nil {
		return nil, err
	}
	var rs []store.Record
	for _, key := range slices.Sorted(maps.Keys(d.m.records)) {
		if strings.HasPrefix(key, prefix) {
			rs = append(rs, d.m.records[key])
		}
	}
	return rs, nil
}

func (d disk) Put(key string, value []byte, version uint64) (uint64, error) {
	d.m.mu.Lock()
	hook := d.m.onPut
	d.m.mu.Unlock()
	if hook != nil {
		hook(key)
	}
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if err := cmp.Or(d.m.storeErr, d.m.putErr); err != nil {
		return 0, err
	}
	err := d.m.step(d.s, func() error {
		if d.m.records[key].Version != version {
			return fmt.Errorf("put %s: %w", key, store.ErrConflict)
		}
		r := store.Record{Key: key, Value: bytes.Clone(value), Version: version + 1}
		d.m.records[key] = r
		d.m.history = append(d.m.history, r)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return version + 1, nil
}

func (d disk) Delete(key string, version uint64) error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if d.m.storeErr != nil {
		return d.m.storeErr
	}
	return d.m.step(d.s, func() error {
		if r, ok := d.m.records[key]; !ok || r.Version != version {
			return fmt.Errorf("delete %s: %w", key, store.ErrConflict)
		}
		delete(d.m.records, key)
		return nil
	})
}

// host is a server's Runtime: nodes in memory.
type host struct {
	m *machine
	s *server
}

func (h host) Engines() []instance.EngineBuild {
	if h.m.builds != nil {
		return h.m.builds
	}
	return instance.Builds(defaultVersion, "REDIS_6_X", "VALKEY_8_0")
}

// EngineInfo implements instance.EngineInfoReader.
func (h host) EngineInfo(_ context.Context, id string, _ ...string) (map[string]string, error) {
	h.m.mu.Lock()
	info, fields := h.m.info, map[string]string{"used_memory": "0"}
	if n := h.m.nodes[id]; n != nil {
		fields["redis_version"] = n.patch
	}
	h.m.mu.Unlock()
	if info == nil {
		return fields, nil
	}
	return info()
}

// ProbeBackend and BackendFacts are those of a Redis 7.2.
func (h host) ProbeBackend(_ context.Context, s backend.Server) (backend.Facts, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if h.m.probe != nil {
		if err := h.m.probe(s); err != nil {
			return backend.Facts{}, err
		}
	}
	return backend.Facts{Version: "7.2.4"}, nil
}

func (h host) BackendFacts(string) (backend.Facts, bool) {
	return backend.Facts{Version: "7.2.4"}, true
}

// ReplaceEngine implements instance.EngineReplacer. It either works or changes nothing, so a fault can only be that the server is killed.
func (h host) ReplaceEngine(ctx context.Context, from, to instance.Node, _ instance.DataSource, progress func(string)) (time.Duration, error) {
	n, end := h.begin(to.ID)
	defer end()
	progress("copying the data")
	h.m.mu.Lock()
	hook := h.m.onReplace
	h.m.mu.Unlock()
	if hook != nil {
		if err := hook(ctx); err != nil {
			return 0, err
		}
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if n.Slot != from.Slot || from.Slot == to.Slot {
		h.m.t.Errorf("the engine in %d is to be replaced by one in %d, and the data are in %d", from.Slot, to.Slot, n.Slot)
	}
	replace := func() error {
		n.Node, n.patch = to, to.Patch
		return nil
	}
	if err := h.m.step(h.s, replace); errors.Is(err, errKilled) {
		return 0, err
	}
	return time.Millisecond, replace()
}

// ServedSlot implements instance.EngineReplacer.
func (h host) ServedSlot(id string) (int, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	n := h.m.nodes[id]
	switch {
	case h.s.dead.Load():
		return 0, errKilled
	case n == nil || n.starts == 0:
		return 0, fs.ErrNotExist
	}
	return n.Slot, nil
}

func (h host) Exits() <-chan instance.Exit { return h.s.exits }

// begin marks a node as busy and returns what ends that; the calls for one node must not overlap.
func (h host) begin(id string) (*node, func()) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	n := h.m.nodes[id]
	if n == nil {
		n = &node{}
		h.m.nodes[id] = n
	}
	if n.busy && !h.s.dead.Load() {
		h.m.t.Errorf("two calls for node %s at a time", id)
	}
	n.busy = true
	return n, func() {
		h.m.mu.Lock()
		defer h.m.mu.Unlock()
		n.busy = false
	}
}

func (h host) Ensure(ctx context.Context, want instance.Node, progress func(string)) error {
	n, end := h.begin(want.ID)
	defer end()
	progress("starting the engine")
	h.m.mu.Lock()
	h.m.secrets = append(h.m.secrets, want.AdminPassword, string(want.Gateway.PrivateKey))
	if b := want.Gateway.Backend; b != nil {
		h.m.secrets = append(h.m.secrets, b.Password)
	}
	before, after := h.m.onEnsure, h.m.onEnsured
	h.m.mu.Unlock()
	if before != nil {
		if err := before(ctx, want); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err := h.ensure(n, want)
	if after != nil {
		after(ctx, want)
	}
	return err
}

func (h host) ensure(n *node, want instance.Node) error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if n.starts > 0 && n.Slot != want.Slot && !h.s.dead.Load() {
		h.m.t.Errorf("the engine in %d is brought up, and the data are in %d", want.Slot, n.Slot)
	}
	if n.running && n.Gateway.Digest() == want.Gateway.Digest() && slices.Equal(n.PasswordHashes, want.PasswordHashes) && maps.Equal(n.Directives, want.Directives) { // nothing to do: no step
		n.Bundle = want.Bundle // only what the next proof trusts
		return nil
	}
	return h.m.step(h.s, func() error {
		for id, o := range h.m.nodes {
			if id != want.ID && o.running && (o.Host == want.Host || o.Instance == want.Instance) {
				h.m.t.Errorf("node %s of %s at %s is started while %s of %s at %s runs", want.ID, want.Instance, want.Host, id, o.Instance, o.Host)
			}
		}
		if !n.running {
			n.starts++
			n.started = time.Now()
			n.patch = want.Patch
		}
		if n.Gateway.Digest() != want.Gateway.Digest() {
			n.applied++
		}
		n.Node, n.running = want, true
		return nil
	})
}

func (h host) Stop(ctx context.Context, want instance.Node, _ instance.StopOptions) error {
	n, end := h.begin(want.ID)
	defer end()
	h.m.mu.Lock()
	hook := h.m.onStop
	h.m.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, want); err != nil {
			return err
		}
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	return h.m.step(h.s, func() error {
		n.running = false
		n.stops++
		return nil
	})
}

func (h host) StopEngine(ctx context.Context, want instance.Node, how instance.StopOptions) error {
	n, end := h.begin(want.ID)
	defer end()
	h.m.mu.Lock()
	hook := h.m.onRestart
	h.m.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, how); err != nil {
			return err
		}
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	n.running = false
	return nil
}

func (h host) Remove(ctx context.Context, id string) error {
	_, end := h.begin(id)
	defer end()
	h.m.mu.Lock()
	hook := h.m.onRemove
	h.m.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, id); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	return h.m.step(h.s, func() error {
		delete(h.m.nodes, id)
		return nil
	})
}

// GatewayStatus implements instance.GatewayStatuser.
func (h host) GatewayStatus(context.Context, string) (gateway.Status, error) {
	h.m.mu.Lock()
	status := h.m.status
	h.m.mu.Unlock()
	if status == nil {
		return gateway.Status{}, errBroken
	}
	return status()
}

// Ledger implements instance.Ledgerer.
func (h host) Ledger(context.Context, string) (ledger.Ledger, error) {
	h.m.mu.Lock()
	gathered := h.m.ledger
	h.m.mu.Unlock()
	if gathered == nil {
		return ledger.Ledger{}, errBroken
	}
	return gathered()
}

// PlaintextClients implements instance.PlaintextReader.
func (h host) PlaintextClients(context.Context, string) (plaintext.Account, error) {
	h.m.mu.Lock()
	gathered := h.m.plain
	h.m.mu.Unlock()
	if gathered == nil {
		return plaintext.Account{}, errBroken
	}
	return gathered()
}

// crash ends one process of an instance's node.
func (m *machine) crash(name instance.Name, process string) {
	m.t.Helper()
	i := m.get(name)
	m.mu.Lock()
	n := m.nodes[i.NodeID()]
	n.running = false
	m.mu.Unlock()
	m.server.exits <- instance.Exit{NodeID: i.NodeID(), Process: process, Reason: "signal: killed"}
}

// node is what runs for an instance, as it is now.
func (m *machine) node(name instance.Name) node {
	m.t.Helper()
	id := m.get(name).NodeID()
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.nodes[id]; n != nil {
		return *n
	}
	return node{}
}

func (m *machine) get(name instance.Name) instance.Instance {
	m.t.Helper()
	i, err := m.server.Get(name)
	if err != nil {
		m.t.Fatalf("get %s: %v", name, err)
	}
	return i
}

func (m *machine) operation(op instance.Operation) instance.Operation {
	m.t.Helper()
	of, err := m.server.Operations.Get("p1", "-", op.ID)
	if err != nil {
		m.t.Fatalf("operation %s: %v", op.ID, err)
	}
	return of.Operation
}

// wait lets the bubble's clock run until the condition holds.
func (m *machine) wait(what string, holds func() bool) {
	m.t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("%s: not within %v; log:\n%s", what, patience, m.log.String())
		}
	}
}

func (m *machine) waitReady(name instance.Name) instance.Instance {
	m.t.Helper()
	m.wait(name.ID+" is ready", func() bool { return m.get(name).State == instance.Ready })
	return m.get(name)
}

func (m *machine) waitGone(name instance.Name) {
	m.t.Helper()
	m.wait(name.ID+" is gone", func() bool {
		_, err := m.server.Get(name)
		return instance.CodeOf(err) == instance.NotFound
	})
}

// create begins to make an instance.
func (m *machine) create(name instance.Name) instance.Operation {
	m.t.Helper()
	op, err := m.server.Create(name, plainSpec(), "v1")
	if err != nil {
		m.t.Fatalf("create %s: %v", name, err)
	}
	return op
}

// made creates an instance and waits for it.
func (m *machine) made(name instance.Name) instance.Instance {
	m.t.Helper()
	m.create(name)
	return m.waitReady(name)
}

func named(id string) instance.Name {
	return instance.Name{Project: "p1", Location: "local", ID: id}
}

func plainSpec() instance.Spec {
	return instance.Spec{MemorySizeGB: 1, TransitEncryption: true, AuthEnabled: true}
}

// stored decodes all records of instances.
func (m *machine) stored() []instance.Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []instance.Instance
	for key, r := range m.records {
		if !strings.HasPrefix(key, "projects/") {
			continue
		}
		i, err := instance.Decode(key, r.Value, r.Version)
		if err != nil || i.Name.String() != key {
			m.t.Errorf("record %s: %+v, %v", key, i.Name, err)
		}
		all = append(all, i)
	}
	return all
}

// checkInvariants holds all records, all that was ever stored and all nodes against each other. No server may run.
func (m *machine) checkInvariants() {
	m.t.Helper()
	m.set(func() { m.storeErr, m.blind = nil, time.Time{} })
	all := m.stored()
	hosts, uids, nodes := map[string]string{}, map[string]string{}, map[string]bool{}
	for _, i := range all {
		m.checkOperations(i)
		if i.Deleted {
			if i.Certificates != nil || i.SealedAuth != nil || i.SealedAdmin != nil || i.Pending() != nil {
				m.t.Errorf("tombstone %s holds more than operations", i.Name)
			}
			continue
		}
		if other, taken := hosts[i.Host]; taken {
			m.t.Errorf("%s and %s are both at %s", other, i.Name, i.Host)
		}
		if other, taken := uids[i.UID]; taken {
			m.t.Errorf("%s and %s have the same UID", other, i.Name)
		}
		hosts[i.Host], uids[i.UID], nodes[i.NodeID()] = i.Name.ID, i.Name.ID, true
		if (i.State == instance.Ready) != (i.Pending() == nil) {
			m.t.Errorf("%s is %s with the operation under way %+v", i.Name, i.State, i.Pending())
		}
		if i.State == instance.Ready {
			m.checkServed(i)
		}
		if auth, err := m.server.AuthStrings.Get(i.Name); err == nil && auth != "" {
			m.secrets = append(m.secrets, auth)
		}
	}
	for id, n := range m.nodes {
		if !nodes[id] {
			m.t.Errorf("node %s of %s is left over (running: %t)", id, n.Instance, n.running)
		}
	}
	m.checkHistory()
	m.checkAudited()
	m.checkSecrets()
}

func (m *machine) checkOperations(i instance.Instance) {
	m.t.Helper()
	if len(i.Operations) > instance.KeepOperations {
		m.t.Errorf("%s keeps %d operations", i.Name, len(i.Operations))
	}
	for at, op := range i.Operations {
		last := at == len(i.Operations)-1
		if !op.Done && !last || op.Done == op.Ended.IsZero() || op.Done && op.Ended.Before(op.Created) || op.Failure != nil && !op.Done {
			m.t.Errorf("operation %d of %s: %+v", at, i.Name, op)
		}
	}
}

// checkServed checks that a ready instance's node, unless it was stopped or is down, serves what the record says.
func (m *machine) checkServed(i instance.Instance) {
	m.t.Helper()
	n := m.nodes[i.NodeID()]
	if n == nil {
		m.t.Errorf("%s is ready without a node", i.Name)
		return
	}
	want := []gateway.Listener{}
	for _, at := range []struct {
		port int
		tls  bool
	}{{i.TLSPort(), true}, {i.PlaintextPort(), false}} {
		if at.port != 0 {
			want = append(want, gateway.Listener{Address: net.JoinHostPort(i.Host, strconv.Itoa(at.port)), TLS: at.tls})
		}
	}
	// Where plaintext was closed its port is left, for clients to be told.
	if got := n.Gateway.Listeners; !slices.Equal(got[:min(len(want), len(got))], want) || len(got) > len(want) && (i.EncryptionMode() != instance.ModeEnforced || !got[1].TLS) {
		m.t.Errorf("%s: its node listens at %v, the record says %v", i.Name, got, want)
	}
	if got := pathOf(n.Gateway); got != cmp.Or(i.Spec.DataPath, instance.DefaultDataPath) {
		m.t.Errorf("%s: its node serves the data path %s, the record says %q", i.Name, got, i.Spec.DataPath)
	}
	if i.TLSPort() == 0 {
		return
	}
	if !bytes.HasPrefix(n.Gateway.Certificate, pki.EncodePEM(i.Certificates.Leaf.Certificate)) || !bytes.Equal(n.Bundle, i.Certificates.At(m.now()).Bundle()) {
		m.t.Errorf("%s: its node serves another certificate than the record has", i.Name)
	}
}

// checkHistory checks every version of every record: an operation ends once and for all, and no two instances ever
// have the same address.
func (m *machine) checkHistory() {
	m.t.Helper()
	ended := make(map[string]instance.Operation)
	at := make(map[string]instance.Instance)
	for _, r := range m.history {
		if !strings.HasPrefix(r.Key, "projects/") {
			continue
		}
		i, err := instance.Decode(r.Key, r.Value, r.Version)
		if err != nil {
			m.t.Error(err)
			continue
		}
		for _, op := range i.Operations {
			before, was := ended[op.ID]
			if was && (!op.Done || !op.Ended.Equal(before.Ended) || (op.Failure == nil) != (before.Failure == nil)) {
				m.t.Errorf("operation %s of %s ended as %+v and then became %+v", op.ID, i.Name, before, op)
			}
			if op.Done {
				ended[op.ID] = op
			}
		}
		if i.Deleted {
			delete(at, r.Key)
			continue
		}
		at[r.Key] = i
		for key, o := range at {
			if key != r.Key && o.Host == i.Host {
				m.t.Errorf("%s was given the address of %s, %s", i.Name, o.Name, i.Host)
			}
		}
	}
}

// pkcs8 is how the private keys of elliptic curves begin, behind their outer length: version 0, id-ecPublicKey.
const pkcs8 = "\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01"

// checkSecrets checks that no secret was ever stored or logged in the clear, in base64 or not.
func (m *machine) checkSecrets() {
	m.t.Helper()
	needles := []string{"PRIVATE KEY", pkcs8}
	for _, s := range m.secrets {
		if s != "" {
			needles = append(needles, s)
		}
	}
	slices.Sort(needles)
	needles = slices.Compact(needles)
	find := func(where, text string) {
		for _, n := range needles {
			if strings.Contains(text, n) {
				m.t.Errorf("a secret is in the clear in %s: %.20q…", where, n)
			}
		}
	}
	find("the log", m.log.String())
	for _, r := range m.history {
		find("record "+r.Key, string(r.Value))
		var v any
		if json.Unmarshal(r.Value, &v) == nil {
			eachString(v, func(s string) {
				if raw, err := base64.StdEncoding.DecodeString(s); err == nil {
					find("record "+r.Key+", as base64", string(raw))
				}
			})
		}
	}
}

func eachString(v any, do func(string)) {
	switch v := v.(type) {
	case string:
		do(v)
	case []any:
		for _, e := range v {
			eachString(e, do)
		}
	case map[string]any:
		for _, e := range v {
			eachString(e, do)
		}
	}
}

// verbs are the operations of a record, oldest first.
func verbs(i instance.Instance) string {
	var vs []string
	for _, op := range i.Operations {
		v := string(op.Verb)
		if op.Failure != nil {
			v += "(" + string(op.Failure.Code) + ")"
		}
		vs = append(vs, v)
	}
	return strings.Join(vs, " ")
}

func byName(a, b instance.Instance) int { return cmp.Compare(a.Name.String(), b.Name.String()) }
