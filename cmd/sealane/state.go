package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/store"
)

// The state folder, 0700:
//
//	state.db      the records
//	master.key    encrypts the secrets in them (unless it comes from elsewhere)
//	audit.log     what was signed, and audit.head, where it ends
//	admin.token   the bearer token of the administrator
//	ops.token     the one for /metrics and /debug/pprof
//	server.json   where the running server listens
//	control.sock  how `sealane stop` reaches it
//	nodes/ID/     one folder per node: its sockets, its engine's files, the gateway's snapshot

func storePath(state string) string    { return filepath.Join(state, "state.db") }
func tokenPath(state string) string    { return filepath.Join(state, "admin.token") }
func opsTokenPath(state string) string { return filepath.Join(state, "ops.token") }
func serverPath(state string) string   { return filepath.Join(state, "server.json") }
func controlPath(state string) string  { return filepath.Join(state, "control.sock") }
func nodesPath(state string) string    { return filepath.Join(state, "nodes") }

// maxStatePath leaves room for nodes/xxxxxxxxxxxx-0/gateway.sock within the 107 bytes of a Unix socket's path.
const maxStatePath = 72

func defaultStateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "sealane")
	}
	home, err := os.UserHomeDir()
	if os.Geteuid() == 0 || err != nil {
		return "/var/lib/sealane"
	}
	return filepath.Join(home, ".local", "state", "sealane")
}

// openState makes the state folder fit for use and returns its absolute path.
func openState(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if len(dir) > maxStatePath {
		return "", withHint(fmt.Errorf("--state %s: %d characters are too many", dir, len(dir)),
			"use a folder of at most %d characters: the paths of the Unix sockets in it have a limit", maxStatePath)
	}
	if err := os.MkdirAll(filepath.Join(dir, "nodes"), 0o700); err != nil {
		return "", withHint(fmt.Errorf("state folder: %w", err), "choose another with --state, or make it writable")
	}
	if err := checkStateFolder(dir); err != nil {
		return "", err
	}
	return dir, checkState(dir)
}

// openStore opens the records, or says who else has them open.
func openStore(state string, key pki.MasterKey) (*store.Store, error) {
	recordsKey, err := key.RecordsKey()
	if err != nil {
		return nil, err
	}
	path := storePath(state)
	st, err := store.Open(path, recordsKey)
	switch {
	case errors.Is(err, store.ErrInUse):
		return nil, inUse(state)
	case errors.Is(err, store.ErrWrongKey):
		return nil, wrongKey(state, fmt.Errorf("%s is sealed with another master key than this one", path))
	case errors.Is(err, store.ErrDamaged):
		return nil, withHint(err, "gateways and engines that run go on as they are; put %s back from a backup and start again, or end them with `sealane stop --force`", path)
	case err != nil:
		return nil, withHint(err, "make the folder %s readable and writable, with space on its disk", state)
	}
	return st, nil
}

func inUse(state string) error {
	return withHint(fmt.Errorf("another sealane serve uses the state folder %s", state),
		"stop it with `sealane stop`, or choose another folder with --state")
}

func wrongKey(state string, err error) error {
	return withHint(err, "%s needs the master key that it was made with (SEALANE_MASTER_KEY, master_key_file or master.key)", state)
}

// masterKey finds the master key: environment, systemd credential, the configured file, master.key in the state
// folder. It makes one only for a state that is new: a lost key is not replaced in silence.
func masterKey(state, file string, isNew bool) (pki.MasterKey, error) {
	if text := os.Getenv("SEALANE_MASTER_KEY"); text != "" {
		os.Unsetenv("SEALANE_MASTER_KEY") // the processes started later have no use for it
		return named("SEALANE_MASTER_KEY", text)
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		path := filepath.Join(dir, "sealane-master-key")
		if text, err := os.ReadFile(path); err == nil {
			return named(path, string(text))
		}
	}
	fallback := filepath.Join(state, "master.key")
	if file == "" {
		file = fallback
	}
	text, err := os.ReadFile(file)
	switch {
	case err == nil:
		return named(file, string(text))
	case !errors.Is(err, fs.ErrNotExist) || file != fallback:
		return pki.MasterKey{}, withHint(fmt.Errorf("master key: %w", err), "make it readable, or make one with `openssl rand -base64 32`")
	case !isNew:
		return pki.MasterKey{}, withHint(fmt.Errorf("master key: %s is gone, and the secrets of this state can't be read without it", file),
			"put it back from your backup, or set SEALANE_MASTER_KEY; to begin anew, move %s away", state)
	}
	key := pki.NewMasterKey()
	switch err := durable.CreateFile(file, []byte(key+"\n"), 0o600); {
	case errors.Is(err, fs.ErrExist): // another first start was faster
		return masterKey(state, file, isNew)
	case err != nil:
		return pki.MasterKey{}, withHint(err, "make the state folder writable, with space on its disk, or choose another with --state")
	}
	return named(file, key)
}

func named(where, text string) (pki.MasterKey, error) {
	key, err := pki.ParseMasterKey(text)
	if err != nil {
		return key, withHint(fmt.Errorf("%s: %w", where, err), "give the key that this state was made with; a new state can have a new one")
	}
	return key, nil
}

// adminToken returns the administrator's token and makes it on first start.
func adminToken(state string) (string, error) {
	token, err := tokenFile(tokenPath(state))
	if err != nil && hintOf(err) == "" {
		err = withHint(err, "make the state folder writable, with space on its disk, or choose another with --state")
	}
	return token, err
}

// tokenFile returns the token in a file and makes it if there is none. One that is there may be on a file system that is
// read-only or full.
func tokenFile(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		var raw [32]byte
		rand.Read(raw[:]) // never fails: it ends the process instead
		// The prefix lets secret scanners find a leaked one.
		fresh := "sealane_" + base64.RawURLEncoding.EncodeToString(raw[:])
		if err := durable.CreateFile(path, []byte(fresh+"\n"), 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token := string(bytes.TrimSpace(text))
	if len(token) < 20 || strings.ContainsAny(token, " \n") {
		return "", withHint(fmt.Errorf("%s holds no token", path), "delete the file; the next start makes a new one")
	}
	return token, nil
}

// serverInfo says where a running server listens.
type serverInfo struct {
	PID  int    `json:"pid"`
	HTTP string `json:"http"` // a base URL
	GRPC string `json:"grpc"`
	Ops  string `json:"ops"`

	// MasterKeyFile is the configuration's: `sealane stop` needs it when the server is gone.
	MasterKeyFile string `json:"master_key_file,omitempty"`
}

func (s serverInfo) write(state string) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	raw = append(raw, '\n')
	err = durable.WriteFile(serverPath(state), raw, 0o600)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		// A full disk has no room for a new file, but the old one's.
		return overwrite(serverPath(state), raw)
	}
	return err
}

// overwrite puts a file's new content where the old one is. A crash on the way leaves a mixture.
func overwrite(path string, raw []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Truncate(int64(len(raw)))
	}
	return errors.Join(err, f.Close())
}

func readServerInfo(state string) (serverInfo, error) {
	var s serverInfo
	raw, err := os.ReadFile(serverPath(state))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(raw, &s)
}
