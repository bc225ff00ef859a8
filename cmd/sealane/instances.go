package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	"github.com/spf13/cobra"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/api"
	"github.com/sealane/sealane/internal/pki"
)

func newInstances(e *env) *cobra.Command {
	return group("instances", "Create, list and change instances", "  sealane instances create first\n  sealane instances list",
		newCreate(e), newList(e), newDescribe(e), newUpdate(e), newRestart(e), newSnapshots(e), newDelete(e), newAuthString(e), newRotateAuthString(e),
		newUpgrade(e), newFailover(e), newImport(e), newExport(e), newRescheduleMaintenance(e))
}

func (p *parentFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&p.project, "project", "local", "project")
	c.Flags().StringVar(&p.region, "region", "local", "region")
}

type createFlags struct {
	parentFlags
	scheduleFlags
	backendFlags
	replicaFlags
	keyAlgorithm    string
	nameConstraints bool
	size            int32
	tier, mode      string
	version, zone   string
	displayName     string
	auth, async     bool
	labels, configs map[string]string
	format          formatFlag
}

func newCreate(e *env) *cobra.Command {
	var f createFlags
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create an instance and wait until it serves",
		Example: `  sealane instances create first
  sealane instances create cache --size 4 --enable-auth --redis-config maxmemory-policy=allkeys-lru
  sealane instances create web --tier standard_ha                                              # with a replica that takes over
  sealane instances create mine --backend 127.0.0.1:6379 --backend-password-file password.txt   # a Redis that runs already`,
		Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			in, err := f.instance(c)
			if err == nil {
				err = f.checkFlags(c)
			}
			if err != nil {
				return usage(c, "%v", err)
			}
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			api.headers = f.headers(c.Flags().Changed("ca-name-constraints"))
			op, raw, err := f.create(c.Context(), e, api, args[0], in)
			if err != nil {
				return err
			}
			if f.nameConstraints {
				fmt.Fprintln(e.err, "note: "+constraintsNote)
			}
			if f.async {
				return f.format.print(e.out, raw, func(w io.Writer) { fmt.Fprintln(w, op.GetName()) })
			}
			if err := waitFor(c.Context(), e, api, op, "creating "+args[0]); err != nil {
				return err
			}
			return describe(c.Context(), e, api, f.parentFlags.instance(args[0]), f.format)
		},
	}
	f.add(c)
	return c
}

// create begins to make an instance, with an engine or with a backend.
func (f *createFlags) create(ctx context.Context, e *env, api *apiClient, id string, in *redispb.Instance) (*longrunningpb.Operation, []byte, error) {
	op := &longrunningpb.Operation{}
	if f.address == "" {
		raw, err := api.call(ctx, http.MethodPost, "/v1/"+f.parent()+"/instances", url.Values{"instanceId": {id}}, in, op)
		return op, raw, err
	}
	b, err := f.backendFlags.backend(e)
	if err != nil {
		return nil, nil, err
	}
	request := &sealanepb.CreateBackendInstanceRequest{InstanceId: id, Instance: in, Backend: b}
	raw, err := api.call(ctx, http.MethodPost, "/v1/"+f.parent()+"/backendInstances", nil, request, op)
	return op, raw, err
}

func (f *createFlags) add(c *cobra.Command) {
	f.parentFlags.add(c)
	f.format.add(c)
	fl := c.Flags()
	fl.Int32Var(&f.size, "size", 1, "memory in GB, 1 to 300")
	fl.StringVar(&f.tier, "tier", "basic", "basic, or standard_ha: with replicas, of which one takes over when the primary fails")
	f.replicaFlags.add(c)
	fl.StringVar(&f.alternativeZone, "alternative-zone", "", "with tier standard_ha: the zone of node-1, another one than --zone (default: chosen)")
	fl.StringVar(&f.mode, "transit-encryption-mode", "server_authentication", "server_authentication or disabled")
	fl.StringVar(&f.version, "redis-version", "", "such as redis_7_0 (default: the server's first engine)")
	fl.StringVar(&f.zone, "zone", "", "zone (default: the region's first)")
	fl.StringVar(&f.displayName, "display-name", "", "a name for people")
	fl.BoolVar(&f.auth, "enable-auth", false, "ask clients for a password, which `get-auth-string` shows")
	fl.StringToStringVar(&f.labels, "labels", nil, "KEY=VALUE,…")
	fl.StringToStringVar(&f.configs, "redis-config", nil, "KEY=VALUE,… such as maxmemory-policy=allkeys-lru")
	f.scheduleFlags.add(c)
	f.backendFlags.add(c)
	fl.StringVar(&f.keyAlgorithm, "ca-key-algorithm", "", "keys of the CA and the certificates: ecdsa-p256, or rsa-2048 for clients that know no ECDSA (default: the server's)")
	fl.BoolVar(&f.nameConstraints, "ca-name-constraints", false, "give the CA critical name constraints: it can vouch for nothing but this instance; but "+pki.ConstraintsCost+" (default: the server's)")
	fl.BoolVar(&f.async, "async", false, "don't wait: print the operation's name")
}

