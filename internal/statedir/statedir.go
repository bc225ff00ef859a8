// Package statedir is the state folder of `sealane serve`: what is in it (layout.go), who may read it (private.go), the records and
// their lock, the master key, and the tokens.
//
// Guaranteed: a secret is never readable for others, not even for a moment; what others could read or change is an error and not
// mended in silence; and a secret that is gone is not replaced where something else depends on it.
package statedir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/store"
)

// MaxPath leaves room for nodes/xxxxxxxxxxxx-0/gateway.sock within the 107 bytes of a Unix socket's path.
const MaxPath = 72

// Open makes the state folder fit for use and returns its absolute path.
func Open(path string) (Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if len(path) > MaxPath {
		return "", hint.Wrap(fmt.Errorf("--state %s: %d characters are too many", path, len(path)),
			"use a folder of at most %d characters: the paths of the Unix sockets in it have a limit", MaxPath)
	}
	d := Dir(path)
	if err := os.MkdirAll(d.Nodes(), 0o700); err != nil {
		return "", hint.Wrap(fmt.Errorf("state folder: %w", err), "choose another with --state, or make it writable")
	}
	if err := d.checkFolder(); err != nil {
		return "", err
	}
	return d, d.checkSecrets()
}

// OpenRecords opens the records and takes their lock, which is the state folder's: no two servers use one folder.
func (d Dir) OpenRecords(key pki.MasterKey) (*store.Store, error) {
	recordsKey, err := key.RecordsKey()
	if err != nil {
		return nil, err
	}
	st, err := store.Open(d.Records(), recordsKey)
	switch {
	case errors.Is(err, store.ErrInUse):
		return nil, d.inUse()
	case errors.Is(err, store.ErrWrongKey):
		return nil, d.WrongKey(fmt.Errorf("%s is sealed with another master key than this one", d.Records()))
	case errors.Is(err, store.ErrDamaged):
		return nil, hint.Wrap(err, "gateways and engines that run go on as they are; put %s back from a backup and start again, or end them with `sealane stop --force`", d.Records())
	case err != nil:
		return nil, hint.Wrap(err, "make the folder %s readable and writable, with space on its disk", d)
	}
	return st, nil
}

// CheckUnused returns an error if a server uses the state folder.
func (d Dir) CheckUnused() error {
	if used, err := store.InUse(d.Records()); err == nil && used {
		return d.inUse()
	}
	return nil
}

func (d Dir) inUse() error {
	return hint.Wrap(fmt.Errorf("another sealane serve uses the state folder %s", d),
		"stop it with `sealane stop`, or choose another folder with --state")
}

// WrongKey adds to an error that it is the wrong master key, and which would be right.
func (d Dir) WrongKey(err error) error {
	return hint.Wrap(err, "%s needs the master key that it was made with (SEALANE_MASTER_KEY, master_key_file or master.key)", d)
}
