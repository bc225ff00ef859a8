package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// These commands replace an instance's engine or its data, or take the data out. Their names and arguments are gcloud's.

// taskFlags are those that all of them have.
type taskFlags struct {
	parentFlags
	async  bool
	format formatFlag
}

func (f *taskFlags) add(c *cobra.Command) {
	f.parentFlags.add(c)
	f.format.add(c)
	c.Flags().BoolVar(&f.async, "async", false, "don't wait: print the operation's name")
}

// run asks for an operation of an instance and waits for it. done says what was done.
func (f *taskFlags) run(ctx context.Context, e *env, id, verb string, request proto.Message, doing, done string) error {
	api, err := newAPIClient(e)
	if err != nil {
		return err
	}
	op := &longrunningpb.Operation{}
	raw, err := api.call(ctx, http.MethodPost, "/v1/"+f.instance(id)+":"+verb, nil, request, op)
	if err != nil {
		return err
	}
	if f.async {
		return f.format.print(e.out, raw, func(w io.Writer) { fmt.Fprintln(w, op.GetName()) })
	}
	if err := waitFor(ctx, e, api, op, doing); err != nil {
		return err
	}
	raw, err = api.call(ctx, http.MethodGet, "/v1/"+op.GetName(), nil, nil, op)
	if err != nil {
		return err
	}
	return f.format.print(e.out, raw, func(w io.Writer) {
		if detail := operationMetadata(op).GetStatusDetail(); detail != "" {
			done += "; " + detail
		}
		fmt.Fprintln(w, done)
	})
}

func newUpgrade(e *env) *cobra.Command {
	var f taskFlags
	var version string
	var quiet bool
	c := &cobra.Command{
		Use: "upgrade NAME --redis-version VERSION", Short: "Move an instance to a newer version of the engine, with its data", Args: exactly("NAME"),
		Long: `Move an instance to a newer version of Redis, or to Valkey, with its data. A newer engine is started beside the present one and
copies its data. Then all clients are moved to it; they stay connected, and wait for some 20 milliseconds. Where the new engine can't
take over, the instance goes on with the present one. An upgrade can't be undone. docs/upgrade.md says more.`,
		Example: "  sealane instances upgrade cache --redis-version redis_8_0\n  sealane instances upgrade cache --redis-version valkey_9_1 --quiet",
		RunE: func(c *cobra.Command, args []string) error {
			if version == "" {
				return usage(c, "--redis-version is missing: want a version such as redis_8_0")
			}
			if !quiet {
				if err := confirm(e, fmt.Sprintf("Instance %s will be moved to %s, which can't be undone. Go on?", args[0], enumName(version))); err != nil {
					return err
				}
			}
			return f.run(c.Context(), e, args[0], "upgrade", &redispb.UpgradeInstanceRequest{RedisVersion: enumName(version)},
				"upgrading "+args[0], fmt.Sprintf("upgraded %s to %s", args[0], enumName(version)))
		},
	}
	f.add(c)
	c.Flags().StringVar(&version, "redis-version", "", "such as redis_8_0 or valkey_9_1, which has to be installed on the server's machine")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "don't ask")
	return c
}

// objectAndName tells the two arguments of an import and an export apart: gcloud has the object first.
func objectAndName(args []string) (object, name string) {
	if strings.Contains(args[1], "://") {
		return args[1], args[0]
	}
	return args[0], args[1]
}

