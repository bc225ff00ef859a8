package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
)

func newSnapshots(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "snapshots NAME", Short: "List the last snapshots of an instance's data, and when the next one is due", Args: exactly("NAME"),
		Long: `List the last snapshots (RDB) of an instance's data, newest first, and those that failed. The last good one is restored when the
engine ends. When they are made is chosen with --rdb-snapshot-period and --persistence-mode of create and update.`,
		Example: "  sealane instances snapshots first\n  sealane instances snapshots first --format json",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			list, raw, err := api.snapshots(c.Context(), parent.instance(args[0]))
			if err != nil {
				return err
			}
			switch next := list.GetNextSnapshotTime(); {
			case list.GetProblem() != "":
				fmt.Fprintln(e.err, "note: "+list.GetProblem())
			case next == nil:
				fmt.Fprintln(e.err, "note: persistence is off: the data survive a clean stop only")
			}
			if next := list.GetNextSnapshotTime(); next != nil {
				fmt.Fprintln(e.err, "note: the next snapshot is due "+timeText(next))
			}
			return format.print(e.out, raw, snapshotsTable(list))
		},
	}
	parent.add(c)
	format.add(c)
	return c
}

func snapshotsTable(list *sealanepb.ListSnapshotsResponse) func(io.Writer) {
	return func(w io.Writer) {
		row(w, "DUE", "STARTED", "TOOK", "SIZE", "OUTCOME")
		for _, s := range list.GetSnapshots() {
			outcome, size := "good", fmt.Sprintf("%.1f MiB", float64(s.GetSize())/(1<<20))
			if s.GetFailure() != "" {
				outcome, size = "failed: "+s.GetFailure(), ""
			}
			took := s.GetEndTime().AsTime().Sub(s.GetStartTime().AsTime())
			row(w, timeText(s.GetDueTime()), timeText(s.GetStartTime()), max(0, took).Round(10*time.Millisecond).String(), size, outcome)
		}
	}
}

// timeText shows a time; "" for none.
func timeText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format(time.RFC3339)
}

// snapshots lists an instance's snapshots.
func (c *apiClient) snapshots(ctx context.Context, name string) (*sealanepb.ListSnapshotsResponse, []byte, error) {
	out := &sealanepb.ListSnapshotsResponse{}
	raw, err := c.call(ctx, http.MethodGet, "/v1/"+name+"/snapshots", nil, nil, out)
	return out, raw, err
}
