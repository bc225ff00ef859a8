package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// ErrSeal says that a sealed secret cannot be opened with this master key: another key, or damaged bytes.
var ErrSeal = errors.New("cannot be opened with this master key")

// MasterKey encrypts what must not lie about in the clear: CA keys, leaf keys, AUTH strings. The zero value
// is not usable. It never shows itself: formatting it prints a placeholder.
type MasterKey struct {
	aead cipher.AEAD
	// A function, because even a formatted struct that has the key in it shows no more of that than an address.
	derive func(purpose string) ([]byte, error)
}

const (
	masterKeySize = 32
	sealVersion   = 1 // first byte of everything sealed
)

// NewMasterKey makes the text of a new random master key.
func NewMasterKey() string {
	var b [masterKeySize]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

// ParseMasterKey reads the text that NewMasterKey made: 32 bytes as base64, white space around it ignored.
func ParseMasterKey(text string) (MasterKey, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(raw) != masterKeySize {
		return MasterKey{}, fmt.Errorf("master key: want %d bytes as base64, such as `openssl rand -base64 %d` prints", masterKeySize, masterKeySize)
	}
	// Each use has a key of its own.
	derive := func(purpose string) ([]byte, error) { return hkdf.Key(sha256.New, raw, nil, purpose, masterKeySize) }
	derived, err := derive("sealane seal v1")
	if err != nil {
		return MasterKey{}, fmt.Errorf("master key: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return MasterKey{}, fmt.Errorf("master key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return MasterKey{}, fmt.Errorf("master key: %w", err)
	}
	return MasterKey{aead, derive}, nil
}

// RecordsKey is the key of the records' integrity checks, 32 bytes.
func (k MasterKey) RecordsKey() ([]byte, error) {
	key, err := k.derive("sealane records v1")
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	return key, nil
}

// Seal encrypts a secret for one purpose; Open with another purpose fails, so that no sealed secret can be put
// in another's place.
func (k MasterKey) Seal(secret []byte, purpose string) []byte {
	return k.aead.Seal([]byte{sealVersion}, nil, secret, []byte(purpose))
}

// Open decrypts what Seal returned for the same purpose, or returns an error that is ErrSeal.
func (k MasterKey) Open(sealed []byte, purpose string) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != sealVersion {
		return nil, fmt.Errorf("sealed secret: %w", ErrSeal)
	}
	secret, err := k.aead.Open(nil, nil, sealed[1:], []byte(purpose))
	if err != nil {
		return nil, fmt.Errorf("sealed secret: %w", ErrSeal)
	}
	return secret, nil
}

// String keeps the key out of logs.
func (MasterKey) String() string { return "(master key)" }

// GoString keeps the key out of %#v.
func (MasterKey) GoString() string { return "(master key)" }
