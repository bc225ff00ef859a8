package instance_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/store"
)

const day = 24 * time.Hour

// story runs a test in a bubble with a machine; the invariants are checked at its end, and no goroutine may be left.
func story(t *testing.T, tell func(*testing.T, *machine)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { tell(t, newMachine(t)) })
}

// wantError checks an error's class and that its text holds all of some words.
func wantError(t *testing.T, what string, err error, code instance.Code, words ...string) {
	t.Helper()
	if err == nil || instance.CodeOf(err) != code {
		t.Errorf("%s: %v; want %s", what, err, code)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q does not say %q", what, err, w)
		}
	}
}

func TestCreateBecomesReady(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		release := make(chan struct{})
		m.onEnsure = func(context.Context, instance.Node) error { <-release; return nil }
		op := m.create(first)
		synctest.Wait()
		i := m.get(first)
		if i.State != instance.Creating || i.Pending() == nil || i.Pending().ID != op.ID || i.Pending().Detail != "starting the engine" {
			t.Errorf("while it is created: %s, %+v", i.State, i.Pending())
		}
		close(release)
		i = m.waitReady(first)
		if op := m.operation(op); !op.Done || op.Failure != nil || op.Verb != instance.Create || op.APIVersion != "v1" {
			t.Errorf("operation: %+v", op)
		}
		if !m.addresses.Pool.Contains(netip.MustParseAddr(i.Host)) || i.Port != 6378 {
			t.Errorf("address %s; want one of %v, port 6378", i.Address(), m.addresses.Pool)
		}
		auth, err := m.server.AuthStrings.Get(first)
		n := m.node(first)
		if sum := sha256.Sum256([]byte(auth)); err != nil || len(auth) != 36 || !slices.Equal(n.PasswordHashes, []string{hex.EncodeToString(sum[:])}) {
			t.Errorf("auth string %q, %v; the node has the hash %s", auth, err, n.PasswordHashes)
		}
		if !strings.Contains(n.Gateway.Connect, "(ca.pem: program bundle first of p1 > ca.pem)") {
			t.Errorf("connect hint %q", n.Gateway.Connect)
		}
		checkVerifies(t, n, i.Host, "localhost", "127.0.0.1", "::1")
		if i.Spec.RedisVersion != defaultVersion || i.Spec.LocationID != "local-a" || i.Spec.AuthorizedNetwork != "projects/p1/global/networks/default" {
			t.Errorf("defaults: %+v", i.Spec)
		}
	})
}

// checkVerifies checks the served certificate for names as a client would.
func checkVerifies(t *testing.T, n node, hosts ...string) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(n.Bundle) {
		t.Error("the bundle holds no certificate")
	}
	block, _ := pem.Decode(n.Gateway.Certificate)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: h, CurrentTime: leaf.NotBefore.Add(time.Hour)}); err != nil {
			t.Errorf("certificate for %s: %v", h, err)
		}
	}
}

func TestCreateWithoutEncryptionOrAuth(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		if _, err := m.server.Create(first, instance.Spec{MemorySizeGB: 1}, "v1"); err != nil {
			t.Fatal(err)
		}
		i := m.waitReady(first)
		n := m.node(first)
		auth, err := m.server.AuthStrings.Get(first)
		if i.Port != 6379 || i.Certificates != nil || auth != "" || err != nil || n.PasswordHashes != nil || n.Bundle != nil || n.Gateway.Certificate != nil {
			t.Errorf("port %d, auth %q, %v, node %+v", i.Port, auth, err, n.Node)
		}
	})
}

func TestCancelUndoesACreateThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		m.server.Close()
		m.addresses.Pool = ownPool(32) // one address
		m.boot()
		m.onEnsure = hang
		op := m.create(first)
		time.Sleep(time.Hour)
		_, err := m.server.Create(named("second"), plainSpec(), "v1")
		wantError(t, "create without an address left", err, instance.ResourceExhausted, "no address is free")

		if err := m.server.Operations.Cancel("p1", "local", op.ID); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it takes no time
		_, err = m.server.Get(first)
		wantError(t, "get", err, instance.NotFound, "Resource 'projects/p1/locations/local/instances/first' was not found")
		if op := m.operation(op); !op.Done || op.Failure == nil || op.Failure.Code != instance.Cancelled || !op.CancelRequested {
			t.Errorf("operation: %+v", op)
		}
		if err := m.server.Operations.Cancel("p1", "local", op.ID); err != nil {
			t.Errorf("cancel of what is done: %v", err)
		}
		m.set(func() { m.onEnsure = nil })
		m.made(named("second"))
		_, err = m.server.Create(first, plainSpec(), "v1")
		wantError(t, "create at the address of another", err, instance.ResourceExhausted)
	})
}

