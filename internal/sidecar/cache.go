package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sealane/sealane/internal/durable"
)

// cacheFile is what is kept of a Server on disk. Passwords are not kept: a copy outlives a change of the password, and whoever reads a
// backup would have it.
type cacheFile struct {
	Address      string `json:"address"`
	Bundle       string `json:"bundle"`
	Identity     string `json:"identity,omitempty"`
	Name         string `json:"name,omitempty"`
	AnyName      bool   `json:"any_name,omitempty"`
	ClientsLogIn bool   `json:"clients_log_in,omitempty"`
	HasPassword  bool   `json:"has_password,omitempty"` // the server has one, which is not kept
}

// store keeps what is trusted, for a start at which the Source fails.
func (k *keeper) store(s Server) {
	if k.Cache == "" {
		return
	}
	raw, err := json.MarshalIndent(cacheFile{s.Address, s.Bundle, s.Identity, s.Name, s.AnyName, s.ClientsLogIn, s.Password != ""}, "", " ")
	if err == nil {
		err = durable.WriteFile(k.Cache, append(raw, '\n'), 0o600)
	}
	if err != nil {
		k.logLimiter.warn(k.log, "cache", "what is trusted can't be kept for the next start", "error", err)
	}
}

// load starts from what was kept.
func (k *keeper) load() {
	s, err := k.readCache()
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			k.logLimiter.warn(k.log, "cache", "what was kept of the last time can't be used", "error", err)
		}
		return
	}
	k.told = &s
	k.mu.Lock()
	k.cached = true
	k.mu.Unlock()
	if k.combine() {
		k.log.Info("starting with what was trusted the last time", "file", k.Cache)
	}
}

func (k *keeper) readCache() (Server, error) {
	info, err := os.Stat(k.Cache)
	if err != nil {
		return Server{}, err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return Server{}, fmt.Errorf("%s has mode %v: others could have changed whom it trusts", k.Cache, info.Mode().Perm())
	}
	raw, err := os.ReadFile(k.Cache)
	if err != nil {
		return Server{}, err
	}
	var c cacheFile
	if err := json.Unmarshal(raw, &c); err != nil {
		return Server{}, fmt.Errorf("%s: %w", k.Cache, err)
	}
	return Server{
		Address: c.Address, Bundle: c.Bundle, Identity: c.Identity, Name: c.Name, AnyName: c.AnyName, ClientsLogIn: c.ClientsLogIn,
		PasswordUnknown: c.HasPassword,
	}, nil
}
