package api_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/gateway"
)

const dataPlane = first + "/dataPlane"

func TestDataPlaneOverREST(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", basic)
	s.nodes.set(func(n *nodes) {
		n.status = gateway.Status{Clients: 12, Limit: 500, LimitedBy: "open files", Connections: 13, Accepted: 1 << 40, Rejected: 2, Problem: "a problem"}
	})
	want := object{
		"name": "projects/p1/locations/local/instances/first/dataPlane", "dataPath": "TRANSPARENT", "clients": 12.0, "clientsLimit": 500.0,
		"limitedBy": "open files", "connections": 13.0, "accepted": "1099511627776", "rejected": "2", "problem": "a problem",
	}
	if got := s.ok("GET", dataPlane, ""); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v; want %v", got, want)
	}
	before := s.ok("GET", first, "")
	// What a client read it may send back: what is output only is ignored.
	got := s.ok("PATCH", dataPlane+"?updateMask=dataPath", `{
		"name":"projects/p1/locations/local/instances/other/dataPlane","dataPath":"MULTIPLEXED","clients":1,"clientsLimit":2,"limitedBy":"x",
		"connections":3,"accepted":"4","rejected":"5","problem":"x"}`)
	want["dataPath"] = "MULTIPLEXED"
	if fmt.Sprint(got) != fmt.Sprint(want) || s.nodes.path("first") != gateway.Multiplexed {
		t.Errorf("got %v, served as %q; want %v", got, s.nodes.path("first"), want)
	}
	if got := s.ok("GET", dataPlane+"?$alt=json;enum-encoding=int", ""); got["dataPath"] != 2.0 {
		t.Errorf("as a number: %v", got["dataPath"])
	}
	// The Memorystore API shows nothing of it: neither in the instance nor as an operation.
	if after := s.ok("GET", first, ""); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("instance after:  %v\nbefore: %v", after, before)
	}
	if ops := s.ok("GET", "/v1/projects/p1/locations/local/operations", "")["operations"].([]any); len(ops) != 1 {
		t.Errorf("operations: %v", ops)
	}
	s.nodes.set(func(n *nodes) { n.status = gateway.Status{} })
	want = object{"name": want["name"], "dataPath": "MULTIPLEXED"}
	if got := s.ok("GET", dataPlane, ""); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v; want %v", got, want)
	}
}