// constraintsNote is printed where a CA with name constraints was asked for.
const constraintsNote = "the CA has name constraints, which not every client can use: " + pki.ConstraintsCost

// headers hold what the Memorystore API has no fields for.
func (f *createFlags) headers(constraints bool) map[string]string {
	headers := make(map[string]string)
	if f.keyAlgorithm != "" {
		headers[api.KeyAlgorithmHeader] = f.keyAlgorithm
	}
	if constraints {
		headers[api.NameConstraintsHeader] = strconv.FormatBool(f.nameConstraints)
	}
	return headers
}

// instance is the request. Enums are taken in any usual spelling: server_authentication, SERVER-AUTHENTICATION.
func (f *createFlags) instance(c *cobra.Command) (*redispb.Instance, error) {
	tier, err := tierFlag(f.tier)
	if err != nil {
		return nil, err
	}
	in := &redispb.Instance{
		DisplayName: f.displayName, Labels: f.labels, MemorySizeGb: f.size, RedisConfigs: f.configs, AuthEnabled: f.auth,
		RedisVersion: enumName(f.version), LocationId: f.zone, Tier: tier,
	}
	if err := f.replicaFlags.set(c, in); err != nil {
		return nil, err
	}
	mode, err := enumFlag("--transit-encryption-mode", f.mode, redispb.Instance_TransitEncryptionMode_value)
	if err != nil {
		return nil, err
	}
	in.TransitEncryptionMode = redispb.Instance_TransitEncryptionMode(mode)
	if in.PersistenceConfig, err = f.persistenceConfig(c); err != nil {
		return nil, err
	}
	if in.MaintenancePolicy, err = f.maintenancePolicy(c); err != nil {
		return nil, err
	}
	return in, nil
}

func enumName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }

func enumFlag(flag, value string, values map[string]int32) (int32, error) {
	n, ok := values[enumName(value)]
	if ok && n != 0 {
		return n, nil
	}
	var names []string
	for name, n := range values {
		if n != 0 {
			names = append(names, strings.ToLower(name))
		}
	}
	slices.Sort(names)
	return 0, fmt.Errorf("%s %q: want %s", flag, value, strings.Join(names, " or "))
}

// waitFor shows progress until the operation is done. When the user gives up waiting, the operation goes on.
func waitFor(ctx context.Context, e *env, api *apiClient, op *longrunningpb.Operation, what string) error {
	p := newProgress(e.err)
	defer p.done()
	p.show(what)
	return api.wait(ctx, op, func(detail string) { p.show(what + ": " + detail) })
}

func newList(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "list", Short: "List instances", Args: exactly(),
		Example: "  sealane instances list\n  sealane instances list --region -     # of all regions",
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			all := &redispb.ListInstancesResponse{}
			raw, err := api.call(c.Context(), http.MethodGet, "/v1/"+parent.parent()+"/instances", nil, nil, all)
			if err != nil {
				return err
			}
			return format.print(e.out, raw, func(w io.Writer) {
				row(w, "NAME", "REGION", "VERSION", "TIER", "SIZE_GB", "HOST", "PORT", "ENCRYPTION", "STATE", "CREATED")
				for _, i := range all.GetInstances() {
					row(w, lastPart(i.GetName()), strings.Split(i.GetName(), "/")[3], i.GetRedisVersion(), i.GetTier().String(),
						strconv.Itoa(int(i.GetMemorySizeGb())), i.GetHost(), portText(i), i.GetTransitEncryptionMode().String(),
						i.GetState().String(), i.GetCreateTime().AsTime().Format(time.RFC3339))
				}
			})
		},
	}
	parent.add(c)
	format.add(c)
	return c
}

func portText(i *redispb.Instance) string {
	if i.GetPort() == 0 {
		return ""
	}
	return strconv.Itoa(int(i.GetPort()))
}

func newDescribe(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "describe NAME", Short: "Show an instance", Args: exactly("NAME"),
		Example: "  sealane instances describe first --format json",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			return describe(c.Context(), e, api, parent.instance(args[0]), format)
		},
	}
	parent.add(c)
	format.add(c)
	return c
}

