package api_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	betapb "cloud.google.com/go/redis/apiv1beta1/redispb"
	"google.golang.org/genproto/googleapis/cloud/location"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// services are all that the server offers.
var services = []protoreflect.FullName{
	"google.cloud.redis.v1.CloudRedis", "google.cloud.redis.v1beta1.CloudRedis",
	"google.longrunning.Operations", "google.cloud.location.Locations", "sealane.v1.DataPlanes",
}

var authorizations = []struct {
	name, header string
	valid        bool
}{
	{"none", "", false},
	{"empty", "Bearer ", false},
	{"wrong", "Bearer sealane_the-wrong-token", false},
	{"longer", "Bearer " + token + "x", false},
	{"shorter", "Bearer " + token[:len(token)-1], false},
	{"no scheme", token, false},
	{"another scheme", "Basic " + token, false},
	{"right", "Bearer " + token, true},
	{"right, scheme in lower case", "bearer " + token, true},
}

func TestEveryRPCWantsTheTokenOverGRPC(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, service := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(service)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for n := range methods.Len() {
			m := methods.Get(n)
			for _, a := range authorizations {
				ctx := t.Context()
				if a.header != "" {
					ctx = metadata.AppendToOutgoingContext(ctx, "authorization", a.header)
				}
				err := s.grpc.Invoke(ctx, fmt.Sprintf("/%s/%s", service, m.Name()), message(t, m.Input()), message(t, m.Output()))
				code := status.Code(err)
				if (code == codes.Unauthenticated) == a.valid {
					t.Errorf("%s with token %s: %v", m.FullName(), a.name, err)
				}
				if a.valid && code != codes.InvalidArgument {
					t.Errorf("%s of nothing: %v; want INVALID_ARGUMENT", m.FullName(), err)
				}
			}
		}
	}
}

func message(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

func TestEveryRPCWantsTheTokenOverREST(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	operation := "/v1/projects/p1/locations/local/operations/o"
	for _, c := range [][2]string{
		{"GET", instances}, {"POST", instances + "?instanceId=a"}, {"GET", first}, {"PATCH", first}, {"DELETE", first},
		{"GET", first + "/authString"}, {"POST", first + ":upgrade"}, {"POST", first + ":import"}, {"POST", first + ":export"},
		{"POST", first + ":failover"}, {"POST", first + ":rescheduleMaintenance"},
		{"GET", first + "/dataPlane"}, {"PATCH", first + "/dataPlane"},
		{"GET", "/v1/projects/p1/locations"}, {"GET", "/v1/projects/p1/locations/local"},
		{"GET", "/v1/projects/p1/locations/local/operations"}, {"GET", operation}, {"DELETE", operation}, {"POST", operation + ":cancel"},
	} {
		for _, version := range []string{"/v1/", "/v1beta1/"} {
			path := strings.Replace(c[1], "/v1/", version, 1)
			if strings.HasSuffix(path, "/dataPlane") && version != "/v1/" {
				continue // it has one version
			}
			for _, a := range authorizations {
				code, v := s.doAs(a.header, c[0], path, "{}")
				if a.valid {
					if code == http.StatusUnauthorized {
						t.Errorf("%s %s with token %s: %v", c[0], path, a.name, v)
					}
					continue
				}
				s.refused(401, "UNAUTHENTICATED", v, code, "authorization: Bearer TOKEN", "admin.token")
			}
			// Nobody without a token makes the server read a body.
			code, v := s.doAs("", c[0], path, `{"not json`)
			s.refused(401, "UNAUTHENTICATED", v, code)
		}
	}
	if log := s.log.String(); strings.Contains(log, token) {
		t.Error("the token is in the log")
	}
}

func TestInstanceOverGRPC(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	ctx := authorized(t)
	redis, operations := redispb.NewCloudRedisClient(s.grpc), longrunningpb.NewOperationsClient(s.grpc)
	wait := func(op *longrunningpb.Operation, err error) *longrunningpb.Operation {
		t.Helper()
		for err == nil && !op.GetDone() {
			op, err = operations.GetOperation(ctx, &longrunningpb.GetOperationRequest{Name: op.GetName()})
		}
		if err != nil {
			t.Fatal(err)
		}
		return op
	}
	const parent, name = "projects/p1/locations/local", "projects/p1/locations/local/instances/first"
	op := wait(redis.CreateInstance(ctx, &redispb.CreateInstanceRequest{Parent: parent, InstanceId: "first", Instance: &redispb.Instance{
		Tier: redispb.Instance_BASIC, MemorySizeGb: 1, TransitEncryptionMode: redispb.Instance_SERVER_AUTHENTICATION, AuthEnabled: true,
	}}))
	var created redispb.Instance
	var md redispb.OperationMetadata
	if err := op.GetResponse().UnmarshalTo(&created); err != nil || created.GetState() != redispb.Instance_READY {
		t.Errorf("created: %v, %v", &created, err)
	}
	if err := op.GetMetadata().UnmarshalTo(&md); err != nil || md.GetVerb() != "create" || md.GetTarget() != name || md.GetApiVersion() != "v1" || md.GetEndTime() == nil {
		t.Errorf("metadata: %v, %v", &md, err)
	}
	// Clients send masks in either spelling over gRPC too.
	for _, path := range []string{"displayName", "display_name"} {
		wait(redis.UpdateInstance(ctx, &redispb.UpdateInstanceRequest{
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}}, Instance: &redispb.Instance{Name: name, DisplayName: path},
		}))
		if i, err := redis.GetInstance(ctx, &redispb.GetInstanceRequest{Name: name}); err != nil || i.GetDisplayName() != path {
			t.Errorf("after the update of %s: %q, %v", path, i.GetDisplayName(), err)
		}
	}
	if list, err := redis.ListInstances(ctx, &redispb.ListInstancesRequest{Parent: "projects/p1/locations/-"}); err != nil || len(list.GetInstances()) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	v1, err := redis.GetInstanceAuthString(ctx, &redispb.GetInstanceAuthStringRequest{Name: name})
	beta := betapb.NewCloudRedisClient(s.grpc)
	v1beta1, betaErr := beta.GetInstanceAuthString(ctx, &betapb.GetInstanceAuthStringRequest{Name: name})
	if err != nil || betaErr != nil || len(v1.GetAuthString()) != 36 || v1.GetAuthString() != v1beta1.GetAuthString() {
		t.Errorf("auth string: %v, %v; %v, %v", v1, err, v1beta1, betaErr)
	}
	if i, err := beta.GetInstance(ctx, &betapb.GetInstanceRequest{Name: name}); err != nil || i.GetState() != betapb.Instance_READY || len(i.GetServerCaCerts()) != 1 {
		t.Errorf("v1beta1: %v, %v", i, err)
	}
	if list, err := operations.ListOperations(ctx, &longrunningpb.ListOperationsRequest{Name: parent}); err != nil || len(list.GetOperations()) != 3 {
		t.Errorf("operations: %v, %v", list, err)
	}
	if list, err := location.NewLocationsClient(s.grpc).ListLocations(ctx, &location.ListLocationsRequest{Name: "projects/p1"}); err != nil || len(list.GetLocations()) != 1 {
		t.Errorf("locations: %v, %v", list, err)
	}
	op = wait(beta.DeleteInstance(ctx, &betapb.DeleteInstanceRequest{Name: name}))
	if got := op.GetResponse().GetTypeUrl(); got != "type.googleapis.com/google.protobuf.Empty" {
		t.Errorf("deleted: %s", got)
	}
	_, err = redis.GetInstance(ctx, &redispb.GetInstanceRequest{Name: name})
	if st := status.Convert(err); st.Code() != codes.NotFound || st.Message() != "Resource '"+name+"' was not found" {
		t.Errorf("get: %v", err)
	}
}

