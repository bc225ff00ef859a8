package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/instance"
)

func newRestart(e *env) *cobra.Command {
	var parent parentFlags
	var force bool
	c := &cobra.Command{
		Use: "restart NAME", Short: "Restart an instance's engine, which saves its data first", Args: exactly("NAME"),
		Long: `End an instance's engine and start it again. The engine saves its data first, whatever its persistence is, and loads them
again; a script or function that is running is told to end (SCRIPT KILL, FUNCTION KILL). The gateway stays, and so do its clients,
which wait or are told that the engine is not answering.

An engine that can't save its data, doesn't answer, or runs a script that has written and can't be ended (UNKILLABLE) goes on as
it is. --force kills it: what was written since its last snapshot is lost, and all its data where persistence is off.`,
		Example: "  sealane instances restart first\n  sealane instances restart first --force",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			p := newProgress(e.err)
			p.show("restarting the engine of " + args[0])
			err = api.restartEngine(c.Context(), parent.instance(args[0]), force)
			p.done()
			if err != nil {
				return restartHint(err, args[0]+parent.flags())
			}
			fmt.Fprintf(e.out, "restarted %s\n", args[0])
			return nil
		},
	}
	parent.add(c)
	c.Flags().BoolVar(&force, "force", false, "kill an engine that doesn't stop: what it has not saved is lost")
	return c
}

// restartHint says how to restart an engine that could not be stopped, and what that costs.
func restartHint(err error, id string) error {
	var refused *apiError
	if !errors.As(err, &refused) {
		return err
	}
	if info := refused.errorInfo(); info.Reason == instance.EngineStaysUp {
		return withHint(err, "`sealane instances restart %s --force` ends it, and %s", id, info.Metadata["price"])
	}
	return err
}

// restartEngine restarts an instance's engine, and returns once it serves again.
func (c *apiClient) restartEngine(ctx context.Context, name string, force bool) error {
	_, err := c.call(ctx, http.MethodPost, "/v1/"+name+"/engine:restart", nil, &sealanepb.RestartEngineRequest{Force: force}, &sealanepb.Engine{})
	return err
}

// engine shows an instance's engine: what bounds its memory, and how it ended the last time.
func (c *apiClient) engine(ctx context.Context, name string) (*sealanepb.Engine, []byte, error) {
	out := &sealanepb.Engine{}
	raw, err := c.call(ctx, http.MethodGet, "/v1/"+name+"/engine", nil, nil, out)
	return out, raw, err
}
