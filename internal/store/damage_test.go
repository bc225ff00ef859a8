package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/sealane/sealane/internal/store"
)

// fill makes a store with records of many sizes, some changed and some deleted, and returns what is in it.
func fill(t testing.TB, path string, n int) []store.Record {
	t.Helper()
	s, err := store.Open(path, key)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		k := fmt.Sprintf("projects/p/locations/l/instances/i-%04d", r.IntN(n))
		have, err := s.Get(k)
		switch {
		case err == nil && i%3 == 0:
			err = s.Delete(k, have.Version)
		case err == nil || errors.Is(err, store.ErrNotFound):
			_, err = s.Put(k, bytes.Repeat([]byte{byte('a' + i%26)}, r.IntN(700)), have.Version)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.List("")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func same(a, b []store.Record) bool {
	return slices.EqualFunc(a, b, func(a, b store.Record) bool {
		return a.Key == b.Key && a.Version == b.Version && bytes.Equal(a.Value, b.Value)
	})
}

// checkDamaged opens a file that somebody changed: it has all that was there before, or it is said to be damaged.
func checkDamaged(t *testing.T, path string, want []store.Record, what string) (opened bool) {
	t.Helper()
	s, err := store.Open(path, key)
	if err != nil {
		if !errors.Is(err, store.ErrDamaged) && !errors.Is(err, store.ErrWrongKey) {
			t.Errorf("%s: open: %v; want ErrDamaged", what, err)
		}
		return false
	}
	defer s.Close()
	got, err := s.List("")
	if err != nil || !same(got, want) {
		t.Errorf("%s: opens, and lists %d records, %v; want the %d that there were", what, len(got), err, len(want))
	}
	for _, r := range want {
		if got, err := s.Get(r.Key); err != nil || !same([]store.Record{got}, []store.Record{r}) {
			t.Errorf("%s: opens, and get %s is %v, %v", what, r.Key, got, err)
		}
	}
	return true
}

// A flipped bit of state.db was read as if it had been written: "auth: off", an instance that is not there, a panic.
func TestAFlippedBitIsNeverReadAsData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole.db")
	want := fill(t, whole, 60)
	raw, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "state.db")
	const step = 41 // with a step of 1 it takes minutes, and is as green
	damaged := 0
	for at := 0; at < len(raw); at += step {
		flipped := bytes.Clone(raw)
		flipped[at] ^= 1 << (at / step % 8)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if !checkDamaged(t, path, want, fmt.Sprintf("byte %#x of %#x", at, len(raw))) {
			damaged++
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d of %d bytes matter", damaged, len(raw)/step)
}

func TestDamageWhileTheStoreIsOpenIsAnError(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	want := fill(t, path, 400)
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 30 {
		s, err := store.Open(path, key)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		// What bbolt has mapped changes under its feet.
		for range 1 + round%20 {
			at := 2*int64(os.Getpagesize()) + r.Int64N(int64(len(raw)-2*os.Getpagesize()))
			f.WriteAt([]byte{raw[at] ^ 1<<r.IntN(8)}, at)
		}
		if got, err := s.List(""); err == nil && !same(got, want) {
			t.Errorf("round %d: other records than were written, and no error", round)
		} else if err != nil && !errors.Is(err, store.ErrDamaged) {
			t.Errorf("round %d: list: %v; want ErrDamaged", round, err)
		}
		for _, k := range []string{want[0].Key, "projects/none"} {
			if got, err := s.Get(k); err == nil && !same([]store.Record{got}, want[:1]) {
				t.Errorf("round %d: get %s: %v", round, k, got)
			} else if errors.Is(err, store.ErrNotFound) && k == want[0].Key {
				t.Errorf("round %d: %s is not found, and no damage told", round, k)
			}
		}
		s.Close()
		f.Truncate(int64(len(raw)))
		if _, err := f.WriteAt(raw, 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

// edit changes the file as somebody with bbolt's own tool would.
func edit(t *testing.T, path string, change func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(change); err != nil {
		t.Fatal(err)
	}
}

func TestARecordThatWasEditedSwappedRemovedOrIsOldIsDamage(t *testing.T) {
	t.Parallel()
	type records = *bolt.Bucket
	for name, change := range map[string]func(b records, old []byte) error{
		"edited": func(b records, _ []byte) error {
			return b.Put([]byte("a"), bytes.Replace(b.Get([]byte("a")), []byte("auth on"), []byte("auth no"), 1))
		},
		"another's":   func(b records, _ []byte) error { return b.Put([]byte("a"), b.Get([]byte("b"))) },
		"swapped":     swap,
		"removed":     func(b records, _ []byte) error { return b.Delete([]byte("a")) },
		"old":         func(b records, old []byte) error { return b.Put([]byte("a"), old) },
		"added":       func(b records, _ []byte) error { return b.Put([]byte("c"), b.Get([]byte("a"))) },
		"unprotected": func(b records, _ []byte) error { return b.Put([]byte("a"), append(make([]byte, 8), "auth no"...)) },
		"all gone":    func(b records, _ []byte) error { return b.Tx().DeleteBucket([]byte("records")) },
		"the format":  func(b records, _ []byte) error { return b.Tx().DeleteBucket([]byte("format")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "state.db")
			s := open(t, path)
			var old []byte
			for version, value := range []string{"auth off", "auth on"} {
				if _, err := s.Put("a", []byte(value), uint64(version)); err != nil {
					t.Fatal(err)
				}
				if version == 0 {
					s.Close()
					edit(t, path, func(tx *bolt.Tx) error {
						old = bytes.Clone(tx.Bucket([]byte("records")).Get([]byte("a")))
						return nil
					})
					s = open(t, path)
				}
			}
			if _, err := s.Put("b", []byte("auth off"), 0); err != nil {
				t.Fatal(err)
			}
			s.Close()
			edit(t, path, func(tx *bolt.Tx) error { return change(tx.Bucket([]byte("records")), old) })
			if s, err := store.Open(path, key); !errors.Is(err, store.ErrDamaged) {
				if err == nil {
					s.Close()
				}
				t.Errorf("got %v, want ErrDamaged", err)
			}
		})
	}
}

func swap(b *bolt.Bucket, _ []byte) error {
	x, y := bytes.Clone(b.Get([]byte("a"))), bytes.Clone(b.Get([]byte("b")))
	return errors.Join(b.Put([]byte("a"), y), b.Put([]byte("b"), x))
}

// old makes a file as Sealane wrote it before records were protected.
func old(t *testing.T, path string) {
	t.Helper()
	edit(t, path, func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("records"))
		if err != nil {
			return err
		}
		for k, v := range map[string]string{"a": "1", "b": "2"} {
			if err := b.Put([]byte(k), append(binary.BigEndian.AppendUint64(nil, 7), v...)); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestRecordsOfAnOlderSealaneAreReadAndProtected(t *testing.T) {
	t.Parallel()
	other := bytes.Repeat([]byte("o"), 32)
	path := filepath.Join(t.TempDir(), "state.db")
	old(t, path)
	// Whoever comes with a wrong key must be able to leave again: only Protect and changes bind the file to a key.
	s, err := store.Open(path, other)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, path)
	for range 2 {
		if r, err := s.Get("a"); err != nil || string(r.Value) != "1" || r.Version != 7 {
			t.Errorf("a is %+v, %v", r, err)
		}
		if err := s.Protect(); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := s.Put("b", []byte("3"), 7); err != nil || v != 8 {
		t.Errorf("put: %d, %v", v, err)
	}
	s.Close()
	if _, err := store.Open(path, other); !errors.Is(err, store.ErrWrongKey) {
		t.Errorf("open with another key: %v; want ErrWrongKey", err)
	}
	if all, err := open(t, path).List(""); err != nil || len(all) != 2 || all[1].Version != 8 {
		t.Errorf("got %v, %v", all, err)
	}
}

func TestAChangeProtectsTheRecordsOfAnOlderSealane(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	old(t, path)
	s := open(t, path)
	if err := s.Delete("a", 7); err != nil {
		t.Fatal(err)
	}
	s.Close()
	edit(t, path, func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("records")).Put([]byte("b"), append(binary.BigEndian.AppendUint64(nil, 7), '9'))
	})
	if _, err := store.Open(path, key); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("open: %v; want ErrDamaged", err)
	}
}

func TestOpenWritesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	fill(t, path, 20)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	open(t, path).Close()
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file has changed, %v", err)
	}
}

// FuzzPages: whatever is written over a part of a file, looking at it and, where it looks well, working with it is no panic and
// no endless loop, and shows nothing but what was there.
func FuzzPages(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.db")
	want := fill(f, path, 30)
	raw, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(0), []byte{})
	f.Add(uint16(0x3000), []byte{2, 0, 1, 0})
	f.Add(uint16(0x2010), bytes.Repeat([]byte{0xff}, 16))
	f.Fuzz(func(t *testing.T, at uint16, patch []byte) {
		data := bytes.Clone(raw)
		copy(data[int(at)%len(data):], patch)
		if store.CheckPages(data) != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "state.db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		checkDamaged(t, path, want, fmt.Sprintf("%x at %#x", patch, at))
	})
}
