// Package store keeps small durable records and changes them by compare-and-swap.
//
// Guaranteed:
//   - A Put or Delete that returned nil survives a crash. One that returned another error than ErrConflict may or may not have
//     happened, so the caller reads again before it decides.
//   - Of several writers that saw the same version one wins, and the others get ErrConflict.
//   - One process at a time holds the store.
//   - A file that is damaged, by chance or by hand, gives an error that is ErrDamaged. No method panics, returns a record that is
//     not what was written, or leaves a record out.
//
// Not guaranteed:
//   - Anything about two records together. What must change together is one record.
//   - That the file is the newest one: an older copy of the whole file looks as good.
//   - More than fsync gives: on ext4 with fast_commit a power cut can lose the last commits (etcd-io/bbolt#562).
package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/durable"
)

var (
	// ErrNotFound says that no record has that key.
	ErrNotFound = errors.New("no such record")
	// ErrConflict says that the record is not at the version that the caller saw.
	ErrConflict = errors.New("record was changed by somebody else")
	// ErrInUse says that another process holds the store.
	ErrInUse = errors.New("in use by another process")
	// ErrDamaged says that the file, or a record in it, is not what was written.
	ErrDamaged = errors.New("damaged")
	// ErrWrongKey says that the records were protected with another key.
	ErrWrongKey = errors.New("protected with another key")
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
	db     *bolt.DB
	file   *os.File
	key    []byte
	broken atomic.Bool // bbolt met damage while it was open, and may hold its locks for ever
}

const (
	// smallest is the size of bbolt's first four pages.
	smallest = 4 << 12
	// lockTime is how long Open waits for another process to close the store.
	lockTime = time.Second
)

// Open opens the store in file path. Where there is none it creates one that only its owner can read. It reads and checks the whole
// file and changes nothing in it.
//
// The records are protected with key, which has 32 bytes. With another key than before the error is ErrWrongKey. Open waits up to
// a second for another process to close the store, and then returns ErrInUse.
func Open(path string, key []byte) (*Store, error) {
	if len(key) != keySize {
		return nil, fmt.Errorf("open store %s: a key of %d bytes, want %d", path, len(key), keySize)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path, key); err != nil {
			return nil, fmt.Errorf("create store %s: %w", path, err)
		}
	}
	s, err := open(path, key)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return s, nil
}

// InUse says whether a process holds the store in file path.
func InUse(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// create makes an empty store under another name and links it into its place when it is complete, so that a disk that fills up
// meanwhile leaves nothing.
func create(path string, key []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new.*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return err
	}
	db, err := bolt.Open(f.Name(), 0o600, nil)
	if err != nil {
		return err
	}
	s := &Store{db: db, key: key}
	err = db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucket(recordsBucket); err != nil {
			return err
		}
		return s.upgrade(tx)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	// It is not rename(2): of two processes that begin together, the second must not replace what the first one has opened.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(dir)
}

// open locks the file before it reads it, and gives it to bbolt only after all of its pages were checked.
func open(path string, key []byte) (*Store, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	s := &Store{file: f, key: bytes.Clone(key)}
	if err := s.open(path); err != nil {
		if s.db != nil {
			s.Close()
		}
		f.Close() // bbolt may have closed it
		return nil, err
	}
	return s, nil
}

func (s *Store) open(path string) error {
	if err := lock(s.file); err != nil {
		return err
	}
	data, err := io.ReadAll(s.file)
	if err != nil {
		return err
	}
	if err := checkPages(data); err != nil {
		return err
	}
	err = s.guard(func() (err error) {
		s.db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout:  lockTime,
			OpenFile: func(string, int, os.FileMode) (*os.File, error) { return s.file, nil },
		})
		return err
	})
	if err != nil {
		return err
	}
	return s.view(s.checkAll)
}

// Protect protects records that an older Sealane wrote without protection. Any change of a record does so too. The caller calls Protect
// after the key has opened the secrets in those records, because from then on the store opens with this key only.
func (s *Store) Protect() error {
	protected := false
	err := s.view(func(tx *bolt.Tx) (err error) {
		_, protected, err = buckets(tx)
		return err
	})
	if err == nil && !protected {
		err = s.update(func(*bolt.Tx) error { return nil })
	}
	if err != nil {
		return fmt.Errorf("seal the records: %w", err)
	}
	return nil
}

