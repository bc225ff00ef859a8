package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
)

// MasterKey is the server's one key, from which all others follow. It seals secrets (sealed_secrets.go). The zero value is not
// usable. It never shows itself: formatting it prints a placeholder.
type MasterKey struct {
	aead cipher.AEAD
	// A function, because even a formatted struct that has the key in it shows no more of that than an address.
	derive func(purpose string) ([]byte, error)
}

const masterKeySize = 32

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
	derived, err := derive(sealKeyPurpose)
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

// String keeps the key out of logs.
func (MasterKey) String() string { return "(master key)" }

// GoString keeps the key out of %#v.
func (MasterKey) GoString() string { return "(master key)" }