func TestOnlyOneOperationAtATime(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.onEnsure = hang
		op := m.create(first)
		refused := func(when string, op instance.Operation) {
			t.Helper()
			_, err := m.server.Delete(first, "v1")
			wantError(t, "delete "+when, err, instance.FailedPrecondition, first.String(), "projects/p1/locations/local/operations/"+op.ID)
			_, err = m.server.Update(t.Context(), first, func(*instance.Spec) {}, "v1")
			wantError(t, "update "+when, err, instance.FailedPrecondition, first.String(), op.ID)
			wantError(t, "forget the operation "+when, m.server.Operations.Delete("p1", "local", op.ID), instance.FailedPrecondition, op.ID)
		}
		refused("while it is created", op)
		m.set(func() { m.onEnsure = nil })
		m.kill() // the hook of a step under way stays
		m.boot()
		m.waitReady(first)

		broken := errors.New("engine: does not answer")
		m.set(func() { m.onEnsure = func(context.Context, instance.Node) error { return broken } })
		op, err := m.server.Update(t.Context(), first, func(s *instance.Spec) { s.Labels = map[string]string{"a": "b"} }, "v1beta1")
		if err != nil {
			t.Fatal(err)
		}
		refused("while it is updated", op)
		if err := m.server.Operations.Cancel("p1", "local", op.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // neither a cancel nor time ends an update
		if i := m.get(first); i.State != instance.Updating || !strings.Contains(i.Pending().Detail, "does not answer") {
			t.Errorf("update that fails: %s, %+v", i.State, i.Pending())
		}
		m.set(func() { m.onEnsure = nil })
		if i := m.waitReady(first); i.Spec.Labels["a"] != "b" || verbs(i) != "create update" || !i.Operations[1].CancelRequested {
			t.Errorf("after the update: %+v, %s", i.Spec.Labels, verbs(i))
		}

		m.set(func() { m.onRemove = func(context.Context, string) error { return broken } })
		op, err = m.server.Delete(first, "v1")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		refused("while it is deleted", op)
		m.set(func() { m.onRemove = nil })
		m.waitGone(first)
	})
}

func TestConcurrentCreates(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		const each = 8
		m.set(func() {
			m.onPut = func(string) {
				for range 1000 { // the others are to come as far, if they can
					runtime.Gosched()
				}
			}
		})
		var wg sync.WaitGroup
		errs := make(chan error, each)
		for n := range each {
			wg.Go(func() {
				if _, err := m.server.Create(named(fmt.Sprintf("i%d", n)), plainSpec(), "v1"); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				_, err := m.server.Create(first, plainSpec(), "v1")
				errs <- err
			})
		}
		wg.Wait()
		won := 0
		for range each {
			if err := <-errs; err == nil {
				won++
			} else {
				wantError(t, "create of a name that is taken", err, instance.AlreadyExists, "Resource '"+first.String()+"' already exists")
			}
		}
		if won != 1 {
			t.Errorf("%d creates of one name succeeded", won)
		}
		hosts := make(map[string]bool)
		all, err := m.server.List("p1", "-")
		for _, i := range all {
			m.waitReady(i.Name)
			hosts[i.Host] = true
		}
		if err != nil || len(hosts) != each+1 {
			t.Errorf("%d hosts, %v; want %d", len(hosts), err, each+1)
		}
	})
}

func TestNameCanBeUsedAgain(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		old := m.made(first)
		oldNode := m.node(first)
		oldAuth, _ := m.server.AuthStrings.Get(first)
		if _, err := m.server.Delete(first, "v1"); err != nil {
			t.Fatal(err)
		}
		m.waitGone(first)
		if _, err := m.server.AuthStrings.Get(first); instance.CodeOf(err) != instance.NotFound {
			t.Errorf("auth string of what is deleted: %v", err)
		}
		i := m.made(first)
		auth, _ := m.server.AuthStrings.Get(first)
		if i.UID == old.UID || auth == oldAuth || string(i.Certificates.CAs[0].Certificate) == string(old.Certificates.CAs[0].Certificate) ||
			m.node(first).AdminPassword == oldNode.AdminPassword {
			t.Error("the new instance has something of the old one")
		}
		if verbs(i) != "create delete create" {
			t.Errorf("operations: %s", verbs(i))
		}
		ops, err := m.server.Operations.List("p1", "local")
		if err != nil || len(ops) != 3 || !ops[0].Created.Equal(i.Created) && ops[0].ID != i.Operations[2].ID {
			t.Errorf("operations: %d, %v", len(ops), err)
		}
	})
}