func describe(ctx context.Context, e *env, api *apiClient, name string, format formatFlag) error {
	i, raw, err := api.instance(ctx, name)
	if err != nil {
		return err
	}
	plane, planeRaw, err := api.dataPlane(ctx, name)
	if err != nil {
		return err
	}
	engine, engineRaw, err := api.engine(ctx, name)
	if err != nil {
		return err
	}
	backend, backendRaw, err := api.backend(ctx, name)
	if err != nil {
		return err
	}
	if backend != nil {
		if raw, err = withField(raw, "backend", backendRaw); err != nil {
			return err
		}
	}
	if raw, err = withField(raw, "dataPlane", planeRaw); err != nil {
		return err
	}
	if raw, err = withField(raw, "engine", engineRaw); err != nil {
		return err
	}
	mode, modeRaw, err := api.transitEncryption(ctx, name, nil)
	if err != nil {
		return err
	}
	replication, replicationRaw, err := api.replication(ctx, name)
	if err != nil {
		return err
	}
	if replication != nil {
		if raw, err = withField(raw, "replication", replicationRaw); err != nil {
			return err
		}
	}
	if raw, err = withField(raw, "transitEncryption", modeRaw); err != nil {
		return err
	}
	return format.print(e.out, raw, func(w io.Writer) {
		describeTable(w, described{i, plane, engine, mode, backend, replication})
	})
}

// described is all that is shown of an instance.
type described struct {
	*redispb.Instance
	plane       *sealanepb.DataPlane
	engine      *sealanepb.Engine
	mode        *sealanepb.TransitEncryption
	backend     *sealanepb.Backend     // nil: it has an engine of Sealane's own
	replication *sealanepb.Replication // nil: the server doesn't say
}

// describeTable writes an instance for people, one line for each thing to know.
func describeTable(w io.Writer, i described) {
	plane, engine, backend := i.plane, i.engine, i.backend
	row(w, "name:", i.GetName())
	row(w, "state:", i.GetState().String())
	if problem := cmp.Or(i.GetStatusMessage(), plane.GetProblem()); problem != "" {
		row(w, "problem:", problem)
	}
	row(w, "host:", i.GetHost())
	row(w, "port:", portText(i.Instance))
	row(w, "encryption:", encryptionText(i.mode))
	auth := onOff(i.GetAuthEnabled())
	if until := plane.GetOldAuthExpireTime(); until != nil {
		auth += ", a password of before too until " + until.AsTime().Format(time.RFC3339)
	}
	row(w, "auth:", auth)
	row(w, "version:", i.GetRedisVersion())
	row(w, "tier:", i.GetTier().String())
	if i.GetTier() == redispb.Instance_STANDARD_HA {
		describeReplication(w, i.Instance, i.replication)
	}
	row(w, "size:", fmt.Sprintf("%d GB", i.GetMemorySizeGb()))
	if backend != nil {
		describeBackend(w, backend)
	} else {
		row(w, "memory bound:", memoryText(engine))
		if total := engine.GetSystemMemoryBytes(); total > 0 {
			row(w, "memory used:", fmt.Sprintf("%.1f %% of %.2f GiB used", 100*engine.GetSystemMemoryUsageRatio(), float64(total)/(1<<30)))
		}
	}
	if t := engine.GetLastExitTime(); t != nil {
		row(w, "engine ended:", t.AsTime().Format(time.RFC3339)+", "+engine.GetLastExit())
	}
	if i.mode.GetTlsPort() != 0 {
		row(w, "tls:", policyText(plane))
	}
	row(w, "data path:", plane.GetDataPath().String())
	row(w, "connections:", connectionsText(plane))
	if n := plane.GetReadClientsLimit(); n > 0 {
		row(w, "read connections:", fmt.Sprintf("%d of %d", plane.GetReadClients(), n))
	}
	row(w, "persistence:", i.GetPersistenceConfig().GetPersistenceMode().String())
	describeChosen(w, i.Instance)
	row(w, "created:", i.GetCreateTime().AsTime().Format(time.RFC3339))
}

// describeChosen writes what whoever made the instance has chosen, and its CAs.
func describeChosen(w io.Writer, i *redispb.Instance) {
	if i.GetDisplayName() != "" {
		row(w, "display name:", i.GetDisplayName())
	}
	for _, m := range []struct {
		title string
		m     map[string]string
	}{{"label:", i.GetLabels()}, {"redis config:", i.GetRedisConfigs()}} {
		for _, k := range slices.Sorted(maps.Keys(m.m)) {
			row(w, m.title, k+"="+m.m[k])
		}
	}
	for _, ca := range i.GetServerCaCerts() {
		row(w, "ca:", ca.GetSha1Fingerprint()+" until "+ca.GetExpireTime().AsTime().Format(time.DateOnly))
	}
}

