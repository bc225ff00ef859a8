package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
)

func newRotateAuthString(e *env) *cobra.Command {
	var parent parentFlags
	var grace time.Duration
	c := &cobra.Command{
		Use: "rotate-auth-string NAME", Short: "Give an instance a new password, and let the old one go on for a while", Args: exactly("NAME"),
		Long: `Give an instance a new password. The one before is accepted for --grace longer, so that clients can change to the new one in
turn; sidecars do so by themselves. Clients that are logged in stay so. It returns once the engine accepts the new one, which
` + "`get-auth-string`" + ` shows.`,
		Example: "  sealane instances rotate-auth-string first --grace 24h\n  sealane instances get-auth-string first",
		RunE: func(c *cobra.Command, args []string) error {
			if grace < 0 {
				return usage(c, "--grace %v: must be 0s or more", grace)
			}
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			out := &sealanepb.RotateAuthStringResponse{}
			_, err = api.call(c.Context(), http.MethodPost, "/v1/"+parent.instance(args[0])+":rotateAuthString", nil,
				&sealanepb.RotateAuthStringRequest{Grace: durationpb.New(grace)}, out)
			if err != nil {
				return err
			}
			until := "no longer accepted"
			if out.GetOldExpireTime() != nil {
				until = "accepted until " + out.GetOldExpireTime().AsTime().Format(time.RFC3339)
			}
			fmt.Fprintf(e.out, "%s has a new password; the old one is %s\n", args[0], until)
			fmt.Fprintf(e.err, "note: `sealane instances get-auth-string %s` prints the new one\n", args[0]+parent.flags())
			return nil
		},
	}
	parent.add(c)
	c.Flags().DurationVar(&grace, "grace", time.Hour, "for how long the old password is accepted, 0s to 720h")
	return c
}