func TestErrorsOverGRPC(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	redis := redispb.NewCloudRedisClient(s.grpc)
	_, err := redis.CreateInstance(authorized(t), &redispb.CreateInstanceRequest{
		Parent: "projects/p1/locations/local", InstanceId: "first", Instance: &redispb.Instance{Tier: 9, ConnectMode: 8},
	})
	st := status.Convert(err)
	if st.Code() != codes.InvalidArgument || len(st.Details()) != 1 {
		t.Fatalf("create: %v", err)
	}
	vs := st.Details()[0].(*errdetails.BadRequest).GetFieldViolations()
	if len(vs) != 2 || vs[0].GetField() != "tier" || vs[1].GetField() != "connect_mode" {
		t.Errorf("violations: %v", vs)
	}
	for parent, want := range map[string]codes.Code{"projects/p1/locations/-": codes.InvalidArgument, "p1": codes.InvalidArgument, "": codes.InvalidArgument} {
		_, err = redis.CreateInstance(authorized(t), &redispb.CreateInstanceRequest{Parent: parent, InstanceId: "a", Instance: &redispb.Instance{Tier: 1, MemorySizeGb: 1}})
		if status.Code(err) != want {
			t.Errorf("create in %q: %v", parent, err)
		}
	}
	_, err = redis.CreateInstance(authorized(t), &redispb.CreateInstanceRequest{Instance: &redispb.Instance{DisplayName: strings.Repeat("a", 1<<20)}})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("large request: %v", err)
	}
	_, err = longrunningpb.NewOperationsClient(s.grpc).ListOperations(authorized(t), &longrunningpb.ListOperationsRequest{Name: "projects/p1/locations/local", Filter: "colour=red"})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "filter") {
		t.Errorf("filter: %v", err)
	}
}

// A bug in one call is that call's INTERNAL, with the stack in the log; the server goes on.
func TestPanicEndsItsCallOnly(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.nodes.set(func(n *nodes) { n.panics = true })
	redis, beta := redispb.NewCloudRedisClient(s.grpc), betapb.NewCloudRedisClient(s.grpc)
	calls := map[string]func(context.Context) error{
		"v1": func(ctx context.Context) error {
			_, err := redis.CreateInstance(ctx, &redispb.CreateInstanceRequest{Parent: "projects/p1/locations/local", InstanceId: "a", Instance: &redispb.Instance{Tier: 1, MemorySizeGb: 1}})
			return err
		},
		"v1beta1": func(ctx context.Context) error {
			_, err := beta.CreateInstance(ctx, &betapb.CreateInstanceRequest{Parent: "projects/p1/locations/local", InstanceId: "a", Instance: &betapb.Instance{Tier: 1, MemorySizeGb: 1}})
			return err
		},
	}
	for name, call := range calls {
		if err := call(authorized(t)); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "a bug") {
			t.Errorf("%s: %v", name, err)
		}
	}
	code, v := s.do("POST", instances+"?instanceId=a", basic)
	s.refused(500, "INTERNAL", v, code, "see the server's log")
	if log := s.log.String(); strings.Count(log, "panic in a call") != 3 || !strings.Contains(log, `panic="a bug"`) ||
		!strings.Contains(log, "instance.(*Manager).Create") || !strings.Contains(log, "/google.cloud.redis.v1beta1.CloudRedis/CreateInstance") {
		t.Errorf("log: %s", log)
	}
	s.nodes.set(func(n *nodes) { n.panics = false })
	for name, call := range calls {
		if err := call(authorized(t)); err != nil && status.Code(err) != codes.AlreadyExists {
			t.Errorf("%s afterwards: %v", name, err)
		}
	}
	s.create("b", basic)
}
