package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	redis "cloud.google.com/go/redis/apiv1"
	"cloud.google.com/go/redis/apiv1/redispb"
	redisbeta "cloud.google.com/go/redis/apiv1beta1"
	betapb "cloud.google.com/go/redis/apiv1beta1/redispb"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/genproto/googleapis/cloud/location"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/type/dayofweek"
	"google.golang.org/genproto/googleapis/type/timeofday"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

const (
	usCentral = "projects/my-project/locations/us-central1"
	europe    = "projects/my-project/locations/europe-west1"
)

// bearer adds the token to every gRPC call and every HTTP request.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (b bearer) RequireTransportSecurity() bool { return false }

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

func (s *server) grpcOptions(token string) []option.ClientOption {
	return []option.ClientOption{
		option.WithEndpoint(s.grpc), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
		option.WithGRPCDialOption(grpc.WithPerRPCCredentials(bearer(token))),
	}
}

func (s *server) restOptions(token string) []option.ClientOption {
	return []option.ClientOption{option.WithEndpoint(s.api), option.WithHTTPClient(&http.Client{Transport: bearer(token)})}
}

// transports are the two official clients of v1.
var transports = []struct {
	name string
	dial func(t *testing.T, s *server, token string) *redis.CloudRedisClient
}{
	{"gRPC", func(t *testing.T, s *server, token string) *redis.CloudRedisClient {
		c, err := redis.NewCloudRedisClient(t.Context(), s.grpcOptions(token)...)
		return opened(t, c, err)
	}},
	{"REST", func(t *testing.T, s *server, token string) *redis.CloudRedisClient {
		c, err := redis.NewCloudRedisRESTClient(t.Context(), s.restOptions(token)...)
		return opened(t, c, err)
	}},
}

func opened[C interface{ Close() error }](t *testing.T, c C, err error) C {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// must passes a value on and fails the test on an error.
func must[V any](v V, err error) func(t *testing.T) V {
	return func(t *testing.T) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func all[V any](t *testing.T, next func() (V, error)) []V {
	t.Helper()
	var vs []V
	for {
		v, err := next()
		if errors.Is(err, iterator.Done) {
			return vs
		}
		if err != nil {
			t.Fatal(err)
		}
		vs = append(vs, v)
	}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(unwrapped(err)); got != want {
		t.Errorf("%s: got %v (%v), want %v", what, got, err, want)
	}
}

// unwrapped finds the gRPC status that the client library wraps.
func unwrapped(err error) error {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Err()
	}
	return err
}

var operationName = regexp.MustCompile(`^projects/my-project/locations/us-central1/operations/operation-\d{13}-[0-9a-f]{13}-[0-9a-f]{8}-[0-9a-f]{8}$`)

func TestOfficialClients(t *testing.T) {
	t.Parallel()
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, serverOptions{})
			c := transport.dial(t, s, s.token)
			officialLifeCycle(t, s, c)
			officialErrors(t, c)
			wrong := transport.dial(t, s, "sealane_not-the-token")
			_, err := wrong.GetInstance(t.Context(), &redispb.GetInstanceRequest{Name: usCentral + "/instances/i"})
			wantCode(t, "a wrong token", err, codes.Unauthenticated)
		})
	}
}

