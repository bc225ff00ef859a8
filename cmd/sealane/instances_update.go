package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/type/dayofweek"
	"google.golang.org/genproto/googleapis/type/timeofday"
	"google.golang.org/protobuf/types/known/timestamppb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
)

// The flags of an update are gcloud's, and those of the data plane.
type updateFlags struct {
	parentFlags
	scheduleFlags
	backendFlags
	replicaFlags
	forceBackend       bool
	auth, noAuth       bool
	displayName        string
	size               int32
	labels, addLabels  map[string]string
	dropLabels         []string
	clearLabels        bool
	addConfigs         map[string]string
	dropConfigs        []string
	maintenanceVersion string
	anyWindow          bool
	dataPath, minTLS   string
	groups, ciphers    []string
	async              bool
	format             formatFlag
}

// scheduleFlags are about when snapshots and maintenance take place. A create has them too.
type scheduleFlags struct {
	persistence, every, start string
	windowDay                 string
	windowHour                int32
}

func (f *scheduleFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.persistence, "persistence-mode", "disabled", "disabled or rdb")
	c.Flags().StringVar(&f.every, "rdb-snapshot-period", "24h", "how often a snapshot is made: 1h, 6h, 12h or 24h; by itself it means --persistence-mode rdb")
	c.Flags().StringVar(&f.start, "rdb-snapshot-start-time", "", "when the first snapshot is made, such as 2026-12-01T03:00:00Z; the others follow it")
	c.Flags().StringVar(&f.windowDay, "maintenance-window-day", "", "the day of the week, such as sunday, on which maintenance may take place")
	c.Flags().Int32Var(&f.windowHour, "maintenance-window-hour", 0, "the hour of that day in UTC, 0 to 23, at which it begins")
}

// persistenceConfig is what the flags say of snapshots; nil: nothing.
func (f *scheduleFlags) persistenceConfig(c *cobra.Command) (*redispb.PersistenceConfig, error) {
	changed := c.Flags().Changed
	if !changed("persistence-mode") && !changed("rdb-snapshot-period") && !changed("rdb-snapshot-start-time") {
		return nil, nil
	}
	mode := f.persistence
	if !changed("persistence-mode") {
		mode = "rdb"
	}
	n, err := enumFlag("--persistence-mode", mode, redispb.PersistenceConfig_PersistenceMode_value)
	if err != nil {
		return nil, err
	}
	out := &redispb.PersistenceConfig{PersistenceMode: redispb.PersistenceConfig_PersistenceMode(n)}
	if out.PersistenceMode == redispb.PersistenceConfig_DISABLED {
		if changed("rdb-snapshot-period") || changed("rdb-snapshot-start-time") {
			return nil, errors.New("--persistence-mode disabled goes with neither --rdb-snapshot-period nor --rdb-snapshot-start-time")
		}
		return out, nil
	}
	period, ok := map[string]redispb.PersistenceConfig_SnapshotPeriod{
		"1h": redispb.PersistenceConfig_ONE_HOUR, "6h": redispb.PersistenceConfig_SIX_HOURS,
		"12h": redispb.PersistenceConfig_TWELVE_HOURS, "24h": redispb.PersistenceConfig_TWENTY_FOUR_HOURS,
	}[f.every]
	if !ok {
		return nil, fmt.Errorf("--rdb-snapshot-period %q: want 1h, 6h, 12h or 24h", f.every)
	}
	out.RdbSnapshotPeriod = period
	if f.start != "" {
		at, err := time.Parse(time.RFC3339, f.start)
		if err != nil {
			return nil, fmt.Errorf("--rdb-snapshot-start-time %q: want a time such as 2026-12-01T03:00:00Z", f.start)
		}
		out.RdbSnapshotStartTime = timestamppb.New(at)
	}
	return out, nil
}