func newImport(e *env) *cobra.Command {
	var f taskFlags
	var quiet bool
	c := &cobra.Command{
		Use: "import gs://BUCKET/OBJECT NAME", Short: "Replace an instance's data by those of an RDB file", Args: exactly("gs://BUCKET/OBJECT", "NAME"),
		Long: `Replace an instance's data by those of an RDB file. The file is checked and loaded by a new engine first: one that is damaged, that
the engine can't load or that doesn't fit changes nothing. Clients stay connected. docs/import-export.md says where gs://BUCKET is.`,
		Example: "  sealane instances import gs://backups/cache.rdb cache",
		RunE: func(c *cobra.Command, args []string) error {
			object, name := objectAndName(args)
			if !quiet {
				if err := confirm(e, fmt.Sprintf("The data of instance %s will be replaced by those of %s. Go on?", name, object)); err != nil {
					return err
				}
			}
			source := &redispb.InputConfig{Source: &redispb.InputConfig_GcsSource{GcsSource: &redispb.GcsSource{Uri: object}}}
			return f.run(c.Context(), e, name, "import", &redispb.ImportInstanceRequest{InputConfig: source},
				"importing "+object, fmt.Sprintf("imported %s to %s", object, name))
		},
	}
	f.add(c)
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "don't ask")
	return c
}

func newExport(e *env) *cobra.Command {
	var f taskFlags
	c := &cobra.Command{
		Use: "export gs://BUCKET/OBJECT.rdb NAME", Short: "Write an instance's data into an RDB file", Args: exactly("gs://BUCKET/OBJECT.rdb", "NAME"),
		Long: `Write an instance's data into an RDB file, which replaces the one that is there. Clients are served meanwhile. Until the file is
whole, nothing is there under its name but what was there before. docs/import-export.md says where gs://BUCKET is.`,
		Example: "  sealane instances export gs://backups/cache.rdb cache",
		RunE: func(c *cobra.Command, args []string) error {
			object, name := objectAndName(args)
			destination := &redispb.OutputConfig{Destination: &redispb.OutputConfig_GcsDestination{GcsDestination: &redispb.GcsDestination{Uri: object}}}
			return f.run(c.Context(), e, name, "export", &redispb.ExportInstanceRequest{OutputConfig: destination},
				"exporting "+name, fmt.Sprintf("exported %s to %s", name, object))
		},
	}
	f.add(c)
	return c
}

func newRescheduleMaintenance(e *env) *cobra.Command {
	var f taskFlags
	var how, at string
	c := &cobra.Command{
		Use: "reschedule-maintenance NAME --reschedule-type TYPE", Short: "Put maintenance that waits at another time, or do it now", Args: exactly("NAME"),
		Long: `Put the maintenance of an instance at another time, or do it now. Maintenance waits when a newer patch of the instance's engine is
installed on the server's machine. It takes place in the window of the instance's maintenance policy, and without one only when it is
asked for.`,
		Example: `  sealane instances reschedule-maintenance cache --reschedule-type immediate
  sealane instances reschedule-maintenance cache --reschedule-type specific-time --schedule-time 2026-12-01T03:00:00Z`,
		RunE: func(c *cobra.Command, args []string) error {
			kind, err := enumFlag("--reschedule-type", how, redispb.RescheduleMaintenanceRequest_RescheduleType_value)
			if err != nil {
				return usage(c, "%v", err)
			}
			request := &redispb.RescheduleMaintenanceRequest{RescheduleType: redispb.RescheduleMaintenanceRequest_RescheduleType(kind)}
			specific := request.RescheduleType == redispb.RescheduleMaintenanceRequest_SPECIFIC_TIME
			if specific != (at != "") {
				return usage(c, "--reschedule-type specific-time and --schedule-time go together")
			}
			if specific {
				when, err := time.Parse(time.RFC3339, at)
				if err != nil {
					return usage(c, "--schedule-time %q: want a time such as 2026-12-01T03:00:00Z", at)
				}
				request.ScheduleTime = timestamppb.New(when)
			}
			done := "rescheduled the maintenance of " + args[0]
			if request.RescheduleType == redispb.RescheduleMaintenanceRequest_IMMEDIATE {
				done = "done: the maintenance of " + args[0]
			}
			return f.run(c.Context(), e, args[0], "rescheduleMaintenance", request, "maintenance of "+args[0], done)
		},
	}
	f.add(c)
	c.Flags().StringVar(&how, "reschedule-type", "", "immediate, next-available-window or specific-time")
	c.Flags().StringVar(&at, "schedule-time", "", "with specific-time: when, such as 2026-12-01T03:00:00Z")
	return c
}