func officialLifeCycle(t *testing.T, s *server, c *redis.CloudRedisClient) {
	ctx, name := t.Context(), usCentral+"/instances/official"
	op := must(c.CreateInstance(ctx, &redispb.CreateInstanceRequest{
		Parent: usCentral, InstanceId: "official",
		Instance: &redispb.Instance{
			Name: name, Tier: redispb.Instance_BASIC, MemorySizeGb: 1, AuthEnabled: true, DisplayName: "one", Labels: map[string]string{"a": "b"},
			TransitEncryptionMode: redispb.Instance_SERVER_AUTHENTICATION, RedisConfigs: map[string]string{"maxmemory-policy": "allkeys-lru"},
		},
	}))(t)
	if !operationName.MatchString(op.Name()) {
		t.Errorf("operation name: got %q, want the form of the managed service's", op.Name())
	}
	created := must(op.Wait(ctx))(t)
	if m := must(op.Metadata())(t); m.GetVerb() != "create" || m.GetTarget() != name || m.GetApiVersion() != "v1" || m.GetEndTime() == nil {
		t.Errorf("metadata: got %v, want verb create, target %s, api_version v1 and an end_time", m, name)
	}
	got := must(c.GetInstance(ctx, &redispb.GetInstanceRequest{Name: name}))(t)
	if got.GetState() != redispb.Instance_READY || got.GetHost() == "" || got.GetHost() != created.GetHost() || got.GetPort() != 6378 ||
		len(got.GetServerCaCerts()) != 1 || len(got.GetNodes()) != 1 || !got.GetAuthEnabled() || got.GetLabels()["a"] != "b" ||
		got.GetRedisConfigs()["maxmemory-policy"] != "allkeys-lru" || got.GetCurrentLocationId() != "us-central1-a" ||
		got.GetAuthorizedNetwork() != "projects/my-project/global/networks/default" || got.GetConnectMode() != redispb.Instance_DIRECT_PEERING {
		t.Errorf("get: got %v", got)
	}
	auth := must(c.GetInstanceAuthString(ctx, &redispb.GetInstanceAuthStringRequest{Name: name}))(t).GetAuthString()
	// The engine has the password and the settings that the API shows.
	cli := s.program("redis-cli", "--tls", "--cacert", must(writeCA(s, got.GetServerCaCerts()[0].GetCert()))(t), "-h", got.GetHost(), "-p", "6378", "CONFIG", "GET", "maxmemory*")
	cli.Env = append(cli.Env, "REDISCLI_AUTH="+auth)
	if out := s.mustRun(cli); !strings.Contains(out, "allkeys-lru") || !strings.Contains(out, "1073741824") {
		t.Errorf("CONFIG GET maxmemory*: got %q, want allkeys-lru and 1 GiB", out)
	}

	// The operation is found by name, as by a program that was restarted meanwhile.
	again := must(c.CreateInstanceOperation(op.Name()).Poll(ctx))(t)
	if again.GetHost() != got.GetHost() {
		t.Errorf("poll by name: got %v", again)
	}

	update := must(c.UpdateInstance(ctx, &redispb.UpdateInstanceRequest{
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name", "labels"}},
		Instance:   &redispb.Instance{Name: name, DisplayName: "two", Labels: map[string]string{"c": "d"}},
	}))(t)
	if i := must(update.Wait(ctx))(t); i.GetDisplayName() != "two" || len(i.GetLabels()) != 1 || i.GetLabels()["c"] != "d" || i.GetHost() != got.GetHost() {
		t.Errorf("update: got %v", i)
	}
	if m := must(update.Metadata())(t); m.GetVerb() != "update" {
		t.Errorf("metadata of the update: got %v", m)
	}

	officialLists(t, c, name, op.Name(), update.Name())
	officialUpdates(t, c, name)
	officialStandard(t, c)
	officialLocations(t, c)

	del := must(c.DeleteInstance(ctx, &redispb.DeleteInstanceRequest{Name: name}))(t)
	if err := del.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	_, err := c.GetInstance(ctx, &redispb.GetInstanceRequest{Name: name})
	wantCode(t, "get after the delete", err, codes.NotFound)
	if m := must(del.Metadata())(t); m.GetVerb() != "delete" || m.GetEndTime() == nil {
		t.Errorf("metadata of the delete: got %v", m)
	}
	// The operation outlives the instance.
	must(c.GetOperation(ctx, &longrunningpb.GetOperationRequest{Name: del.Name()}))(t)
	if err := c.DeleteOperation(ctx, &longrunningpb.DeleteOperationRequest{Name: del.Name()}); err != nil {
		t.Error(err)
	}
	_, err = c.GetOperation(ctx, &longrunningpb.GetOperationRequest{Name: del.Name()})
	wantCode(t, "get of a deleted operation", err, codes.NotFound)
}

func writeCA(s *server, pem string) (string, error) {
	file := s.base + "/ca.pem"
	s.write(file, pem)
	return file, nil
}