// maintenancePolicy is what the flags say of maintenance; nil: nothing.
func (f *scheduleFlags) maintenancePolicy(c *cobra.Command) (*redispb.MaintenancePolicy, error) {
	day, hour := c.Flags().Changed("maintenance-window-day"), c.Flags().Changed("maintenance-window-hour")
	switch {
	case !day && !hour:
		return nil, nil
	case day != hour:
		return nil, errors.New("--maintenance-window-day and --maintenance-window-hour go together: give both")
	case f.windowHour < 0 || f.windowHour > 23:
		return nil, fmt.Errorf("--maintenance-window-hour %d: want 0 to 23", f.windowHour)
	}
	n, ok := dayofweek.DayOfWeek_value[enumName(f.windowDay)]
	if !ok || n == 0 {
		return nil, fmt.Errorf("--maintenance-window-day %q: want a day such as sunday", f.windowDay)
	}
	return &redispb.MaintenancePolicy{WeeklyMaintenanceWindow: []*redispb.WeeklyMaintenanceWindow{{
		Day: dayofweek.DayOfWeek(n), StartTime: &timeofday.TimeOfDay{Hours: f.windowHour},
	}}}, nil
}

func newUpdate(e *env) *cobra.Command {
	var f updateFlags
	c := &cobra.Command{
		Use: "update NAME", Short: "Change an instance, while it serves", Args: exactly("NAME"),
		Example: `  sealane instances update first --size 4
  sealane instances update first --update-redis-config maxmemory-policy=allkeys-lru --remove-redis-config timeout
  sealane instances update first --display-name 'The first' --update-labels team=web,env=prod
  sealane instances update first --persistence-mode rdb --rdb-snapshot-period 6h
  sealane instances update first --maintenance-window-day sunday --maintenance-window-hour 3
  sealane instances update first --read-replicas-mode enabled --replica-count 3
  sealane instances update first --data-path multiplexed
  sealane instances update first --min-tls-version 1.3 --tls-groups X25519MLKEM768,X25519`,
		RunE: func(c *cobra.Command, args []string) error {
			for _, pair := range exclusive {
				if c.Flags().Changed(pair[0]) && c.Flags().Changed(pair[1]) {
					return usage(c, "--%s and --%s exclude each other", pair[0], pair[1])
				}
			}
			plane, planeMask, err := f.plane(c)
			if err != nil {
				return usage(c, "%v", err)
			}
			change, mask, err := f.change(c)
			if err != nil {
				return usage(c, "%v", err)
			}
			if len(mask)+len(planeMask)+len(f.backendFlags.changed(c)) == 0 {
				return usage(c, "nothing to change: give for example --size, --update-redis-config, --display-name, --enable-auth, --persistence-mode, --data-path or --backend")
			}
			if backendMask := f.backendFlags.changed(c); len(backendMask) > 0 {
				if err := f.updateBackend(c.Context(), e, args[0], backendMask); err != nil {
					return err
				}
			}
			return f.update(c.Context(), e, args[0], change, mask, plane, planeMask)
		},
	}
	f.parentFlags.add(c)
	f.scheduleFlags.add(c)
	f.backendFlags.add(c)
	f.replicaFlags.add(c)
	c.Flags().BoolVar(&f.forceBackend, "force-backend", false, "change the backend even if it can't serve now")
	f.addTo(c)
	return c
}

