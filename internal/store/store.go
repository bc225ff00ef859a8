// Package store keeps small durable records and changes them by compare-and-swap.
//
// Guaranteed: a Put or Delete that returned nil survives a crash; one that returned an error other than
// ErrConflict may or may not have happened, so the caller reads again before it decides; of several
// writers that saw the same version one wins and the rest get ErrConflict. One process at a time holds
// the store. Not guaranteed: anything about two records together; what must change together is one record.
//
// bbolt's promise depends on fsync: on ext4 with fast_commit a power cut can lose the last commits
// (etcd-io/bbolt#562).
package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/sealane/sealane/internal/durable"
)

var (
	// ErrNotFound says that no record has that key.
	ErrNotFound = errors.New("no such record")
	// ErrConflict says that the record is not at the version that the caller saw.
	ErrConflict = errors.New("record was changed by somebody else")
	// ErrInUse says that another process holds the store.
	ErrInUse = errors.New("in use by another process")
	// ErrDamaged says that the file is not a whole store.
	ErrDamaged = errors.New("damaged")
	// ErrClosed says that Close was called.
	ErrClosed = bolterrors.ErrDatabaseNotOpen
)

// Record is one value and the version that a change of it must name.
type Record struct {
	Key     string
	Value   []byte
	Version uint64 // 1 for the first value, one more with each Put
}

// Store is a file of records. Its methods may be called concurrently.
type Store struct {
	db *bolt.DB
}

var bucket = []byte("records")

// smallest is what bbolt's first four pages take.
const smallest = 4 << 12

// Open opens the store in file path and creates it, readable by its owner only, where there is none.
// It waits up to a second for another process to let go and then returns ErrInUse.
func Open(path string) (*Store, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(path); err != nil {
			return nil, fmt.Errorf("create store %s: %w", path, err)
		}
	case err != nil:
		return nil, fmt.Errorf("open store: %w", err)
	case info.Size() < smallest:
		// bbolt would map a file that ends within its first pages, and die of SIGBUS.
		return nil, fmt.Errorf("open store %s: %w: %d bytes are too few", path, ErrDamaged, info.Size())
	}
	db, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return &Store{db: db}, nil
}

// create makes an empty store elsewhere and moves it into place when it is whole: a disk that fills up meanwhile
// leaves nothing.
func create(path string) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new.*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return err
	}
	db, err := open(f.Name())
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	// Not rename(2): of two processes that begin together, the second must not replace what the first one has opened.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(dir)
}

func open(path string) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, ErrInUse
	}
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// Close lets go of the file. It waits for calls under way.
func (s *Store) Close() error { return s.db.Close() }

// Get returns the record with that key, or ErrNotFound.
func (s *Store) Get(key string) (Record, error) {
	var r Record
	err := s.db.View(func(tx *bolt.Tx) error {
		raw := tx.Bucket(bucket).Get([]byte(key))
		if raw == nil {
			return fmt.Errorf("get %s: %w", key, ErrNotFound)
		}
		var err error
		r, err = decode(key, raw)
		return err
	})
	return r, err
}

// List returns all records whose key begins with prefix, ordered by key, as they were at one moment.
func (s *Store) List(prefix string) ([]Record, error) {
	var records []Record
	err := s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucket).Cursor()
		p := []byte(prefix)
		for k, raw := c.Seek(p); k != nil && bytes.HasPrefix(k, p); k, raw = c.Next() {
			r, err := decode(string(k), raw)
			if err != nil {
				return err
			}
			records = append(records, r)
		}
		return nil
	})
	return records, err
}

// Put writes the value if the record is at version (0: does not exist) and returns the new version.
// When it returns nil the value is on disk. Retrying after an error other than ErrConflict is safe: where the
// first try was stored after all, the second gets ErrConflict.
func (s *Store) Put(key string, value []byte, version uint64) (uint64, error) {
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		if err := check(b, key, version); err != nil {
			return err
		}
		raw := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(value)), version+1)
		return b.Put([]byte(key), append(raw, value...))
	})
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", key, err)
	}
	return version + 1, nil
}

// Delete removes the record if it is at version. Durability and retries are those of Put.
func (s *Store) Delete(key string, version uint64) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		if err := check(b, key, version); err != nil {
			return err
		}
		return b.Delete([]byte(key))
	})
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

func check(b *bolt.Bucket, key string, version uint64) error {
	raw := b.Get([]byte(key))
	if raw == nil {
		if version == 0 {
			return nil
		}
		return ErrConflict
	}
	r, err := decode(key, raw)
	if err != nil {
		return err
	}
	if r.Version != version {
		return ErrConflict
	}
	return nil
}

func decode(key string, raw []byte) (Record, error) {
	if len(raw) < 8 {
		return Record{}, fmt.Errorf("record %s: %d bytes, too short for a version", key, len(raw))
	}
	// bbolt's memory is valid within the transaction only.
	return Record{Key: key, Value: bytes.Clone(raw[8:]), Version: binary.BigEndian.Uint64(raw)}, nil
}
