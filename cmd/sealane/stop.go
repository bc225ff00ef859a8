package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/internal/server"
)

func newStop(e *env) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "stop",
		Short: "Stop the server, its gateways and its engines, which save their data first",
		Long: `Stop the server, its gateways and its engines. Engines are stopped last, after they have saved their data; one that
can't save, or doesn't answer, stays up, and stop says why. It also stops gateways and engines whose server is gone.

With --force an engine that stays up is killed: what was written since its last snapshot is lost, and all its data where
persistence is off. It works without the records too, when state.db is damaged or the master key is gone.`,
		Example: "  sealane stop\n  sealane stop --state /srv/sealane\n  sealane stop --force",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			p := newProgress(e.err)
			err := server.Stop(c.Context(), e.state(), server.StopOptions{Force: force, Progress: p.show, Commands: commands()})
			p.done()
			if err == nil {
				fmt.Fprintln(e.out, "stopped")
			}
			return err
		},
	}
	c.Flags().BoolVar(&force, "force", false, "kill the engines that don't stop: what they have not saved is lost")
	return c
}