func officialLists(t *testing.T, c *redis.CloudRedisClient, name string, ops ...string) {
	ctx := t.Context()
	var waits []*redis.CreateInstanceOperation
	for _, parent := range []string{usCentral, europe} {
		waits = append(waits, must(c.CreateInstance(ctx, &redispb.CreateInstanceRequest{
			Parent: parent, InstanceId: "second", Instance: &redispb.Instance{Tier: redispb.Instance_BASIC, MemorySizeGb: 1},
		}))(t))
	}
	for _, op := range waits {
		i := must(op.Wait(ctx))(t)
		if i.GetPort() != 6379 || i.GetTransitEncryptionMode() != redispb.Instance_DISABLED || len(i.GetServerCaCerts()) != 0 || i.GetAuthEnabled() {
			t.Errorf("an instance without a transit_encryption_mode: got %v, want DISABLED on port 6379", i)
		}
	}
	want := []string{europe + "/instances/second", name, usCentral + "/instances/second"}
	for _, list := range []struct {
		parent string
		size   int32
		want   []string
	}{{usCentral, 0, want[1:]}, {usCentral, 1, want[1:]}, {europe, 0, want[:1]}, {"projects/my-project/locations/-", 2, want}, {"projects/other/locations/-", 0, nil}} {
		it := c.ListInstances(ctx, &redispb.ListInstancesRequest{Parent: list.parent, PageSize: list.size})
		var got []string
		for _, i := range all(t, it.Next) {
			got = append(got, i.GetName())
		}
		if !slices.Equal(got, list.want) {
			t.Errorf("list of %s, page size %d: got %q, want %q", list.parent, list.size, got, list.want)
		}
	}
	it := c.ListInstances(ctx, &redispb.ListInstancesRequest{Parent: "projects/my-project/locations/-"})
	page, token, err := it.InternalFetch(2, "")
	if err != nil || len(page) != 2 || token == "" {
		t.Errorf("first page: got %d instances, token %q, %v, want 2 and a token", len(page), token, err)
	}
	var got []string
	for _, op := range all(t, c.ListOperations(ctx, &longrunningpb.ListOperationsRequest{Name: usCentral, PageSize: 1}).Next) {
		got = append(got, op.GetName())
	}
	for _, op := range ops {
		if !slices.Contains(got, op) {
			t.Errorf("list of operations: got %q, want %s among them", got, op)
		}
	}
}

// officialStandard makes an instance with replicas, makes another node its primary, and takes a replica away.
func officialStandard(t *testing.T, c *redis.CloudRedisClient) {
	ctx, name := t.Context(), usCentral+"/instances/standard"
	create := must(c.CreateInstance(ctx, &redispb.CreateInstanceRequest{Parent: usCentral, InstanceId: "standard", Instance: &redispb.Instance{
		Tier: redispb.Instance_STANDARD_HA, MemorySizeGb: 5, ReadReplicasMode: redispb.Instance_READ_REPLICAS_ENABLED, AlternativeLocationId: "us-central1-f",
	}}))(t)
	i := must(create.Wait(ctx))(t)
	if i.GetTier() != redispb.Instance_STANDARD_HA || i.GetReplicaCount() != 2 || len(i.GetNodes()) != 3 || i.GetNodes()[1].GetZone() != "us-central1-f" ||
		i.GetReadEndpoint() == "" || i.GetReadEndpointPort() != 6379 || i.GetReadReplicasMode() != redispb.Instance_READ_REPLICAS_ENABLED {
		t.Errorf("with two replicas: got %v", i)
	}
	failover := must(c.FailoverInstance(ctx, &redispb.FailoverInstanceRequest{Name: name, DataProtectionMode: redispb.FailoverInstanceRequest_LIMITED_DATA_LOSS}))(t)
	if after := must(failover.Wait(ctx))(t); after.GetCurrentLocationId() == i.GetCurrentLocationId() || after.GetHost() != i.GetHost() || after.GetState() != redispb.Instance_READY {
		t.Errorf("after the failover: got %v", after)
	}
	if m := must(failover.Metadata())(t); m.GetVerb() != "failover" {
		t.Errorf("metadata of the failover: got %v", m)
	}
	update := must(c.UpdateInstance(ctx, &redispb.UpdateInstanceRequest{
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"replica_count"}}, Instance: &redispb.Instance{Name: name, ReplicaCount: 1},
	}))(t)
	if fewer := must(update.Wait(ctx))(t); fewer.GetReplicaCount() != 1 || len(fewer.GetNodes()) != 2 {
		t.Errorf("with one replica: got %v", fewer)
	}
	if err := must(c.DeleteInstance(ctx, &redispb.DeleteInstanceRequest{Name: name}))(t).Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func officialLocations(t *testing.T, c *redis.CloudRedisClient) {
	ctx := t.Context()
	locations := all(t, c.ListLocations(ctx, &location.ListLocationsRequest{Name: "projects/my-project"}).Next)
	var ids []string
	for _, l := range locations {
		ids = append(ids, l.GetLocationId())
	}
	if want := []string{"europe-west1", "local", "us-central1"}; !slices.Equal(ids, want) {
		t.Errorf("locations: got %q, want %q", ids, want)
	}
	l := must(c.GetLocation(ctx, &location.GetLocationRequest{Name: usCentral}))(t)
	var m redispb.LocationMetadata
	if err := l.GetMetadata().UnmarshalTo(&m); err != nil || m.GetAvailableZones()["us-central1-a"] == nil {
		t.Errorf("location: got %v (%v), want the zones in its metadata", l, err)
	}
}

