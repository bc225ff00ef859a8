package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"cloud.google.com/go/redis/apiv1/redispb"
	"github.com/spf13/cobra"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
)

// replicaFlags are about an instance's replicas. A create and an update have them.
type replicaFlags struct {
	replicas        int32
	readReplicas    string
	secondaryRange  string
	alternativeZone string // of a create
}

func (f *replicaFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.Int32Var(&f.replicas, "replica-count", 0, "replicas: 1 for tier standard_ha, and 1 to 5 with read replicas (default: 1, and 2 with read replicas)")
	fl.StringVar(&f.readReplicas, "read-replicas-mode", "disabled", "enabled gives a read endpoint, for good, and needs 5 GB and tier standard_ha; or disabled")
	fl.StringVar(&f.secondaryRange, "secondary-ip-range", "auto", "with --read-replicas-mode enabled: the range that is shown, such as 10.0.0.0/28; it has no effect")
}

// replicaFields are the fields of an instance by their flags.
var replicaFields = map[string]string{"replica-count": "replicaCount", "read-replicas-mode": "readReplicasMode", "secondary-ip-range": "secondaryIpRange"}

// set reads the flags into an instance.
func (f *replicaFlags) set(c *cobra.Command, in *redispb.Instance) error {
	if in.Tier == redispb.Instance_STANDARD_HA && f.replicas == 0 && c.Flags().Changed("replica-count") {
		return errors.New("--replica-count 0: tier standard_ha has replicas: want 1, with read replicas 1 to 5, or --tier basic")
	}
	in.ReplicaCount, in.AlternativeLocationId = f.replicas, f.alternativeZone
	mode, err := f.mode()
	if err != nil {
		return err
	}
	if in.ReadReplicasMode = mode; mode == redispb.Instance_READ_REPLICAS_ENABLED || c.Flags().Changed("secondary-ip-range") {
		in.SecondaryIpRange = f.secondaryRange
	}
	return nil
}

// mode is --read-replicas-mode, also as gcloud and the API spell it.
func (f *replicaFlags) mode() (redispb.Instance_ReadReplicasMode, error) {
	switch name := enumName(f.readReplicas); name {
	case "ENABLED", "READ_REPLICAS_ENABLED":
		return redispb.Instance_READ_REPLICAS_ENABLED, nil
	case "DISABLED", "READ_REPLICAS_DISABLED":
		return redispb.Instance_READ_REPLICAS_DISABLED, nil
	}
	return 0, fmt.Errorf("--read-replicas-mode %q: want enabled or disabled", f.readReplicas)
}

// mask names the fields to update. Read replicas are enabled together with their range.
func (f *replicaFlags) mask(c *cobra.Command) []string {
	fields := changedFields(c, replicaFields)
	if mode, _ := f.mode(); mode == redispb.Instance_READ_REPLICAS_ENABLED && c.Flags().Changed("read-replicas-mode") && !c.Flags().Changed("secondary-ip-range") {
		fields = append(fields, "secondaryIpRange")
	}
	return fields
}

// tierFlag is --tier, also as gcloud spells it.
func tierFlag(value string) (redispb.Instance_Tier, error) {
	if enumName(value) == "STANDARD" {
		return redispb.Instance_STANDARD_HA, nil
	}
	n, err := enumFlag("--tier", value, redispb.Instance_Tier_value)
	return redispb.Instance_Tier(n), err
}

func newFailover(e *env) *cobra.Command {
	var f taskFlags
	var mode string
	var quiet bool
	c := &cobra.Command{
		Use: "failover NAME", Short: "Make a replica of an instance of tier standard_ha the primary", Args: exactly("NAME"),
		Long: `Make a replica of an instance the primary, and the primary a replica. Clients stay connected, at the same address, and wait until the
replica has everything and has taken over. When the primary fails, that happens by itself.

With limited-data-loss a failover is refused while a replica is 30 MB of changes or more behind. docs/standard-tier.md says more.`,
		Example: "  sealane instances failover web\n  sealane instances failover web --data-protection-mode force-data-loss --quiet",
		RunE: func(c *cobra.Command, args []string) error {
			n, err := enumFlag("--data-protection-mode", mode, redispb.FailoverInstanceRequest_DataProtectionMode_value)
			if err != nil {
				return usage(c, "%v", err)
			}
			request := &redispb.FailoverInstanceRequest{DataProtectionMode: redispb.FailoverInstanceRequest_DataProtectionMode(n)}
			if request.DataProtectionMode == redispb.FailoverInstanceRequest_FORCE_DATA_LOSS && !quiet {
				if err := confirm(e, fmt.Sprintf("A replica of instance %s will take over however far it is behind the primary. Go on?", args[0])); err != nil {
					return err
				}
			}
			return f.run(c.Context(), e, args[0], "failover", request, "failing over "+args[0], "failed over "+args[0])
		},
	}
	f.add(c)
	c.Flags().StringVar(&mode, "data-protection-mode", "limited-data-loss", "limited-data-loss or force-data-loss")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "don't ask")
	return c
}

// replication shows an instance's nodes; nil: the server is older than its own API for them.
func (c *apiClient) replication(ctx context.Context, name string) (*sealanepb.Replication, []byte, error) {
	out := &sealanepb.Replication{}
	raw, err := c.call(ctx, http.MethodGet, "/v1/"+name+"/replication", nil, nil, out)
	if failed, ok := errors.AsType[*apiError](err); ok && failed.Code == http.StatusNotFound {
		return nil, nil, nil
	}
	return out, raw, err
}

// describeReplication writes an instance's nodes, its read endpoint and its last failovers for people.
func describeReplication(w io.Writer, i *redispb.Instance, r *sealanepb.Replication) {
	if host := i.GetReadEndpoint(); host != "" {
		row(w, "read endpoint:", net.JoinHostPort(host, strconv.Itoa(int(i.GetReadEndpointPort()))))
	}
	for _, n := range r.GetNodes() {
		row(w, "node:", nodeText(n))
	}
	const shown = 5
	for k, f := range r.GetFailovers() {
		if k == shown {
			break
		}
		name, way := "failover:", fmt.Sprintf("from %s to %s", f.GetFromNode(), f.GetToNode())
		if f.GetFromNode() == f.GetToNode() {
			name, way = "restart:", "of "+f.GetToNode()
		}
		row(w, name, fmt.Sprintf("%s, %s, %s without writes: %s", timeText(f.GetEndTime()), way, secondsText(f.GetDuration().AsDuration()), f.GetReason()))
	}
}

func nodeText(n *sealanepb.Node) string {
	text := n.GetId() + ", " + n.GetZone()
	switch {
	case n.GetRole() == sealanepb.Node_PRIMARY:
		text += ", primary"
	case n.GetInSync():
		text += ", replica, in sync"
	default:
		text += ", replica, not in sync"
	}
	if lag := n.GetLag().AsDuration(); lag > 0 {
		text += ", " + secondsText(lag) + " behind"
	}
	if n.GetProblem() != "" {
		text += ": " + n.GetProblem()
	}
	return text
}

func secondsText(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
