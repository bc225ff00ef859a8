package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/store"
)

func newStop(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "Stop the server, its gateways and its engines, which save their data first",
		Long: `Stop the server, its gateways and its engines. Engines are stopped last, after they have saved their data; one that
can't save stays up, and stop says why. It also stops gateways and engines whose server is gone.`,
		Example: "  sealane stop\n  sealane stop --state /srv/sealane",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			state := e.state()
			err := stopServer(c.Context(), state)
			if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
				err = stopOrphans(c.Context(), e, state)
			}
			if err == nil {
				fmt.Fprintln(e.out, "stopped")
			}
			return err
		},
	}
}

// stopServer asks the running server to stop everything and waits until it has.
func stopServer(ctx context.Context, state string) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", controlPath(state))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/stop", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("the server ended before it said that all is stopped: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return withHint(errors.New(strings.TrimSpace(string(text))), "mend what it says and run `sealane stop` again")
	}
	// Its last act after the answer is to let go of the store.
	for range 200 {
		if used, err := store.InUse(storePath(state)); err != nil || !used {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// stopOrphans stops what a server that is gone has left running.
func stopOrphans(ctx context.Context, e *env, state string) error {
	if _, err := os.Stat(storePath(state)); err != nil {
		return withHint(fmt.Errorf("no server runs with the state folder %s", state), "name its folder with --state")
	}
	if used, err := store.InUse(storePath(state)); err == nil && used {
		return inUse(state)
	}
	info, _ := readServerInfo(state) // without it, the usual places are tried
	key, err := masterKey(state, info.MasterKeyFile, false)
	if err != nil {
		return err
	}
	st, err := openStore(state, key)
	if err != nil {
		return err
	}
	defer st.Close()
	runtime := instance.NewLocal(nodesPath(state), nil, nil)
	defer runtime.Close()
	log := slog.New(slog.NewTextHandler(e.err, nil))
	m, err := instance.New(instance.Config{Store: st, Runtime: runtime, Key: key, Now: time.Now, Log: log})
	if err != nil {
		return err
	}
	return m.StopAll(ctx, logStopped(log))
}
