package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/pki"
)

// MasterKey finds the master key: in the environment, as a systemd credential, in the configured file ("": none), in the state
// folder. It makes one only if isNew, for a folder without records: a key that was lost is not replaced in silence.
func (d Dir) MasterKey(file string, isNew bool) (pki.MasterKey, error) {
	if text := os.Getenv("SEALANE_MASTER_KEY"); text != "" {
		os.Unsetenv("SEALANE_MASTER_KEY") // the processes started later have no use for it
		return parseKey("SEALANE_MASTER_KEY", text)
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		path := filepath.Join(dir, "sealane-master-key")
		if text, err := os.ReadFile(path); err == nil {
			return parseKey(path, string(text))
		}
	}
	if file == "" {
		file = d.masterKey()
	}
	text, err := os.ReadFile(file)
	switch {
	case err == nil:
		return parseKey(file, string(text))
	case !errors.Is(err, fs.ErrNotExist) || file != d.masterKey():
		return pki.MasterKey{}, hint.Wrap(fmt.Errorf("master key: %w", err), "make it readable, or make one with `openssl rand -base64 32`")
	case !isNew:
		return pki.MasterKey{}, hint.Wrap(fmt.Errorf("master key: %s is gone, and the secrets of this state can't be read without it", file),
			"put it back from your backup, or set SEALANE_MASTER_KEY; to begin anew, move %s away", d)
	}
	key := pki.NewMasterKey()
	switch err := durable.CreateFile(file, []byte(key+"\n"), 0o600); {
	case errors.Is(err, fs.ErrExist): // another first start was faster
		return d.MasterKey(file, isNew)
	case err != nil:
		return pki.MasterKey{}, hint.Wrap(err, makeWritable)
	}
	return parseKey(file, key)
}

// makeWritable is what to do when a secret can't be made.
const makeWritable = "make the state folder writable, with space on its disk, or choose another with --state"

// parseKey reads a key; an error names where it is from.
func parseKey(where, text string) (pki.MasterKey, error) {
	key, err := pki.ParseMasterKey(text)
	if err != nil {
		return key, hint.Wrap(fmt.Errorf("%s: %w", where, err), "give the key that this state was made with; a new state can have a new one")
	}
	return key, nil
}