func (f *updateFlags) addTo(c *cobra.Command) {
	f.format.add(c)
	fs := c.Flags()
	fs.StringVar(&f.displayName, "display-name", "", "a name for people")
	fs.Int32Var(&f.size, "size", 0, "memory in GB; the data stay, and must fit")
	fs.StringToStringVar(&f.labels, "labels", nil, "KEY=VALUE,… in place of all labels there are")
	fs.StringToStringVar(&f.addLabels, "update-labels", nil, "KEY=VALUE,… to add, or to change")
	fs.StringSliceVar(&f.dropLabels, "remove-labels", nil, "KEY,… to remove")
	fs.BoolVar(&f.clearLabels, "clear-labels", false, "remove all labels")
	fs.StringToStringVar(&f.addConfigs, "update-redis-config", nil, "KEY=VALUE,… to set, such as maxmemory-policy=allkeys-lru")
	fs.StringSliceVar(&f.dropConfigs, "remove-redis-config", nil, "KEY,… to put back to the default")
	fs.BoolVar(&f.auth, "enable-auth", false, "ask new clients for a password, a new one, which `get-auth-string` shows")
	fs.BoolVar(&f.noAuth, "no-enable-auth", false, "ask for none")
	fs.BoolVar(&f.anyWindow, "maintenance-window-any", false, "take the maintenance window away")
	fs.StringVar(&f.maintenanceVersion, "maintenance-version", "", "move the engine to this patch of its version now: one of those that `describe` shows, or current_default")
	fs.StringVar(&f.dataPath, "data-path", "", "transparent (each client has an engine connection of its own) or multiplexed (clients share a few)")
	fs.StringVar(&f.minTLS, "min-tls-version", "", "1.2 or 1.3; like the two below it counts from the next handshake, and empty is the default")
	fs.StringSliceVar(&f.groups, "tls-groups", nil, "key exchanges to allow: X25519MLKEM768,X25519,P-256,P-384")
	fs.StringSliceVar(&f.ciphers, "tls12-ciphers", nil, "cipher suites of TLS 1.2 to allow, by their IANA names")
	fs.BoolVar(&f.async, "async", false, "don't wait: print the operation's name")
}

// exclusive are pairs of flags of which only one can be given.
var exclusive = [][2]string{
	{"enable-auth", "no-enable-auth"}, {"maintenance-window-any", "maintenance-window-day"}, {"labels", "update-labels"},
	{"labels", "remove-labels"}, {"labels", "clear-labels"}, {"remove-labels", "clear-labels"},
}

// plane reads the flags of the data plane.
func (f *updateFlags) plane(c *cobra.Command) (*sealanepb.DataPlane, []string, error) {
	mask := changedFields(c, map[string]string{
		"data-path": "dataPath", "min-tls-version": "minTlsVersion", "tls-groups": "groups", "tls12-ciphers": "tls12Ciphers",
	})
	plane := &sealanepb.DataPlane{MinTlsVersion: f.minTLS, Groups: f.groups, Tls12Ciphers: f.ciphers}
	if slices.Contains(mask, "dataPath") {
		path, err := enumFlag("--data-path", f.dataPath, sealanepb.DataPlane_DataPath_value)
		if err != nil {
			return nil, nil, err
		}
		plane.DataPath = sealanepb.DataPlane_DataPath(path)
	}
	return plane, mask, nil
}

// changedFields names the fields whose flags were given, in order.
func changedFields(c *cobra.Command, fields map[string]string) (mask []string) {
	for flag, field := range fields {
		if c.Flags().Changed(flag) {
			mask = append(mask, field)
		}
	}
	slices.Sort(mask)
	return slices.Compact(mask)
}