// Somebody forgets an operation of a deleted instance at the very moment that its name is used again.
func TestCreateOverATombstoneThatChanges(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		op := m.create(first)
		m.waitReady(first)
		if _, err := m.server.Delete(first, "v1"); err != nil {
			t.Fatal(err)
		}
		m.waitGone(first)
		interfered := false
		m.set(func() {
			m.onPut = func(string) {
				if interfered {
					return
				}
				interfered = true
				if err := m.server.Operations.Delete("p1", "local", op.ID); err != nil {
					t.Error(err)
				}
			}
		})
		m.create(first)
		if i := m.waitReady(first); verbs(i) != "delete create" {
			t.Errorf("operations: %s", verbs(i))
		}
	})
}

func TestFailedCreateFreesTheName(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err    error
		within time.Duration
		code   instance.Code
	}{
		"at once what is hopeless":   {fmt.Errorf("%w: no engine of version REDIS_7_0", instance.ErrFatal), 0, instance.FailedPrecondition},
		"with the code of the error": {errors.Join(instance.ErrFatal, &instance.Error{Code: instance.ResourceExhausted, Message: "the disk is full"}), 0, instance.ResourceExhausted},
		"after a time what may heal": {errors.New("gateway: it ended at once"), instance.CreateTimeout + instance.LastRetry, instance.FailedPrecondition},
		"and not what heals in time": {nil, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T, m *machine) {
				m.onEnsure = func(context.Context, instance.Node) error {
					if c.err == nil {
						return errors.New("not yet")
					}
					return c.err
				}
				op := m.create(first)
				if c.err == nil {
					time.Sleep(instance.CreateTimeout / 2)
					if i := m.get(first); i.StatusMessage != "not yet" || i.Pending().Detail != "not yet" {
						t.Errorf("while it fails: %q, %+v", i.StatusMessage, i.Pending())
					}
					m.set(func() { m.onEnsure = nil })
					m.waitReady(first)
					if got := m.get(first).StatusMessage; got != "" {
						t.Errorf("message when it is well again: %q", got)
					}
					return
				}
				time.Sleep(c.within)
				synctest.Wait()
				_, err := m.server.Get(first)
				wantError(t, "get", err, instance.NotFound)
				if op := m.operation(op); !op.Done || op.Failure == nil || op.Failure.Code != c.code || !strings.Contains(op.Failure.Message, c.err.Error()) {
					t.Errorf("operation: %+v, %+v", op, op.Failure)
				}
				m.set(func() { m.onEnsure = nil })
				m.made(first)
			})
		})
	}
}

func TestErrorsOfTheStoreAreExplained(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		for _, c := range []struct {
			err  error
			code instance.Code
			says string
		}{
			{&os.PathError{Op: "write", Path: "/s/state.db", Err: syscall.ENOSPC}, instance.ResourceExhausted, "the disk is full"},
			{fmt.Errorf("put: %w", syscall.EDQUOT), instance.ResourceExhausted, "the disk is full"},
			{fmt.Errorf("put: %w", syscall.EROFS), instance.FailedPrecondition, "not writable"},
			{fmt.Errorf("put: %w", syscall.EACCES), instance.FailedPrecondition, "not writable"},
			{store.ErrClosed, instance.Unavailable, "stopping"},
			{fmt.Errorf("get: record x: %w", store.ErrDamaged), instance.Internal, "state.db is damaged: stop the server, put it back from a backup"},
			{errors.New("page 3: checksum"), instance.Internal, "see the server's log"},
		} {
			m.set(func() { m.storeErr = c.err })
			_, err := m.server.Create(named("second"), plainSpec(), "v1")
			wantError(t, "create", err, c.code, c.says)
			_, err = m.server.Update(t.Context(), first, func(*instance.Spec) {}, "v1")
			wantError(t, "update", err, c.code, c.says)
			_, err = m.server.Delete(first, "v1")
			wantError(t, "delete", err, c.code, c.says)
			_, err = m.server.List("p1", "-")
			wantError(t, "list", err, c.code, c.says)
			_, err = m.server.AuthStrings.Get(first)
			wantError(t, "auth string", err, c.code, c.says)
			_, err = m.server.Operations.List("p1", "-")
			wantError(t, "operations", err, c.code, c.says)
			_, err = m.server.LocationNames("p1")
			wantError(t, "locations", err, c.code, c.says)
			time.Sleep(time.Hour)
		}
		m.set(func() { m.storeErr = nil })
		m.waitReady(first)
		m.made(named("second"))
	})
}

