package main

import (
	"fmt"
	"io/fs"
	"os"

	"github.com/sealane/sealane/internal/stunnel"
)

// printStunnel prints the configuration of a sidecar that takes stunnel's place.
func printStunnel(e *env, path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Size() > stunnel.MaxSize {
		err = &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it has %d bytes", info.Size())}
	}
	var raw []byte
	if err == nil {
		raw, err = os.ReadFile(path)
	}
	if err != nil {
		return withHint(fmt.Errorf("--from-stunnel: %w", err), "name stunnel's configuration, such as /etc/stunnel/redis.conf")
	}
	f, err := stunnel.Parse(raw)
	if err != nil {
		return withHint(fmt.Errorf("--from-stunnel %s: %w", path, err), "name stunnel's configuration, such as /etc/stunnel/redis.conf")
	}
	text, err := stunnel.ToSidecar(f, path)
	if err != nil {
		return withHint(fmt.Errorf("--from-stunnel %s: %w", path, err), "the sidecar takes the place of services with client = yes; for the server's side see `sealane serve`")
	}
	_, err = e.out.Write(text)
	return err
}
