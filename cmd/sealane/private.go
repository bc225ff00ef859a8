package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Who else can read a secret has it, and who else can write a file of the state can make the server do what they want. The
// modes of what Sealane makes are right from the start, so other ones are somebody's mistake, which is told and not mended in
// silence: whoever could read a key until now may have done so.

// checkPrivate returns an error unless a file, or a folder, belongs to this user and nobody else can use it. What root
// has given this user by way of a group (systemd's credentials, Kubernetes' fsGroup) the group may read. One that is not
// there is no error.
func checkPrivate(what, path string) error {
	return checkMode(what, path, 0o077)
}

// checkMode is checkPrivate with the permissions that others may not have.
func checkMode(what, path string, forbidden fs.FileMode) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return withHint(fmt.Errorf("%s: %w", what, err), "make %s readable for the user who runs `sealane serve`", path)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	uid, mode := uint32(os.Geteuid()), info.Mode().Perm()
	if stat.Uid != uid && stat.Uid != 0 {
		return withHint(fmt.Errorf("%s: %s belongs to user %d, who can read and change it; the server runs as user %d", what, path, stat.Uid, uid),
			"chown %d %s, or run `sealane serve` as user %d", uid, path, stat.Uid)
	}
	if stat.Uid != uid {
		forbidden &^= 0o040
	}
	if open := mode & forbidden; open != 0 {
		could := "read"
		if open&0o022 != 0 {
			could = "change"
		}
		return withHint(fmt.Errorf("%s: %s has mode %04o: others than its owner can %s it", what, path, mode, could),
			"chmod %04o %s; if somebody may have read a secret there, replace it", mode&^(forbidden|0o111*fs.FileMode(oneIf(!info.IsDir()))), path)
	}
	return nil
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// checkState checks what in the state folder is secret, or believed.
func checkState(state string) error {
	for _, f := range []struct{ what, name string }{
		{"master key", "master.key"}, {"administrator's token", "admin.token"}, {"records", "state.db"},
		{"audit log", "audit.log"}, {"audit log's head", "audit.head"}, {"folder of the nodes", "nodes"},
	} {
		if err := checkPrivate(f.what, filepath.Join(state, f.name)); err != nil {
			return err
		}
	}
	return nil
}

// checkStateFolder makes a folder private that holds nothing yet. One that has records must not have been open to others.
func checkStateFolder(state string) error {
	if _, err := os.Stat(storePath(state)); err == nil {
		return checkPrivate("state folder", state)
	}
	// Whose it is, and whether it can be closed, matters now too.
	if err := checkMode("state folder", state, 0); err != nil {
		return err
	}
	info, err := os.Stat(state)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(state, 0o700); err != nil {
			return withHint(fmt.Errorf("state folder: %w", err), "it holds secrets; make it yours, with mode 0700")
		}
	}
	return nil
}

// checkConfigured checks the secrets that the configuration names.
func checkConfigured(cfg *config) error {
	if cfg.MasterKeyFile != "" {
		if err := checkPrivate("master_key_file", cfg.MasterKeyFile); err != nil {
			return err
		}
	}
	if cfg.TLS.Key == "" {
		return nil
	}
	// Debian's packages share keys by way of the group ssl-cert.
	return checkMode("tls.key", cfg.TLS.Key, 0o037)
}