// A disk that is full when the first certificate is to be stored fails the create, and leaves a server that works.
func TestCreateWithAFullDisk(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		puts := 0
		m.onPut = func(string) {
			if puts++; puts == 2 {
				m.set(func() { m.storeErr = syscall.ENOSPC })
			}
		}
		m.create(first)
		time.Sleep(30 * time.Second)
		m.set(func() { m.storeErr = nil })
		m.waitReady(first)
	})
}

func TestCloseLeavesNodesRunning(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		i := m.made(first)
		m.server.Close()
		m.server.Close() // idempotent
		if n := m.nodes[i.NodeID()]; !n.running || n.stops != 0 {
			t.Errorf("node: %+v", n)
		}
		// What is asked for now is done by the next server.
		m.create(named("second"))
		time.Sleep(time.Minute)
		if got := m.get(named("second")).State; got != instance.Creating {
			t.Errorf("second is %s", got)
		}
		m.boot()
		m.waitReady(named("second"))
		if n := m.node(first); n.starts != 1 {
			t.Errorf("first was started %d times", n.starts)
		}
	})
}

func TestStopAllGoesOnAfterErrors(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		for n := range 4 {
			m.made(named(fmt.Sprintf("i%d", n)))
		}
		m.set(func() {
			m.onStop = func(_ context.Context, n instance.Node) error {
				if n.Instance.ID == "i1" || n.Instance.ID == "i3" {
					return fmt.Errorf("the engine of %s stays up", n.Instance.ID)
				}
				return nil
			}
		})
		var mu sync.Mutex
		told := make(map[string]bool)
		err := m.server.StopAll(t.Context(), instance.StopAllOptions{Stopped: func(n instance.Name, err error) {
			mu.Lock()
			defer mu.Unlock()
			told[n.ID] = err == nil
		}})
		const price = "; `program kill all` ends it, and all its data are lost, because its persistence is off"
		if err == nil || !strings.Contains(err.Error(), "stop projects/p1/locations/local/instances/i1: the engine of i1 stays up"+price) ||
			!strings.Contains(err.Error(), "the engine of i3 stays up"+price) {
			t.Errorf("error: %v", err)
		}
		for id, want := range map[string]bool{"i0": true, "i1": false, "i2": true, "i3": false} {
			if ok, was := told[id]; ok != want || !was || m.node(named(id)).running == want {
				t.Errorf("%s: told %t, %t", id, ok, was)
			}
		}
		m.boot() // and the next start brings all of them back
		m.server.Settled(t.Context())
		for n := range 4 {
			if !m.node(named(fmt.Sprintf("i%d", n))).running {
				t.Errorf("i%d does not run again", n)
			}
		}
	})
}

func TestWrongMasterKeyIsRefused(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		right := m.key
		m.made(first)
		m.server.Close()
		wrong, err := pki.ParseMasterKey(pki.NewMasterKey())
		if err != nil {
			t.Fatal(err)
		}
		m.key = wrong
		if _, err := m.newManager(m.server); !errors.Is(err, pki.ErrSeal) || !strings.Contains(err.Error(), "another master key") {
			t.Errorf("new with another master key: %v", err)
		}
		m.key = right
		m.boot()
		m.waitReady(first)
	})
}

func TestSettledEndsWithItsContext(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.onEnsure = hang
		m.create(first)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		m.server.Settled(ctx)
		if ctx.Err() == nil {
			t.Error("it did not wait for the instance")
		}
		m.set(func() { m.onEnsure = nil })
	})
}

