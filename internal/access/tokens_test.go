package access_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/store"
)

const admin = "sealane_the-administrators-token"

// disk is a real store, whose writes fail while it is full. With stored they fail after they were made.
type disk struct {
	*store.Store
	mu     sync.Mutex
	full   error
	stored bool
}

func (d *disk) fill(err error, stored bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full, d.stored = err, stored
}

func (d *disk) Put(key string, value []byte, version uint64) (uint64, error) {
	d.mu.Lock()
	full, stored := d.full, d.stored
	d.mu.Unlock()
	if full == nil {
		return d.Store.Put(key, value, version)
	}
	if stored {
		if _, err := d.Store.Put(key, value, version); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("put: %w", full)
}

// tokens opens the records in a folder; close closes them, as at the end of a server.
func tokens(t testing.TB, dir string) (all *access.Tokens, d *disk, end func()) {
	t.Helper()
	st, err := store.Open(filepath.Join(dir, "state.db"), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	d = &disk{Store: st}
	all, err = access.Open(d, admin, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		all.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return all, d, end
}

func create(t testing.TB, all *access.Tokens, wanted access.Token) (access.Token, string) {
	t.Helper()
	made, secret, err := all.Create(wanted)
	if err != nil {
		t.Fatal(err)
	}
	return made, secret
}

var viewer = []access.Binding{{Role: access.Viewer, Scope: access.Scope{Project: "p1"}}}

func TestATokenLetsItsHolderInUntilItEndsAndOverARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		all, _, end := tokens(t, dir)
		made, secret := create(t, all, access.Token{Description: "monitoring", Bindings: viewer, Creator: access.AdminID, Expires: time.Now().Add(time.Hour)})
		forever, other := create(t, all, access.Token{Bindings: viewer})
		if !strings.HasPrefix(secret, "sealane_"+made.ID+"_") || secret == other || made.ID == forever.ID {
			t.Errorf("tokens %q (%s) and %q", secret, made.ID, other)
		}
		check := func(token string, want error) {
			t.Helper()
			p, err := all.Authenticate(token)
			if !errors.Is(err, want) || err == nil && (len(p.Bindings) != 1 || p.Bindings[0] != viewer[0]) {
				t.Errorf("token: %v, %v; want %v", p, err, want)
			}
		}
		check(secret, nil)
		for _, wrong := range []string{"", made.ID, secret[:len(secret)-1], secret + "x", "sealane_" + made.ID + "_", strings.ToUpper(secret), admin + "x"} {
			check(wrong, access.ErrUnknown)
		}
		if p, err := all.Authenticate(admin); err != nil || p.ID != access.AdminID || !p.May(access.InstancesDelete, access.Scope{}) {
			t.Errorf("the administrator: %v, %v", p, err)
		}
		end()
		all, _, end = tokens(t, dir)
		defer end()
		check(secret, nil)
		if got, err := all.Get(made.ID); err != nil || got.Description != "monitoring" || got.Creator != access.AdminID || !got.Expires.Equal(made.Expires) {
			t.Errorf("after a restart: %+v, %v", got, err)
		}
		time.Sleep(time.Until(made.Expires) - time.Nanosecond)
		check(secret, nil)
		time.Sleep(time.Nanosecond)
		check(secret, access.ErrExpired)
		if _, err := all.Revoke(forever.ID); err != nil {
			t.Fatal(err)
		}
		check(other, access.ErrRevoked)
		if again, err := all.Revoke(forever.ID); err != nil || again.Revoked.IsZero() {
			t.Errorf("revoked again: %+v, %v", again, err)
		}
		if _, err := all.Revoke("nobody"); !errors.Is(err, access.ErrUnknown) {
			t.Errorf("revoke what is not there: %v", err)
		}
	})
}

// A token that ended is known for a while, so that whoever uses it learns why it fails; then it is as if it had never been.
func TestAnEndedTokenIsForgottenAfterAMonth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		all, d, end := tokens(t, dir)
		defer end()
		expired, secret := create(t, all, access.Token{Bindings: viewer, Expires: time.Now().Add(time.Hour)})
		revoked, other := create(t, all, access.Token{Bindings: viewer})
		kept, good := create(t, all, access.Token{Bindings: viewer})
		if _, err := all.Revoke(revoked.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(access.ForgetAfter - time.Hour)
		if n := len(all.List()); n != 3 {
			t.Errorf("%d tokens, want 3", n)
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		for id, token := range map[string]string{expired.ID: secret, revoked.ID: other} {
			if _, err := all.Authenticate(token); !errors.Is(err, access.ErrUnknown) {
				t.Errorf("%s: %v", id, err)
			}
		}
		if list := all.List(); len(list) != 1 || list[0].ID != kept.ID {
			t.Errorf("left: %+v", list)
		}
		if records, err := d.List("tokens/"); err != nil || len(records) != 1 {
			t.Errorf("%d records, %v", len(records), err)
		}
		if _, err := all.Authenticate(good); err != nil {
			t.Error(err)
		}
	})
}

