package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sealane/sealane/internal/durable"
)

// cacheFile is what is kept on disk of a Server. Passwords are not: a copy of one outlives its change, and whoever reads a backup has it.
type cacheFile struct {
	Address      string `json:"address"`
	Bundle       string `json:"bundle"`
	Identity     string `json:"identity,omitempty"`
	Name         string `json:"name,omitempty"`
	AnyName      bool   `json:"any_name,omitempty"`
	ClientsLogIn bool   `json:"clients_log_in,omitempty"`
}

// store keeps what is trusted, for a start at which the Source fails.
func (k *keeper) store(t *trust) {
	if k.Cache == "" {
		return
	}
	raw, err := json.MarshalIndent(cacheFile{t.Address, t.Bundle, t.Identity, t.Name, t.AnyName, t.ClientsLogIn}, "", " ")
	if err == nil {
		err = durable.WriteFile(k.Cache, append(raw, '\n'), 0o600)
	}
	if err != nil {
		k.misfortunes.warn(k.log, "cache", "what is trusted can't be kept for the next start", "error", err)
	}
}

// load starts from what was kept.
func (k *keeper) load() {
	t, err := k.readCache()
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			k.misfortunes.warn(k.log, "cache", "what was kept of the last time can't be used", "error", err)
		}
		return
	}
	k.mu.Lock()
	k.cached = true
	k.mu.Unlock()
	k.adopt(t)
	k.log.Info("starting with what was trusted the last time", "file", k.Cache)
}

func (k *keeper) readCache() (*trust, error) {
	info, err := os.Stat(k.Cache)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s has mode %v: others could have changed whom it trusts", k.Cache, info.Mode().Perm())
	}
	raw, err := os.ReadFile(k.Cache)
	if err != nil {
		return nil, err
	}
	var c cacheFile
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", k.Cache, err)
	}
	t, f := newTrust(Server{
		Address: c.Address, Bundle: c.Bundle, Identity: c.Identity, Name: c.Name, AnyName: c.AnyName, ClientsLogIn: c.ClientsLogIn,
	}, k.link)
	if f != nil {
		return nil, fmt.Errorf("%s: %w", k.Cache, f)
	}
	return t, nil
}