// policyText says what TLS clients may speak.
func policyText(p *sealanepb.DataPlane) string {
	text := cmp.Or(p.GetMinTlsVersion(), "1.2") + " or newer"
	for _, names := range [][]string{p.GetGroups(), p.GetTls12Ciphers()} {
		if len(names) > 0 {
			text += "; " + strings.Join(names, ", ")
		}
	}
	return text
}

// memoryText says at how much memory the system ends an engine.
func memoryText(e *sealanepb.Engine) string {
	text := "none"
	if e.GetMemoryLimitBytes() > 0 {
		text = fmt.Sprintf("%.1f GiB by %s", float64(e.GetMemoryLimitBytes())/(1<<30), e.GetMemoryLimitedBy())
	}
	if e.GetMemoryLimitProblem() != "" {
		text += " (" + e.GetMemoryLimitProblem() + ")"
	}
	return text
}

// connectionsText is empty while the gateway can't be asked.
func connectionsText(p *sealanepb.DataPlane) string {
	if p.GetClientsLimit() == 0 {
		return ""
	}
	text := fmt.Sprintf("%d of %d", p.GetClients(), p.GetClientsLimit())
	if p.GetLimitedBy() != "" {
		text += " (" + p.GetLimitedBy() + ")"
	}
	return text
}

// withField adds a field to an object of the API's JSON.
func withField(raw []byte, name string, value json.RawMessage) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, err
	}
	object[name] = value
	out, err := json.MarshalIndent(object, "", "  ")
	return append(out, '\n'), err
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func newDelete(e *env) *cobra.Command {
	var parent parentFlags
	var quiet, async bool
	c := &cobra.Command{
		Use: "delete NAME", Short: "Delete an instance with its data and its CA", Args: exactly("NAME"),
		Example: "  sealane instances delete first --quiet",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			name := parent.instance(args[0])
			if _, _, err := api.instance(c.Context(), name); err != nil {
				return err // before a question that makes no sense
			}
			if !quiet {
				if err := confirm(e, deleteQuestion(c.Context(), api, name, args[0])); err != nil {
					return err
				}
			}
			op := &longrunningpb.Operation{}
			if _, err := api.call(c.Context(), http.MethodDelete, "/v1/"+name, nil, nil, op); err != nil {
				return err
			}
			if async {
				fmt.Fprintln(e.out, op.GetName())
				return nil
			}
			if err := waitFor(c.Context(), e, api, op, "deleting "+args[0]); err != nil {
				return err
			}
			fmt.Fprintf(e.out, "deleted %s\n", args[0])
			return nil
		},
	}
	parent.add(c)
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "don't ask")
	c.Flags().BoolVar(&async, "async", false, "don't wait: print the operation's name")
	return c
}

// deleteQuestion says what will be gone.
func deleteQuestion(ctx context.Context, api *apiClient, name, id string) string {
	if b, _, err := api.backend(ctx, name); err == nil && b != nil {
		return fmt.Sprintf("Instance %s and its certificate authority will be gone for good; its backend %s and the data there stay. Delete it?", id, b.GetAddress())
	}
	return fmt.Sprintf("Instance %s, its data and its certificate authority will be gone for good. Delete it?", id)
}

// confirm asks and returns nil for a yes only.
func confirm(e *env, question string) error {
	fmt.Fprintf(e.err, "%s (y/N) ", question)
	answer, err := bufio.NewReader(e.in).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(e.err)
		return withHint(errors.New("nobody answered the question, so nothing was done"), "--quiet skips it")
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return withHint(errors.New("not confirmed, so nothing was done"), "answer y to go on")
}

func newAuthString(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "get-auth-string NAME", Short: "Print the password of an instance", Args: exactly("NAME"),
		Example: "  REDISCLI_AUTH=\"$(sealane instances get-auth-string first)\" redis-cli --tls …",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			auth := &redispb.InstanceAuthString{}
			raw, err := api.call(c.Context(), http.MethodGet, "/v1/"+parent.instance(args[0])+"/authString", nil, nil, auth)
			if err != nil {
				return err
			}
			if auth.GetAuthString() == "" && format == "table" {
				return withHint(fmt.Errorf("instance %s has no AUTH string: AUTH is off", args[0]), "clients connect without a password")
			}
			return format.print(e.out, raw, func(w io.Writer) { fmt.Fprintln(w, auth.GetAuthString()) })
		},
	}
	parent.add(c)
	format.add(c)
	return c
}
