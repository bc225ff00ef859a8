package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sealane/sealane/internal/store"
)

var key = bytes.Repeat([]byte("k"), 32)

func open(t *testing.T, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestRecordSurvivesReopen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	if _, err := s.Put("a", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Put("a", []byte("2"), 1); err != nil || v != 2 {
		t.Fatalf("second put: version %d, %v; want 2", v, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, path).Get("a")
	if err != nil || string(got.Value) != "2" || got.Version != 2 {
		t.Fatalf("after reopen: %+v, %v", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestChangeOfAnotherVersionIsRefused(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	if _, err := s.Put("a", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"create what exists":       func() error { _, err := s.Put("a", nil, 0); return err },
		"put of a later version":   func() error { _, err := s.Put("a", nil, 2); return err },
		"put of what is not there": func() error { _, err := s.Put("b", nil, 1); return err },
		"delete of an old version": func() error { return s.Delete("a", 0) },
		"delete of nothing":        func() error { return s.Delete("b", 1) },
	} {
		if err := change(); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: %v; want ErrConflict", name, err)
		}
	}
	if got, err := s.Get("a"); err != nil || string(got.Value) != "1" {
		t.Errorf("record after refused changes: %+v, %v", got, err)
	}
	if err := s.Delete("a", 1); err != nil {
		t.Error(err)
	}
	if _, err := s.Get("a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("get after delete: %v; want ErrNotFound", err)
	}
}

func TestOfConcurrentWritersEachWinsItsVersion(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	const writers, each = 4, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for won := 0; won < each; {
				r, err := s.Get("n")
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
					return
				}
				switch _, err := s.Put("n", nil, r.Version); {
				case err == nil:
					won++
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if r, err := s.Get("n"); err != nil || r.Version != writers*each {
		t.Fatalf("version %d, %v; want %d: an update was lost", r.Version, err, writers*each)
	}
}

func TestListIsOrderedAndBoundedByPrefix(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	for _, k := range []string{"p/b", "p/a", "pp", "q"} {
		if _, err := s.Put(k, []byte(k), 0); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.List("p/")
	if err != nil || len(got) != 2 || got[0].Key != "p/a" || got[1].Key != "p/b" {
		t.Fatalf("list p/ = %v, %v", got, err)
	}
}

func TestSecondProcessIsToldThatTheStoreIsInUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	open(t, path)
	// flock belongs to the open file, so a second Open in this process meets what another process would.
	if _, err := store.Open(path, key); !errors.Is(err, store.ErrInUse) {
		t.Fatalf("second open: %v; want ErrInUse", err)
	}
}

func TestDamagedFileIsAnErrorThatNamesIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, []byte(fmt.Sprintf("%8192s", "not a database")), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := store.Open(path, key)
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("open of garbage: %v; want an error that names %s", err, path)
	}
}

// A disk that fills up, or a copy that was cut off, leaves such files.
func TestFileCutOffIsAnErrorAndNoCrash(t *testing.T) {
	t.Parallel()
	whole := filepath.Join(t.TempDir(), "state.db")
	if err := open(t, whole).Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 4096, 8192, 12288, 16383} {
		path := filepath.Join(t.TempDir(), "state.db")
		if err := os.WriteFile(path, raw[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(path, key); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%d of %d bytes: %v; want ErrDamaged", size, len(raw), err)
		}
	}
}