func TestOperationsAreListedNewestFirstAndTrimmed(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.made(first)
		m.made(named("other"))
		for n := range instance.KeepOperations + 5 {
			time.Sleep(time.Second)
			if _, err := m.server.Update(t.Context(), first, func(s *instance.Spec) { s.DisplayName = fmt.Sprint(n) }, "v1"); err != nil {
				t.Fatal(err)
			}
			m.waitReady(first)
		}
		ops, err := m.server.Operations.List("p1", "-")
		if err != nil || len(ops) != instance.KeepOperations+1 {
			t.Fatalf("%d operations, %v", len(ops), err)
		}
		if !slices.IsSortedFunc(ops, func(a, b instance.OperationOf) int { return b.Created.Compare(a.Created) }) {
			t.Error("not the newest first")
		}
		last := ops[0]
		if last.Instance.Spec.DisplayName != "54" || last.Verb != instance.Update {
			t.Errorf("the newest is %+v", last.Operation)
		}
		if err := m.server.Operations.Delete("p1", "local", last.ID); err != nil {
			t.Error(err)
		}
		_, err = m.server.Operations.Get("p1", "local", last.ID)
		wantError(t, "forgotten operation", err, instance.NotFound, "Resource 'projects/p1/locations/local/operations/"+last.ID+"' was not found")
		wantError(t, "forget it again", m.server.Operations.Delete("p1", "local", last.ID), instance.NotFound)
		wantError(t, "cancel it", m.server.Operations.Cancel("p1", "local", last.ID), instance.NotFound)
		if _, err := m.server.Operations.Get("p1", "elsewhere", ops[1].ID); instance.CodeOf(err) != instance.NotFound {
			t.Errorf("operation of another location: %v", err)
		}
	})
}

func TestTombstonesAreSwept(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		for _, n := range []instance.Name{first, named("forgotten"), named("stays")} {
			m.made(n)
		}
		del := make(map[instance.Name]instance.Operation)
		for _, n := range []instance.Name{first, named("forgotten")} {
			op, err := m.server.Delete(n, "v1")
			if err != nil {
				t.Fatal(err)
			}
			del[n] = op
			m.waitGone(n)
		}
		if op := m.operation(del[first]); !op.Done || op.Failure != nil {
			t.Errorf("operation of what is deleted: %+v", op)
		}
		// Without operations there is nothing to keep it for.
		for _, op := range m.stored() {
			for _, o := range op.Operations {
				if op.Name == named("forgotten") {
					if err := m.server.Operations.Delete("p1", "local", o.ID); err != nil {
						t.Error(err)
					}
				}
			}
		}
		time.Sleep(2 * time.Hour)
		if n := len(m.stored()); n != 2 {
			t.Errorf("%d records; want first's and stays'", n)
		}
		m.jump(instance.KeepTombstones)
		time.Sleep(2 * time.Hour)
		if all := m.stored(); len(all) != 1 || all[0].Name != named("stays") {
			t.Errorf("records after a week: %d", len(all))
		}
		m.made(first)
	})
}

func TestProjectsAndLocationsOfTheConfiguration(t *testing.T) {
	story(t, func(t *testing.T, m *machine) {
		m.reconfigure(func(c *instance.Config) { c.Projects, c.Locations = []string{"p1"}, []string{"east1", "west1"} })
		_, err := m.server.Create(first, plainSpec(), "v1")
		wantError(t, "create elsewhere", err, instance.NotFound, `"local"`, "east1, west1")
		_, err = m.server.Create(instance.Name{Project: "p2", Location: "east1", ID: "a"}, plainSpec(), "v1")
		wantError(t, "create in another project", err, instance.NotFound, `"p2"`)
		_, err = m.server.List("p2", "-")
		wantError(t, "list another project", err, instance.NotFound)
		_, err = m.server.LocationNames("p2")
		wantError(t, "locations of another project", err, instance.NotFound)
		if names, err := m.server.LocationNames("p1"); err != nil || strings.Join(names, " ") != "east1 west1" {
			t.Errorf("locations: %v, %v", names, err)
		}
		wantError(t, "unknown location", m.server.CheckLocation("p1", "north1"), instance.NotFound)

		m.reconfigure(nil)
		m.made(instance.Name{Project: "p1", Location: "mars1", ID: "a"})
		if names, err := m.server.LocationNames("p1"); err != nil || strings.Join(names, " ") != "local mars1" {
			t.Errorf("locations: %v, %v", names, err)
		}
		if all, err := m.server.List("p1", "local"); err != nil || len(all) != 0 {
			t.Errorf("list of local: %d, %v", len(all), err)
		}
	})
}

// A project may belong to a domain, and the configuration may make names of it.
func TestNamesOfTheCertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		m.addresses.DNSNames = []string{"{instance}.{location}.{project}.example.com"}
		m.kill()
		m.boot()
		i := m.made(first)
		checkVerifies(t, m.node(first), "first.local.p1.example.com", i.Host)
		scoped := instance.Name{Project: "example.com:id", Location: "local", ID: "a"}
		_, err := m.server.Create(scoped, plainSpec(), "v1")
		wantError(t, "create with a name that is none", err, instance.FailedPrecondition, "a.local.example.com:id.example.com", "addresses.dns_names")
		m.addresses.DNSNames = nil
		m.kill()
		m.boot()
		m.made(scoped)
	})
}
