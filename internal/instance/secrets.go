package instance

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/store"
)

// secrets seals what a record may not hold in the clear, and opens it: the AUTH strings and the password of the control plane's own
// user in the engine. How sealing works is in package pki, sealed_secrets.go. Keys of certificates are sealed there too.
type secrets struct{ key pki.MasterKey }

// masterKeyCheck is the key of a record that only the right master key opens.
const masterKeyCheck = "meta/master-key-check"

// checkMasterKey finds a wrong master key at start, and not when the first certificate can't be renewed because of it.
func (s secrets) checkMasterKey(st Store) error {
	const purpose = "master key check"
	r, err := st.Get(masterKeyCheck)
	switch {
	case errors.Is(err, store.ErrNotFound):
		_, err := st.Put(masterKeyCheck, s.key.Seal(nil, purpose), 0)
		return err
	case err != nil:
		return err
	}
	if _, err := s.key.Open(r.Value, purpose); err != nil {
		return fmt.Errorf("the secrets in the state were sealed with another master key; give back the one that they were made with: %w", err)
	}
	return nil
}

// The purposes under which an instance's secrets are sealed: a secret can't be put in another's place.
func (i Instance) authPurpose() string        { return "auth string of " + i.UID }
func (i Instance) adminPurpose() string       { return "admin password of " + i.UID }
func (i Instance) replicationPurpose() string { return "replication password of " + i.UID }

// newAuthString makes a random AUTH string for the instance and returns it sealed.
func (s secrets) newAuthString(i *Instance) []byte {
	return s.key.Seal([]byte(uuid.NewString()), i.authPurpose())
}

// newAdminPassword makes a random password for the control plane's own user in the engine and returns it sealed.
func (s secrets) newAdminPassword(i *Instance) []byte {
	return s.key.Seal([]byte(uuid.NewString()), i.adminPurpose())
}

// newReplicationPassword makes a random password for the engines' user for replication and returns it sealed.
func (s secrets) newReplicationPassword(i *Instance) []byte {
	return s.key.Seal([]byte(uuid.NewString()), i.replicationPurpose())
}

func (s secrets) replicationPassword(i Instance) (string, error) {
	password, err := s.key.Open(i.Replication.SealedPassword, i.replicationPurpose())
	if err != nil {
		return "", fmt.Errorf("replication password of %s: %w", i.Name, err)
	}
	return string(password), nil
}

func (s secrets) adminPassword(i Instance) (string, error) {
	password, err := s.key.Open(i.SealedAdmin, i.adminPurpose())
	if err != nil {
		return "", fmt.Errorf("admin password of %s: %w", i.Name, err)
	}
	return string(password), nil
}

// authString opens one of the instance's AUTH strings, the present one or one of before.
func (s secrets) authString(i Instance, sealed []byte) (string, error) {
	auth, err := s.key.Open(sealed, i.authPurpose())
	if err != nil {
		return "", fmt.Errorf("auth string of %s: %w", i.Name, err)
	}
	return string(auth), nil
}

// passwordHashes are those of the AUTH strings that are accepted now.
func (s secrets) passwordHashes(i Instance) (hashes []string, err error) {
	if i.SealedAuth == nil {
		return nil, nil
	}
	all := [][]byte{i.SealedAuth}
	for _, o := range i.OldAuth {
		all = append(all, o.Sealed)
	}
	for _, sealed := range all {
		auth, err := s.authString(i, sealed)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256([]byte(auth))
		hashes = append(hashes, hex.EncodeToString(sum[:]))
	}
	return hashes, nil
}