func TestDataPlaneMasksAndValues(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", strings.Replace(basic, "{", `{"transitEncryptionMode":"SERVER_AUTHENTICATION",`, 1))
	want := gateway.DataPath("") // as the snapshot says transparent
	for n, c := range []struct {
		mask, body string
		path       gateway.DataPath
		code       int
		says       []string
	}{
		{"dataPath", `{"dataPath":"MULTIPLEXED"}`, gateway.Multiplexed, 200, nil},
		{"data_path", `{"data_path":"TRANSPARENT"}`, "", 200, nil},
		{"%20data_path,", `{"dataPath":2}`, gateway.Multiplexed, 200, nil},
		{"dataPath,data_path", `{"dataPath":"MULTIPLEXED"}`, gateway.Multiplexed, 200, nil},
		{"data_path", `{"dataPath":1}`, "", 200, nil},
		{"dataPath,minTlsVersion,groups", `{"dataPath":2,"minTlsVersion":"1.3","groups":["X25519"]}`, gateway.Multiplexed, 200, nil},
		{"min_tls_version", `{"minTlsVersion":"1.1"}`, "", 400, []string{`data_plane.min_tls_version: "1.1": must be`}},
		{"dataPath,groups,tls12_ciphers", `{"dataPath":1,"groups":["X448"],"tls12Ciphers":["RC4"]}`, "", 400, []string{"data_plane.groups[0]: ", "data_plane.tls12_ciphers"}},
		{"minTlsVersion,groups,tls12Ciphers", `{}`, gateway.Multiplexed, 200, nil},
		{"", `{"dataPath":2}`, "", 400, []string{"update_mask: is empty", "data_path"}},
		{"clients", `{"clients":2}`, "", 400, []string{`"clients" cannot be updated`, "data_path, min_tls_version, groups and tls12_ciphers can"}},
		{"dataPath,limitedBy", `{"dataPath":2}`, "", 400, []string{`"limited_by" cannot be updated`}},
		{"name", `{}`, "", 400, []string{`"name"`}},
		{"*", `{"dataPath":2}`, "", 400, []string{`"*"`}},
		{"data_path", ``, "", 400, []string{"data_plane.data_path: DATA_PATH_UNSPECIFIED: want TRANSPARENT or MULTIPLEXED"}},
		{"data_path,colour", `{"dataPath":0}`, "", 400, []string{`"colour"`, "DATA_PATH_UNSPECIFIED: want"}},
		{"data_path", `{"dataPath":7}`, "", 400, []string{"data_plane.data_path: 7: want TRANSPARENT or MULTIPLEXED"}},
		{"data_path", `{"dataPath":"QUICK"}`, "", 400, []string{"data_plane.data_path", "QUICK"}},
		{"data_path", `{"colour":"red"}`, "", 400, []string{`"colour"`}},
		{"data_path&colour=red", `{"dataPath":2}`, "", 400, []string{`"colour"`}},
		{"data_path&dataPlane.dataPath=2", `{"dataPath":2}`, "", 400, []string{`"dataPlane.dataPath"`}},
	} {
		param := []string{"updateMask", "update_mask"}[n%2]
		code, v := s.do("PATCH", fmt.Sprintf("%s?%s=%s", dataPlane, param, c.mask), c.body)
		if c.code == 200 {
			want = c.path
			if code != 200 {
				t.Errorf("mask %q, %s: %d, %v", c.mask, c.body, code, v)
			}
		} else {
			s.refused(c.code, "INVALID_ARGUMENT", v, code, c.says...)
		}
		if got := s.nodes.path("first"); got != want {
			t.Errorf("mask %q, %s: served as %q; want %q", c.mask, c.body, got, want)
		}
	}
}

func TestDataPlaneThatCannotBeChanged(t *testing.T) {
	t.Parallel()
	s := newServer(t, answerAtOnce)
	patch := func(path string) (int, object) {
		return s.do("PATCH", path+"?updateMask=dataPath", `{"dataPath":"MULTIPLEXED"}`)
	}
	for _, missing := range []func() (int, object){
		func() (int, object) { return s.do("GET", dataPlane, "") },
		func() (int, object) { return patch(dataPlane) },
	} {
		code, v := missing()
		s.refused(404, "NOT_FOUND", v, code, "Resource 'projects/p1/locations/local/instances/first' was not found")
	}
	code, v := s.do("GET", instances+"/Bad/dataPlane", "")
	s.refused(400, "INVALID_ARGUMENT", v, code, "name: ", `"Bad"`)
	code, v = patch(instances + "/Bad/dataPlane")
	s.refused(400, "INVALID_ARGUMENT", v, code, "data_plane.name: ", `"Bad"`)
	code, v = s.do("DELETE", dataPlane, "")
	s.refused(405, "UNIMPLEMENTED", v, code, "DELETE is not offered at")
	code, v = s.do("GET", strings.Replace(dataPlane, "v1", "v1beta1", 1), "")
	s.refused(404, "NOT_FOUND", v, code)

	s.nodes.set(func(n *nodes) { n.hold = true })
	op := s.ok("POST", instances+"?instanceId=first", basic)
	code, v = patch(dataPlane)
	s.refused(400, "FAILED_PRECONDITION", v, code, "is in state CREATING: wait for "+op["name"].(string))
	if got := s.ok("GET", dataPlane, ""); got["dataPath"] != "TRANSPARENT" || len(got) != 2 {
		t.Errorf("while it is created: %v", got)
	}
}

func TestDataPlaneOverGRPC(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", basic)
	s.nodes.set(func(n *nodes) { n.status = gateway.Status{Clients: 1, Limit: 1000} })
	planes, ctx := sealanepb.NewDataPlanesClient(s.grpc), authorized(t)
	const name = "projects/p1/locations/local/instances/first/dataPlane"
	update := func(ctx context.Context, name string, path sealanepb.DataPlane_DataPath, mask ...string) (*sealanepb.DataPlane, error) {
		return planes.UpdateDataPlane(ctx, &sealanepb.UpdateDataPlaneRequest{
			DataPlane: &sealanepb.DataPlane{Name: name, DataPath: path, Clients: 99}, UpdateMask: &fieldmaskpb.FieldMask{Paths: mask},
		})
	}
	for spelling, path := range map[string]sealanepb.DataPlane_DataPath{"dataPath": sealanepb.DataPlane_MULTIPLEXED, "data_path": sealanepb.DataPlane_TRANSPARENT} {
		updated, err := update(ctx, name, path, spelling)
		if err != nil || updated.GetDataPath() != path || updated.GetName() != name || updated.GetClients() != 1 || updated.GetClientsLimit() != 1000 {
			t.Errorf("update of %s: %v, %v", spelling, updated, err)
		}
		if got, err := planes.GetDataPlane(ctx, &sealanepb.GetDataPlaneRequest{Name: name}); err != nil || got.GetDataPath() != path {
			t.Errorf("after the update of %s: %v, %v", spelling, got, err)
		}
	}
	for _, bad := range []string{
		"", "dataPlane", "projects/p1/locations/local/instances/first", "projects/p1/locations/local/instances/first/dataplane",
		name + "/dataPlane", "projects/P/locations/local/instances/first/dataPlane", "projects/p1/locations/local/instances//dataPlane",
	} {
		_, err := planes.GetDataPlane(ctx, &sealanepb.GetDataPlaneRequest{Name: bad})
		_, updateErr := update(ctx, bad, 1, "data_path")
		for field, err := range map[string]error{"name": err, "data_plane.name": updateErr} {
			st := status.Convert(err)
			if st.Code() != codes.InvalidArgument || len(st.Details()) != 1 || st.Details()[0].(*errdetails.BadRequest).GetFieldViolations()[0].GetField() != field {
				t.Errorf("%s %q: %v", field, bad, err)
			}
		}
	}
	_, err := planes.GetDataPlane(ctx, &sealanepb.GetDataPlaneRequest{Name: strings.Replace(name, "first", "none", 1)})
	if status.Code(err) != codes.NotFound {
		t.Errorf("of nothing: %v", err)
	}
	if _, err := update(ctx, name, 9, "data_path"); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "data_plane.data_path: 9: want") {
		t.Errorf("a number of no path: %v", err)
	}

	// What is not served in time is said to be kept.
	s.nodes.set(func(n *nodes) { n.refuses = true })
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := update(short, name, sealanepb.DataPlane_MULTIPLEXED, "data_path"); status.Code(err) != codes.Unavailable && status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a path that the gateway refuses: %v", err)
	}
	got, err := planes.GetDataPlane(ctx, &sealanepb.GetDataPlaneRequest{Name: name})
	if err != nil || got.GetDataPath() != sealanepb.DataPlane_MULTIPLEXED || got.GetProblem() != "gateway: invalid snapshot" {
		t.Errorf("afterwards: %v, %v", got, err)
	}
	if ops, err := longrunningpb.NewOperationsClient(s.grpc).ListOperations(ctx, &longrunningpb.ListOperationsRequest{Name: "projects/p1/locations/local"}); err != nil || len(ops.GetOperations()) != 1 {
		t.Errorf("operations: %v, %v", ops, err)
	}
}