func lock(f *os.File) error {
	for end := time.Now().Add(lockTime); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return err
		case time.Now().After(end):
			return ErrInUse
		}
	}
}

// guard calls f, and returns an error where bbolt meets damage that came after the file was checked. bbolt panics then, or reads
// memory that isn't there.
func (s *Store) guard(f func() error) (err error) {
	if s.broken.Load() {
		return ErrDamaged
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			s.broken.Store(true)
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	return f()
}

func (s *Store) view(f func(*bolt.Tx) error) error {
	return s.guard(func() error { return s.db.View(f) })
}

// update calls f in a transaction. Before it, records of an older Sealane are protected; after it, the HMAC over all records is
// renewed.
func (s *Store) update(f func(*bolt.Tx) error) error {
	return s.guard(func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			if err := s.upgrade(tx); err != nil {
				return err
			}
			if err := f(tx); err != nil {
				return err
			}
			return s.writeSetMAC(tx)
		})
	})
}

// Close closes the file, so that another process can open it. It waits for calls that are running.
func (s *Store) Close() error {
	if s.broken.Load() {
		// Closing alone would keep the lock, because bbolt still has the file mapped.
		return errors.Join(unix.Flock(int(s.file.Fd()), unix.LOCK_UN), s.file.Close())
	}
	return s.db.Close()
}

// Get returns the record with that key, or ErrNotFound.
func (s *Store) Get(key string) (Record, error) {
	var r Record
	err := s.view(func(tx *bolt.Tx) (err error) {
		r, err = s.get(tx, key)
		return err
	})
	if err != nil {
		return Record{}, fmt.Errorf("get %s: %w", key, err)
	}
	return r, nil
}

func (s *Store) get(tx *bolt.Tx, key string) (Record, error) {
	records, protected, err := buckets(tx)
	if err != nil {
		return Record{}, err
	}
	raw := records.Get([]byte(key))
	if raw == nil {
		// The record may be missing because of damage.
		return Record{}, cmp.Or(s.checkSet(tx), ErrNotFound)
	}
	return s.decode([]byte(key), raw, protected)
}

// List returns all records whose key begins with prefix, ordered by key, as they were at one moment.
func (s *Store) List(prefix string) ([]Record, error) {
	var listed []Record
	err := s.view(func(tx *bolt.Tx) (err error) {
		if err := s.checkSet(tx); err != nil {
			return err
		}
		listed, err = s.list(tx, []byte(prefix))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	return listed, nil
}

func (s *Store) list(tx *bolt.Tx, prefix []byte) ([]Record, error) {
	records, protected, err := buckets(tx)
	if err != nil {
		return nil, err
	}
	var listed []Record
	c := records.Cursor()
	for k, raw := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, raw = c.Next() {
		r, err := s.decode(k, raw, protected)
		if err != nil {
			return nil, err
		}
		listed = append(listed, r)
	}
	return listed, nil
}

// Put writes the value if the record is at version (0: does not exist) and returns the new version.
// When it returns nil the value is on disk. Retrying after an error other than ErrConflict is safe: where the
// first try was stored after all, the second gets ErrConflict.
func (s *Store) Put(key string, value []byte, version uint64) (uint64, error) {
	err := s.update(func(tx *bolt.Tx) error {
		if err := s.check(tx, key, version); err != nil {
			return err
		}
		return tx.Bucket(recordsBucket).Put([]byte(key), s.encode(key, version+1, value))
	})
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", key, err)
	}
	return version + 1, nil
}

// Delete removes the record if it is at version. Durability and retries are those of Put.
func (s *Store) Delete(key string, version uint64) error {
	err := s.update(func(tx *bolt.Tx) error {
		if err := s.check(tx, key, version); err != nil {
			return err
		}
		return tx.Bucket(recordsBucket).Delete([]byte(key))
	})
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// check returns ErrConflict unless the record is at version.
func (s *Store) check(tx *bolt.Tx, key string, version uint64) error {
	// The next HMAC over all records is to differ from the last one by this change only.
	if err := s.checkSet(tx); err != nil {
		return err
	}
	r, err := s.get(tx, key) // at version 0 where there is none
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if r.Version != version {
		return ErrConflict
	}
	return nil
}
