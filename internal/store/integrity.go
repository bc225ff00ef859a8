package store

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// This file protects records against damage. Each record has an HMAC-SHA256 over its own key, version and value. The HMAC's key is
// derived from the master key. So a bit that flips is noticed, and so is a record that was put in another's place. One more HMAC
// is over the keys and HMACs of all records, so that a record that is gone, or an older one of the same key, is noticed too. An
// older copy of the whole file is not noticed.
//
//	bucket "records":  KEY → 0x01 | HMAC | version u64 | value
//	bucket "format":   "records" → 0x02 | HMAC over all; "key" → HMAC of nothing, which tells a wrong key from damage
//
// Sealane up to November 2026 wrote version and value alone, and no bucket "format". Protect, or the first change, rewrites such a
// file. A record of one form among records of the other is damage. The first byte tells the forms apart. An older Sealane takes it
// for the first byte of the version, finds nothing that it can read, and stops.

var (
	recordsBucket = []byte("records")
	formatBucket  = []byte("format")
	allRecords    = []byte("records")
	keyCheck      = []byte("key")
)

const (
	protectedRecord = 0x01
	protectedSet    = 0x02
	macSize         = sha256.Size
	prefixSize      = 1 + macSize
)

// keySize is the length of Open's key.
const keySize = 32

func (s *Store) mac(kind string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, s.key)
	h.Write([]byte(kind))
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		h.Write(p)
	}
	return h.Sum(nil)
}

// encode makes of a record what the file holds.
func (s *Store) encode(key string, version uint64, value []byte) []byte {
	body := append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(value)), version), value...)
	return append(append([]byte{protectedRecord}, s.mac("record", []byte(key), body)...), body...)
}

// decode makes a record of what the file holds under a key.
func (s *Store) decode(key, raw []byte, protected bool) (Record, error) {
	body := raw
	if protected {
		if len(raw) < prefixSize || raw[0] != protectedRecord ||
			!hmac.Equal(raw[1:prefixSize], s.mac("record", key, raw[prefixSize:])) {
			return Record{}, fmt.Errorf("record %.200q: %w: it is not what was written", key, ErrDamaged)
		}
		body = raw[prefixSize:]
	}
	if len(body) < 8 || !protected && body[0] != 0 {
		return Record{}, fmt.Errorf("record %.200q: %w: it has no version", key, ErrDamaged)
	}
	// bbolt's memory is valid within the transaction only.
	return Record{Key: string(key), Value: bytes.Clone(body[8:]), Version: binary.BigEndian.Uint64(body)}, nil
}

// buckets returns the records, and whether they are protected.
func buckets(tx *bolt.Tx) (records *bolt.Bucket, protected bool, err error) {
	if records = tx.Bucket(recordsBucket); records == nil {
		return nil, false, fmt.Errorf("%w: it has no records", ErrDamaged)
	}
	return records, tx.Bucket(formatBucket) != nil, nil
}

// checkSet returns an error unless the records are those that were written, with nothing added, missing or old.
func (s *Store) checkSet(tx *bolt.Tx) error {
	format := tx.Bucket(formatBucket)
	if format == nil {
		return nil
	}
	want, err := s.setMAC(tx)
	if err != nil {
		return err
	}
	if !hmac.Equal(format.Get(allRecords), want) {
		return fmt.Errorf("%w: records are missing, or older than they should be", ErrDamaged)
	}
	return nil
}

// setMAC is the entry of bucket "format" for the records as they are: one HMAC over all of them.
func (s *Store) setMAC(tx *bolt.Tx) ([]byte, error) {
	var parts [][]byte
	c := tx.Bucket(recordsBucket).Cursor()
	for k, raw := c.First(); k != nil; k, raw = c.Next() {
		if len(raw) < prefixSize {
			return nil, fmt.Errorf("record %.200q: %w: %d bytes are too few", k, ErrDamaged, len(raw))
		}
		parts = append(parts, k, raw[:prefixSize])
	}
	return append([]byte{protectedSet}, s.mac("records", parts...)...), nil
}

// writeSetMAC writes the HMAC over all records as they are now.
func (s *Store) writeSetMAC(tx *bolt.Tx) error {
	set, err := s.setMAC(tx)
	if err != nil {
		return err
	}
	return tx.Bucket(formatBucket).Put(allRecords, set)
}

// upgrade protects the records of an older Sealane.
func (s *Store) upgrade(tx *bolt.Tx) error {
	records, protected, err := buckets(tx)
	if err != nil || protected {
		return err
	}
	old, err := s.list(tx, nil)
	if err != nil {
		return err
	}
	for _, r := range old {
		if err := records.Put([]byte(r.Key), s.encode(r.Key, r.Version, r.Value)); err != nil {
			return err
		}
	}
	format, err := tx.CreateBucket(formatBucket)
	if err != nil {
		return err
	}
	if err := format.Put(keyCheck, s.mac("key")); err != nil {
		return err
	}
	return s.writeSetMAC(tx)
}

// checkAll reads every record once. Where not one is right, the file was written with another key, if its key check says so too.
func (s *Store) checkAll(tx *bolt.Tx) error {
	records, protected, err := buckets(tx)
	if err != nil {
		return err
	}
	var errs []error
	good := 0
	c := records.Cursor()
	for k, raw := c.First(); k != nil; k, raw = c.Next() {
		if _, err := s.decode(k, raw, protected); err != nil {
			errs = append(errs, err)
		} else {
			good++
		}
	}
	setErr := s.checkSet(tx)
	switch {
	case len(errs) == 0:
		return setErr
	case protected && good == 0 && setErr != nil && !hmac.Equal(tx.Bucket(formatBucket).Get(keyCheck), s.mac("key")):
		return ErrWrongKey
	default:
		return errors.Join(errs...)
	}
}