func officialErrors(t *testing.T, c *redis.CloudRedisClient) {
	ctx, name := t.Context(), usCentral+"/instances/missing"
	_, err := c.GetInstance(ctx, &redispb.GetInstanceRequest{Name: name})
	wantCode(t, "get", err, codes.NotFound)
	_, err = c.DeleteInstance(ctx, &redispb.DeleteInstanceRequest{Name: name})
	wantCode(t, "delete", err, codes.NotFound)
	_, err = c.CreateInstanceOperation(usCentral + "/operations/operation-1-0-0-0").Poll(ctx)
	wantCode(t, "poll", err, codes.NotFound)
	_, err = c.CreateInstance(ctx, &redispb.CreateInstanceRequest{
		Parent: usCentral, InstanceId: "Bad_Id", Instance: &redispb.Instance{Tier: redispb.Instance_BASIC, MemorySizeGb: 1},
	})
	wantCode(t, "create with a bad id", err, codes.InvalidArgument)

	for method, call := range map[string]func() error{
		"UpgradeInstance": func() error {
			_, err := c.UpgradeInstance(ctx, &redispb.UpgradeInstanceRequest{Name: name, RedisVersion: "REDIS_7_2"})
			return err
		},
		"FailoverInstance": func() error {
			_, err := c.FailoverInstance(ctx, &redispb.FailoverInstanceRequest{Name: name})
			return err
		},
		"ExportInstance": func() error {
			_, err := c.ExportInstance(ctx, &redispb.ExportInstanceRequest{Name: name, OutputConfig: &redispb.OutputConfig{
				Destination: &redispb.OutputConfig_GcsDestination{GcsDestination: &redispb.GcsDestination{Uri: "gs://b/o.rdb"}}}})
			return err
		},
		"ImportInstance": func() error {
			_, err := c.ImportInstance(ctx, &redispb.ImportInstanceRequest{Name: name, InputConfig: &redispb.InputConfig{
				Source: &redispb.InputConfig_GcsSource{GcsSource: &redispb.GcsSource{Uri: "gs://b/o.rdb"}}}})
			return err
		},
		"RescheduleMaintenance": func() error {
			_, err := c.RescheduleMaintenance(ctx, &redispb.RescheduleMaintenanceRequest{
				Name: name, RescheduleType: redispb.RescheduleMaintenanceRequest_IMMEDIATE})
			return err
		},
	} {
		// REST's client looks at the HTTP status only, which is 400 for both.
		if code := status.Code(unwrapped(call())); code != codes.NotFound && code != codes.FailedPrecondition && code != codes.InvalidArgument {
			t.Errorf("%s of an instance that is missing: got %v", method, code)
		}
	}
}