// Each use is known at once, and written down once in ten minutes and at the end.
func TestWhenATokenWasLastUsedIsWrittenDownNowAndThen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		all, d, end := tokens(t, dir)
		made, secret := create(t, all, access.Token{Bindings: viewer})
		version := func() uint64 {
			r, err := d.Get("tokens/" + made.ID)
			if err != nil {
				t.Fatal(err)
			}
			return r.Version
		}
		time.Sleep(time.Second)
		for range 1000 {
			if _, err := all.Authenticate(secret); err != nil {
				t.Fatal(err)
			}
		}
		if got, _ := all.Get(made.ID); got.Used.IsZero() || version() != 1 {
			t.Errorf("used %v, version %d of the record; want a time, and 1", got.Used, version())
		}
		time.Sleep(access.UseInterval)
		synctest.Wait()
		if version() != 2 {
			t.Errorf("after %v: version %d, want 2", access.UseInterval, version())
		}
		time.Sleep(5 * access.UseInterval)
		synctest.Wait()
		if version() != 2 {
			t.Errorf("unused: version %d, want 2", version())
		}
		used := time.Now()
		if _, err := all.Authenticate(secret); err != nil {
			t.Fatal(err)
		}
		end()
		all, _, end = tokens(t, dir)
		defer end()
		if got, _ := all.Get(made.ID); got.Used.IsZero() || used.Sub(got.Used) > time.Second {
			t.Errorf("after a restart: used %v, want %v", got.Used, used)
		}
	})
}

func TestAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all, d, end := tokens(t, dir)
	made, secret := create(t, all, access.Token{Bindings: viewer})
	d.fill(syscall.ENOSPC, false)
	if _, leaked, err := all.Create(access.Token{Bindings: viewer}); !errors.Is(err, syscall.ENOSPC) || leaked != "" {
		t.Errorf("create: %q, %v", leaked, err)
	}
	if n := len(all.List()); n != 1 {
		t.Errorf("%d tokens after a create that failed, want 1", n)
	}
	if _, err := all.Authenticate(secret); err != nil {
		t.Errorf("a token that is there: %v", err)
	}
	// A stolen token must not live on because of the disk.
	if _, err := all.Revoke(made.ID); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("revoke: %v", err)
	}
	if _, err := all.Authenticate(secret); !errors.Is(err, access.ErrRevoked) {
		t.Errorf("after the revocation that was not recorded: %v", err)
	}
	d.fill(nil, false)
	if _, err := all.Revoke(made.ID); err != nil {
		t.Errorf("revoke, with space: %v", err)
	}
	end()
	all, _, _ = tokens(t, dir)
	if _, err := all.Authenticate(secret); !errors.Is(err, access.ErrRevoked) {
		t.Errorf("after a restart: %v", err)
	}
}

// The revocation that could not be recorded is recorded by itself when there is space.
func TestARevocationIsRecordedLater(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		all, d, end := tokens(t, dir)
		made, secret := create(t, all, access.Token{Bindings: viewer})
		d.fill(syscall.ENOSPC, false)
		if _, err := all.Revoke(made.ID); err == nil {
			t.Error("revoke on a full disk: no error")
		}
		time.Sleep(access.UseInterval + time.Second)
		d.fill(nil, false)
		time.Sleep(access.UseInterval)
		synctest.Wait()
		end()
		all, _, end = tokens(t, dir)
		defer end()
		if _, err := all.Authenticate(secret); !errors.Is(err, access.ErrRevoked) {
			t.Errorf("after a restart: %v", err)
		}
	})
}

// A write that failed and was made all the same is no failure: what was recorded is what is known.
func TestAWriteThatFailedAndWasMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all, d, end := tokens(t, dir)
	d.fill(errors.New("input/output error"), true)
	made, secret, err := all.Create(access.Token{Bindings: viewer})
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if _, err := all.Authenticate(secret); err != nil {
		t.Error(err)
	}
	if _, err := all.Revoke(made.ID); err != nil {
		t.Errorf("revoke: %v", err)
	}
	d.fill(nil, false)
	end()
	all, _, _ = tokens(t, dir)
	if _, err := all.Authenticate(secret); !errors.Is(err, access.ErrRevoked) {
		t.Errorf("after a restart: %v", err)
	}
}

// Nothing on disk lets anybody in.
func TestTheSecretIsNotInTheRecords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all, _, end := tokens(t, dir)
	_, secret := create(t, all, access.Token{Bindings: viewer})
	end()
	raw, err := os.ReadFile(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte(secret[len(secret)-20:])) || bytes.Contains(raw, []byte(admin)) {
		t.Error("the records have a token in clear")
	}
}

func TestARecordThatIsNoTokenIsAnError(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{"no JSON": "x", "no hash": `{"ID":"a"}`, "another id": `{"ID":"b","Hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`} {
		_, d, end := tokens(t, t.TempDir())
		if _, err := d.Put("tokens/a", []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		if all, err := access.Open(d, admin, time.Now, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: no error", name)
			all.Close()
		}
		end()
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	all, _, _ := tokens(t, t.TempDir())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				made, secret, err := all.Create(access.Token{Bindings: viewer})
				if err != nil {
					t.Error(err)
					return
				}
				for range 50 {
					if _, err := all.Authenticate(secret); err != nil {
						t.Error(err)
					}
				}
				all.List()
				if _, err := all.Revoke(made.ID); err != nil {
					t.Error(err)
				}
				if _, err := all.Authenticate(secret); !errors.Is(err, access.ErrRevoked) {
					t.Errorf("after it was revoked: %v", err)
				}
			}
		})
	}
	wg.Wait()
	list := all.List()
	if len(list) != 40 || !slices.IsSortedFunc(list, func(a, b access.Token) int { return strings.Compare(a.ID, b.ID) }) {
		t.Errorf("%d tokens, or not in order", len(list))
	}
}
