package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/internal/sidecarconfig"
)

// Both commands ask the ops listener of a sidecar on this machine. In its container they find it by the sidecar's own environment.

func addOpsFlag(c *cobra.Command, at *string) {
	c.Flags().StringVar(at, "ops", cmp.Or(os.Getenv(sidecarconfig.EnvName("ops")), sidecarconfig.DefaultOps), "the sidecar's ops address")
}

func newSidecarWait(e *env) *cobra.Command {
	var at string
	var most time.Duration
	c := &cobra.Command{
		Use:     "wait",
		Short:   "Wait until a sidecar on this machine serves requests",
		Long:    "Ask the sidecar's /readyz until it says that requests are served. The exit code is 1 if it does not in time.",
		Example: "  sealane sidecar wait --max 30s && exec my-application",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if most <= 0 {
				return usage(c, "--max %s: want more than 0", most)
			}
			return waitReady(c.Context(), at, most)
		},
	}
	addOpsFlag(c, &at)
	c.Flags().DurationVar(&most, "max", time.Minute, "how long to wait at most")
	return c
}

func waitReady(ctx context.Context, at string, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	last := errors.New("it does not answer")
	for {
		code, text, err := askOps(ctx, http.MethodGet, at, "/readyz")
		switch {
		case err == nil && code == http.StatusOK:
			return nil
		case err == nil:
			last = errors.New(text)
		case ctx.Err() == nil:
			last = fmt.Errorf("it does not answer: %w", err)
		}
		select {
		case <-ctx.Done():
			return withHint(fmt.Errorf("the sidecar at %s is not ready after %s: %w", at, most, last), "its log says more; --ops names another")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func newSidecarQuit(e *env) *cobra.Command {
	var at string
	c := &cobra.Command{
		Use:     "quit",
		Short:   "Have a sidecar on this machine end, as SIGTERM does",
		Long:    "Have the sidecar let its clients finish and end. It does so only if it was started with allow_quit: whoever can reach the ops\naddress could end it.",
		Example: "  my-job; sealane sidecar quit",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			code, text, err := askOps(c.Context(), http.MethodPost, at, "/quit")
			switch {
			case err != nil:
				return withHint(fmt.Errorf("the sidecar at %s does not answer: %w", at, err), "it may have ended already; --ops names another")
			case code == http.StatusNotFound || code == http.StatusMethodNotAllowed:
				return withHint(fmt.Errorf("the sidecar at %s does not take orders to quit", at), "start it with allow_quit: true, or SEALANE_SIDECAR_ALLOW_QUIT=true, or send it SIGTERM")
			case code != http.StatusOK:
				return fmt.Errorf("the sidecar at %s answers %d: %s", at, code, text)
			}
			return nil
		},
	}
	addOpsFlag(c, &at)
	return c
}

func askOps(ctx context.Context, method, at, path string) (code int, text string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+at+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("X-Sealane-Quit", "1")
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", errors.Unwrap(err)
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	return r.StatusCode, strings.TrimSpace(string(raw)), err
}