// officialUpdates makes every update that there is, through the library, and reads its outcome from the operation.
func officialUpdates(t *testing.T, c *redis.CloudRedisClient, name string) {
	ctx := t.Context()
	window := []*redispb.WeeklyMaintenanceWindow{{Day: dayofweek.DayOfWeek_SUNDAY, StartTime: &timeofday.TimeOfDay{Minutes: 30}}}
	for _, u := range []struct {
		mask string
		in   *redispb.Instance
		ok   func(*redispb.Instance) bool
	}{
		{"memory_size_gb", &redispb.Instance{MemorySizeGb: 2}, func(i *redispb.Instance) bool { return i.GetMemorySizeGb() == 2 }},
		{"memory_size_gb", &redispb.Instance{MemorySizeGb: 1}, func(i *redispb.Instance) bool { return i.GetMemorySizeGb() == 1 }},
		{"redis_configs", &redispb.Instance{RedisConfigs: map[string]string{"timeout": "60"}}, func(i *redispb.Instance) bool { return len(i.GetRedisConfigs()) == 1 }},
		{"redis_configs", &redispb.Instance{}, func(i *redispb.Instance) bool { return len(i.GetRedisConfigs()) == 0 }},
		{"auth_enabled", &redispb.Instance{}, func(i *redispb.Instance) bool { return !i.GetAuthEnabled() }},
		{"persistence_config", &redispb.Instance{PersistenceConfig: &redispb.PersistenceConfig{RdbSnapshotPeriod: redispb.PersistenceConfig_SIX_HOURS}}, func(i *redispb.Instance) bool {
			p := i.GetPersistenceConfig()
			return p.GetPersistenceMode() == redispb.PersistenceConfig_RDB && p.GetRdbSnapshotPeriod() == redispb.PersistenceConfig_SIX_HOURS && p.GetRdbNextSnapshotTime() != nil
		}},
		{"persistence_config", &redispb.Instance{}, func(i *redispb.Instance) bool {
			return i.GetPersistenceConfig().GetPersistenceMode() == redispb.PersistenceConfig_DISABLED
		}},
		{"maintenance_policy", &redispb.Instance{MaintenancePolicy: &redispb.MaintenancePolicy{WeeklyMaintenanceWindow: window}}, func(i *redispb.Instance) bool {
			w := i.GetMaintenancePolicy().GetWeeklyMaintenanceWindow()
			return len(w) == 1 && w[0].GetDay() == dayofweek.DayOfWeek_SUNDAY && w[0].GetStartTime().GetMinutes() == 30 && w[0].GetDuration().AsDuration() == time.Hour
		}},
		{"maintenance_policy", &redispb.Instance{}, func(i *redispb.Instance) bool { return i.GetMaintenancePolicy() == nil }},
		{"maintenance_version", &redispb.Instance{MaintenanceVersion: "current_default"}, func(i *redispb.Instance) bool { return i.GetMaintenanceVersion() != "" }},
		{"replica_count", &redispb.Instance{}, func(i *redispb.Instance) bool { return i.GetReplicaCount() == 0 }},
		{"labels", &redispb.Instance{}, func(i *redispb.Instance) bool { return len(i.GetLabels()) == 0 }},
	} {
		u.in.Name = name
		op := must(c.UpdateInstance(ctx, &redispb.UpdateInstanceRequest{UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{u.mask}}, Instance: u.in}))(t)
		if !op.Done() {
			t.Errorf("update of %s: the first answer is not done", u.mask)
		}
		if i := must(op.Wait(ctx))(t); !u.ok(i) || i.GetState() != redispb.Instance_READY {
			t.Errorf("update of %s to %v: got %v", u.mask, u.in, i)
		}
	}
}

// The official REST clients ask for enums as numbers and send them as numbers. Everybody else wants names.
func TestEnumsAsNumbers(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	s.create("first")
	const path = "/v1/projects/local/locations/local/instances/first?"
	for query, want := range map[string]string{
		"alt=json":                          "READY BASIC SERVER_AUTHENTICATION",
		"%24alt=json%3Benum-encoding%3Dint": "2 1 1",
	} {
		i := s.rest("GET", path+query, "").json(t)
		if got := fmt.Sprint(i["state"], " ", i["tier"], " ", i["transitEncryptionMode"]); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	r := s.rest("POST", "/v1/projects/local/locations/local/instances?instanceId=second&%24alt=json%3Benum-encoding%3Dint",
		`{"tier":1,"memorySizeGb":1,"transitEncryptionMode":1}`)
	if r.code != 200 {
		t.Fatalf("create with numbers: got %d, %s", r.code, r.body)
	}
	s.wantDone(r.json(t)["name"].(string))
	if got := s.describe("second"); got.TransitEncryptionMode != "SERVER_AUTHENTICATION" {
		t.Errorf("created with numbers: got %+v", got)
	}
}

// A gRPC client gets the invalid fields as data, not only in the message.
func TestGRPCFieldViolations(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	c := transports[0].dial(t, s, s.token)
	_, err := c.CreateInstance(t.Context(), &redispb.CreateInstanceRequest{
		Parent: usCentral, InstanceId: "i",
		Instance: &redispb.Instance{Tier: redispb.Instance_BASIC, MemorySizeGb: 301, RedisConfigs: map[string]string{"no-such-key": "1", "timeout": "x"}},
	})
	wantCode(t, "create", err, codes.InvalidArgument)
	var fields []string
	for _, d := range status.Convert(unwrapped(err)).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		}
	}
	if want := []string{"memory_size_gb", `redis_configs["no-such-key"]`, `redis_configs["timeout"]`}; !slices.Equal(fields, want) {
		t.Errorf("field violations: got %q, want %q", fields, want)
	}
}

