package main

import (
	"errors"
	"log/slog"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/logfile"
)

// newGateway is the process that owns an instance's port. The server starts it; people don't.
func newGateway(_ *env) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:    "gateway",
		Short:  "Run one gateway (the server does this)",
		Hidden: true,
		Args:   exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				return usage(c, "--dir is missing")
			}
			out, err := logfile.Open(filepath.Join(dir, "gateway.log"))
			if err != nil {
				return err
			}
			ctx, cancel := signal.NotifyContext(c.Context(), syscall.SIGTERM)
			defer cancel()
			log := slog.New(slog.NewTextHandler(out, nil))
			err = gateway.Run(ctx, gateway.Config{Dir: dir, Log: log})
			if err != nil {
				log.Error("gateway ends", "err", err)
			}
			return errors.Join(err, out.Close())
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "the node's folder")
	return c
}