// change reads the flags of the instance. What it returns is to be applied to the instance as it is, because some flags add to what
// there is.
func (f *updateFlags) change(c *cobra.Command) (func(*redispb.Instance), []string, error) {
	persistence, err := f.persistenceConfig(c)
	if err != nil {
		return nil, nil, err
	}
	policy, err := f.maintenancePolicy(c)
	if err != nil {
		return nil, nil, err
	}
	mask := changedFields(c, map[string]string{
		"display-name": "displayName", "size": "memorySizeGb", "enable-auth": "authEnabled", "no-enable-auth": "authEnabled",
		"labels": "labels", "update-labels": "labels", "remove-labels": "labels", "clear-labels": "labels",
		"update-redis-config": "redisConfigs", "remove-redis-config": "redisConfigs",
		"persistence-mode": "persistenceConfig", "rdb-snapshot-period": "persistenceConfig", "rdb-snapshot-start-time": "persistenceConfig",
		"maintenance-window-any": "maintenancePolicy", "maintenance-window-day": "maintenancePolicy", "maintenance-window-hour": "maintenancePolicy",
		"maintenance-version": "maintenanceVersion",
	})
	var replicas redispb.Instance
	if err := f.replicaFlags.set(c, &replicas); err != nil {
		return nil, nil, err
	}
	return func(i *redispb.Instance) {
		i.ReplicaCount, i.ReadReplicasMode, i.SecondaryIpRange = replicas.GetReplicaCount(), replicas.GetReadReplicasMode(), replicas.GetSecondaryIpRange()
		i.DisplayName, i.MemorySizeGb, i.MaintenanceVersion = f.displayName, f.size, f.maintenanceVersion
		i.AuthEnabled = c.Flags().Changed("enable-auth") && f.auth || c.Flags().Changed("no-enable-auth") && !f.noAuth
		switch {
		case c.Flags().Changed("labels"):
			i.Labels = f.labels
		case f.clearLabels:
			i.Labels = f.addLabels
		default:
			i.Labels = changedMap(i.GetLabels(), f.addLabels, f.dropLabels)
		}
		i.RedisConfigs = changedMap(i.GetRedisConfigs(), f.addConfigs, f.dropConfigs)
		if persistence != nil && persistence.RdbSnapshotStartTime == nil && persistence.RdbSnapshotPeriod != 0 {
			persistence.RdbSnapshotStartTime = i.GetPersistenceConfig().GetRdbSnapshotStartTime()
		}
		i.PersistenceConfig, i.MaintenancePolicy = persistence, policy
	}, append(mask, f.replicaFlags.mask(c)...), nil
}

func changedMap(have, add map[string]string, drop []string) map[string]string {
	out := maps.Clone(have)
	if out == nil {
		out = make(map[string]string)
	}
	for _, k := range drop {
		delete(out, k)
	}
	maps.Copy(out, add)
	return out
}

// updateBackend changes how the backend is reached.
func (f *updateFlags) updateBackend(ctx context.Context, e *env, id string, mask []string) error {
	b, err := f.backendFlags.backend(e)
	if err != nil {
		return err
	}
	api, err := newAPIClient(e)
	if err != nil {
		return err
	}
	p := newProgress(e.err)
	defer p.done()
	p.show("trying the backend, and moving the clients of " + id + " to it")
	return api.updateBackend(ctx, f.parentFlags.instance(id), mask, b, f.forceBackend)
}

// update changes the fields of the mask, and those of the data plane.
func (f *updateFlags) update(ctx context.Context, e *env, id string, change func(*redispb.Instance), mask []string, plane *sealanepb.DataPlane, planeMask []string) error {
	api, err := newAPIClient(e)
	if err != nil {
		return err
	}
	name := f.parentFlags.instance(id)
	if len(mask) > 0 {
		now, _, err := api.instance(ctx, name)
		if err != nil {
			return err
		}
		in := &redispb.Instance{Name: name, Labels: now.GetLabels(), RedisConfigs: now.GetRedisConfigs(), PersistenceConfig: now.GetPersistenceConfig()}
		change(in)
		op := &longrunningpb.Operation{}
		if _, err := api.call(ctx, http.MethodPatch, "/v1/"+name, url.Values{"updateMask": {strings.Join(mask, ",")}}, in, op); err != nil {
			return err
		}
		if f.async {
			fmt.Fprintln(e.out, op.GetName())
		} else if err := waitFor(ctx, e, api, op, "updating "+id); err != nil {
			return err
		}
	}
	if len(planeMask) > 0 {
		p := newProgress(e.err)
		p.show("changing how the clients of " + id + " are served")
		err := api.updateDataPlane(ctx, name, planeMask, plane)
		p.done()
		if err != nil {
			return err
		}
	}
	if f.async {
		return nil
	}
	return describe(ctx, e, api, name, f.format)
}