// A create that was cancelled leaves nothing behind, and the name is free again.
func TestCancelCreate(t *testing.T) {
	t.Parallel()
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, serverOptions{})
			release := s.holdEngines()
			s.start()
			c := transport.dial(t, s, s.token)
			ctx := t.Context()
			create := &redispb.CreateInstanceRequest{
				Parent: usCentral, InstanceId: "i", Instance: &redispb.Instance{Tier: redispb.Instance_BASIC, MemorySizeGb: 1},
			}
			op := must(c.CreateInstance(ctx, create))(t)
			err := c.DeleteOperation(ctx, &longrunningpb.DeleteOperationRequest{Name: op.Name()})
			want := codes.FailedPrecondition
			if transport.name == "REST" {
				want = codes.InvalidArgument // this client looks at the HTTP status only, which is 400 for both
			}
			wantCode(t, "delete of an operation under way", err, want)
			if err := c.CancelOperation(ctx, &longrunningpb.CancelOperationRequest{Name: op.Name()}); err != nil {
				t.Fatal(err)
			}
			_, err = op.Wait(ctx)
			wantCode(t, "wait for a cancelled create", err, codes.Canceled)
			if m := must(op.Metadata())(t); !m.GetCancelRequested() {
				t.Errorf("metadata: got %v, want cancel_requested", m)
			}
			if nodes := s.nodes("engine"); len(nodes) > 0 {
				t.Errorf("processes of the cancelled create: %v", nodes)
			}
			release()
			again := must(c.CreateInstance(ctx, create))(t)
			must(again.Wait(ctx))(t)
		})
	}
}

func TestOfficialBetaClients(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	for name, dial := range map[string]func() (*redisbeta.CloudRedisClient, error){
		"grpc": func() (*redisbeta.CloudRedisClient, error) {
			return redisbeta.NewCloudRedisClient(t.Context(), s.grpcOptions(s.token)...)
		},
		"rest": func() (*redisbeta.CloudRedisClient, error) {
			return redisbeta.NewCloudRedisRESTClient(t.Context(), s.restOptions(s.token)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			dialled, err := dial()
			c := opened(t, dialled, err)
			full := usCentral + "/instances/beta-" + name
			op := must(c.CreateInstance(ctx, &betapb.CreateInstanceRequest{
				Parent: usCentral, InstanceId: "beta-" + name,
				Instance: &betapb.Instance{Tier: betapb.Instance_BASIC, MemorySizeGb: 1, TransitEncryptionMode: betapb.Instance_SERVER_AUTHENTICATION},
			}))(t)
			i := must(op.Wait(ctx))(t)
			if i.GetState() != betapb.Instance_READY || i.GetPort() != 6378 || len(i.GetServerCaCerts()) != 1 {
				t.Errorf("create: got %v", i)
			}
			update := must(c.UpdateInstance(ctx, &betapb.UpdateInstanceRequest{
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}}, Instance: &betapb.Instance{Name: full, DisplayName: "beta"},
			}))(t)
			if i := must(update.Wait(ctx))(t); i.GetDisplayName() != "beta" {
				t.Errorf("update: got %v", i)
			}
			var names []string
			for _, i := range all(t, c.ListInstances(ctx, &betapb.ListInstancesRequest{Parent: usCentral}).Next) {
				names = append(names, i.GetName())
			}
			if !slices.Contains(names, full) {
				t.Errorf("list: got %q, want %s among them", names, full)
			}
			del := must(c.DeleteInstance(ctx, &betapb.DeleteInstanceRequest{Name: full}))(t)
			if err := del.Wait(ctx); err != nil {
				t.Fatal(err)
			}
			_, err = c.GetInstance(ctx, &betapb.GetInstanceRequest{Name: full})
			wantCode(t, "get after the delete", err, codes.NotFound)
			_, err = c.FailoverInstance(ctx, &betapb.FailoverInstanceRequest{Name: full})
			wantCode(t, "failover", err, codes.NotFound)
		})
	}
}
