package pki

import (
	"errors"
	"fmt"
)

// How a secret is sealed, with a key that is derived from the master key (masterkey.go). Secrets are the private keys of CAs and server
// certificates here, AUTH strings and the engines' passwords in package instance. A sealed secret is
//
//	1 byte    the version, 1
//	12 bytes  a random nonce
//	n bytes   the secret, encrypted with AES-256-GCM
//	16 bytes  GCM's tag
//
// The key is derived from the master key by HKDF with SHA-256. The purpose, such as "ca 2 of spiffe://…", is GCM's additional data: it is
// not stored, and whoever opens a secret must say the same one. So a sealed secret that somebody puts in another's place doesn't open.

// ErrSeal says that a sealed secret cannot be opened with this master key: another key, or damaged bytes.
var ErrSeal = errors.New("cannot be opened with this master key")

const (
	sealVersion    = 1
	sealKeyPurpose = "sealane seal v1" // HKDF's info
)

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
