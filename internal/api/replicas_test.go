package api_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/redis/apiv1/redispb"
	betapb "cloud.google.com/go/redis/apiv1beta1/redispb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/plaintext"
)

const standard = `{"tier":"STANDARD_HA","memorySizeGb":5}`

// fields compares fields of an instance, by dotted paths.
func (s *server) fields(what string, i object, want map[string]any) {
	s.t.Helper()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if got := at(i, path); got != want[path] && !(want[path] == some && got != nil) {
			s.t.Errorf("%s: %s is %v; want %v", what, path, got, want[path])
		}
	}
}

func TestStandardInstancesOverREST(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for id, c := range map[string]struct {
		body string
		want map[string]any
	}{
		"plain": {standard, map[string]any{"tier": "STANDARD_HA", "replicaCount": 1.0, "readReplicasMode": "READ_REPLICAS_DISABLED", "locationId": "local-a", "alternativeLocationId": "local-b",
			"currentLocationId": "local-a", "nodes.0.id": "node-0", "nodes.0.zone": "local-a", "nodes.1.id": "node-1", "nodes.1.zone": "local-b", "readEndpoint": nil, "readEndpointPort": nil, "secondaryIpRange": nil}},
		"zones": {`{"tier":3,"memorySizeGb":1,"locationId":"local-c","alternativeLocationId":"local-a","replicaCount":1}`,
			map[string]any{"locationId": "local-c", "alternativeLocationId": "local-a", "nodes.0.zone": "local-c", "nodes.1.zone": "local-a", "currentLocationId": "local-c"}},
		"second-zone": {`{"tier":3,"memorySizeGb":1,"alternativeLocationId":"local-a"}`, map[string]any{"locationId": "local-b", "alternativeLocationId": "local-a"}},
		"read": {`{"tier":"STANDARD_HA","memorySizeGb":5,"readReplicasMode":"READ_REPLICAS_ENABLED"}`, map[string]any{"replicaCount": 2.0, "readReplicasMode": "READ_REPLICAS_ENABLED",
			"nodes.2.id": "node-2", "nodes.2.zone": some, "readEndpoint": some, "readEndpointPort": some, "reservedIpRange": some}},
		"ranges": {`{"tier":"STANDARD_HA","memorySizeGb":5,"readReplicasMode":2,"replicaCount":1,"reservedIpRange":"10.9.0.0/27","secondaryIpRange":"10.9.0.32/28"}`,
			map[string]any{"replicaCount": 1.0, "reservedIpRange": "10.9.0.0/27", "secondaryIpRange": "10.9.0.32/28"}},
	} {
		if op := s.create(id, c.body); op["error"] != nil {
			t.Fatalf("%s: %v", id, op)
		}
		s.fields(id, s.ok("GET", instances+"/"+id, ""), c.want)
	}
	if i := s.ok("GET", instances+"/read", ""); !strings.HasSuffix(i["reservedIpRange"].(string), "/28") || i["readEndpointPort"] == i["port"] && i["readEndpoint"] == i["host"] {
		t.Errorf("with read replicas: the range %v, the endpoint %v:%v", i["reservedIpRange"], i["readEndpoint"], i["readEndpointPort"])
	}
	// The other versions have the same fields.
	for _, version := range []string{"v1beta1", "v1alpha1"} {
		path := strings.Replace(instances, "v1", version, 1)
		s.done(s.ok("POST", path+"?instanceId=in-"+version, standard))
		s.fields(version, s.ok("GET", path+"/in-"+version, ""), map[string]any{"tier": "STANDARD_HA", "replicaCount": 1.0, "nodes.1.zone": "local-b"})
	}
}

func TestWhatCanNotBeStandard(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	code, v := s.do("POST", instances+"?instanceId=a", `{"tier":"STANDARD_HA","memorySizeGb":1,"redisVersion":"REDIS_6_X"}`)
	s.refused(400, "INVALID_ARGUMENT", v, code, "tier: STANDARD_HA: the engine of REDIS_6_X on this server was built without TLS")
	code, v = s.do("POST", strings.TrimSuffix(instances, "instances")+"backendInstances", `{"instanceId":"a","instance":{"tier":"STANDARD_HA","memorySizeGb":1},"backend":{"address":"127.0.0.1:1"}}`)
	s.refused(400, "INVALID_ARGUMENT", v, code, "tier: STANDARD_HA: a backend is a Redis that runs already")
}

// replicaUpdates are updates of an instance of tier STANDARD_HA with one replica, one after another. refused is what a refusal says.
var replicaUpdates = []struct {
	mask, body string
	want       map[string]any
	status     string
	refused    string
}{
	{"replicaCount", `{"replicaCount":2}`, nil, "FAILED_PRECONDITION", "replica_count: 2: without read replicas an instance has 1 replica"},
	{"replicaCount", `{"replicaCount":1}`, map[string]any{"replicaCount": 1.0}, "", ""},
	{"replicaCount", `{}`, nil, "FAILED_PRECONDITION", "replica_count: 0"},
	{"tier", `{"tier":"BASIC"}`, nil, "INVALID_ARGUMENT", `"tier" is immutable`},
	{"alternativeLocationId", `{"alternativeLocationId":"local-c"}`, nil, "INVALID_ARGUMENT", `"alternative_location_id" is immutable`},
	{"nodes", `{}`, nil, "INVALID_ARGUMENT", `"nodes" is set by the server only`},
	{"secondaryIpRange", `{"secondaryIpRange":"auto"}`, nil, "FAILED_PRECONDITION", `secondary_ip_range: "auto": it is for instances with read replicas`},
	{"secondaryIpRange", `{}`, map[string]any{"secondaryIpRange": nil}, "", ""},
	{"read_replicas_mode,secondary_ip_range", `{"readReplicasMode":"READ_REPLICAS_DISABLED"}`, map[string]any{"readReplicasMode": "READ_REPLICAS_DISABLED"}, "", ""},
	{"readReplicasMode", `{"readReplicasMode":"READ_REPLICAS_ENABLED"}`, nil, "INVALID_ARGUMENT", "secondary_ip_range: is required to enable read replicas"},
	{"readReplicasMode,secondaryIpRange", `{"readReplicasMode":9,"secondaryIpRange":"auto"}`, nil, "INVALID_ARGUMENT", "read_replicas_mode: 9"},
	{"readReplicasMode,secondaryIpRange", `{"readReplicasMode":2,"secondaryIpRange":"some range"}`, nil, "INVALID_ARGUMENT", `secondary_ip_range: "some range" is not a range of addresses: want one such as 10.0.0.0/28, or auto`},
	{"readReplicasMode,secondaryIpRange", `{"readReplicasMode":2,"secondaryIpRange":"10.0.0.0/29"}`, nil, "INVALID_ARGUMENT", `secondary_ip_range: "10.0.0.0/29": want a range of 16, 32 or 64`},
	{"readReplicasMode,secondaryIpRange", `{"readReplicasMode":2,"secondaryIpRange":"10.83.0.0/28"}`, nil, "INVALID_ARGUMENT", `secondary_ip_range: "10.83.0.0/28" is the range of another instance in the same network, or overlaps`},
	{"readReplicasMode,secondaryIpRange,replicaCount", `{"readReplicasMode":2,"secondaryIpRange":"auto","replicaCount":6}`, nil, "INVALID_ARGUMENT", "replica_count: 6: want 1 to 5"},
	{"readReplicasMode,secondaryIpRange,displayName,labels.a", `{"readReplicasMode":2,"secondaryIpRange":"auto"}`, nil, "INVALID_ARGUMENT",
		"update_mask: read_replicas_mode READ_REPLICAS_ENABLED goes with replica_count and secondary_ip_range only: want display_name, labels in another update"},
	{"memorySizeGb", `{"memorySizeGb":4}`, map[string]any{"memorySizeGb": 4.0}, "", ""},
	{"readReplicasMode,secondaryIpRange", `{"readReplicasMode":2,"secondaryIpRange":"auto"}`, nil, "FAILED_PRECONDITION", "memory_size_gb: 4: an instance with read replicas has 5 GB or more"},
	{"memorySizeGb", `{"memorySizeGb":6}`, map[string]any{"memorySizeGb": 6.0}, "", ""},
	// As gcloud does it, which sends the number of replicas along without naming it.
	{"read_replicas_mode,secondary_ip_range", `{"readReplicasMode":"READ_REPLICAS_ENABLED","secondaryIpRange":"auto","replicaCount":1}`,
		map[string]any{"readReplicasMode": "READ_REPLICAS_ENABLED", "replicaCount": 2.0, "nodes.2.id": "node-2", "readEndpoint": some, "secondaryIpRange": "10.83.0.16/28"}, "", ""},
	{"replica_count", `{"replicaCount":5}`, map[string]any{"replicaCount": 5.0, "nodes.5.id": "node-5"}, "", ""},
	{"replica_count", `{"replicaCount":6}`, nil, "INVALID_ARGUMENT", "replica_count: 6: want 1 to 5"},
	{"replica_count", `{"replicaCount":0}`, nil, "INVALID_ARGUMENT", "replica_count: 0: want 1 to 5"},
	{"replica_count,display_name", `{"replicaCount":1,"displayName":"x"}`, map[string]any{"replicaCount": 1.0, "displayName": "x", "readEndpoint": some}, "", ""},
	{"readReplicasMode", `{"readReplicasMode":"READ_REPLICAS_DISABLED"}`, nil, "FAILED_PRECONDITION", "read_replicas_mode: READ_REPLICAS_DISABLED: read replicas can't be disabled once they are enabled"},
	{"readReplicasMode", `{}`, nil, "FAILED_PRECONDITION", "read replicas can't be disabled"},
	{"secondaryIpRange", `{"secondaryIpRange":"10.0.0.0/28"}`, nil, "FAILED_PRECONDITION", `secondary_ip_range: "10.0.0.0/28": it is 10.83.0.16/28`},
	{"memorySizeGb", `{"memorySizeGb":4}`, nil, "FAILED_PRECONDITION", "memory_size_gb: 4: an instance with read replicas"},
}

func TestUpdatesOfReplicas(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", standard)
	for _, u := range replicaUpdates {
		what := fmt.Sprintf("updateMask=%s, %s", u.mask, u.body)
		code, v := s.do("PATCH", first+"?updateMask="+u.mask, u.body)
		if u.refused != "" {
			s.refused(400, u.status, v, code, u.refused)
			if t.Failed() {
				t.Fatal(what)
			}
			continue
		}
		if code != 200 {
			t.Fatalf("%s: %d, %v", what, code, v)
		}
		if op := s.done(v); op["error"] != nil {
			t.Fatalf("%s: %v", what, op)
		}
		s.fields(what, s.ok("GET", first, ""), u.want)
	}
	// gcloud sends everything back as it was read.
	before := s.ok("GET", first, "")
	for _, mask := range []string{"replica_count", "read_replicas_mode,secondary_ip_range"} {
		if op := s.done(s.ok("PATCH", first+"?updateMask="+mask, text(before))); op["error"] != nil {
			t.Errorf("%s, as it was read: %v", mask, op)
		}
	}
	if after := s.ok("GET", first, ""); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("after it was sent back as it was: %v\nbefore: %v", after, before)
	}
}

func TestFailoverOverRESTAndGRPC(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", standard)
	for _, body := range []string{`{}`, `{"dataProtectionMode":"LIMITED_DATA_LOSS"}`, `{"dataProtectionMode":2}`} {
		op := s.done(s.ok("POST", first+":failover", body))
		s.fields(body, op, map[string]any{"metadata.verb": "failover", "error": nil, "response.state": "READY", "response.tier": "STANDARD_HA"})
	}
	s.fields("after three failovers", s.ok("GET", first, ""), map[string]any{"currentLocationId": "local-b", "nodes.0.id": "node-0", "state": "READY"})

	// 30 MB of changes are too many to lose, unless somebody says so.
	s.nodes.set(func(n *nodes) { n.behind = 30 << 20 })
	op := s.done(s.ok("POST", first+":failover", `{"dataProtectionMode":1}`))
	s.fields("far behind", op, map[string]any{"error.code": 9.0, "response": nil})
	if message, _ := at(op, "error.message").(string); !strings.Contains(message, " bytes of changes behind the primary") || !strings.Contains(message, "FORCE_DATA_LOSS") {
		t.Errorf("far behind: %q", message)
	}
	s.fields("after a failover that was refused", s.ok("GET", first, ""), map[string]any{"currentLocationId": "local-b", "state": "READY"})

	client := redispb.NewCloudRedisClient(s.grpc)
	name := "projects/p1/locations/local/instances/first"
	forced, err := client.FailoverInstance(authorized(t), &redispb.FailoverInstanceRequest{Name: name, DataProtectionMode: redispb.FailoverInstanceRequest_FORCE_DATA_LOSS})
	if err != nil {
		t.Fatal(err)
	}
	i := &redispb.Instance{}
	if err := forced.GetResponse().UnmarshalTo(i); err != nil || !forced.GetDone() || i.GetCurrentLocationId() != "local-a" || i.GetTier() != redispb.Instance_STANDARD_HA {
		t.Errorf("over gRPC: %v, %v", forced, err)
	}
	if _, err := client.FailoverInstance(authorized(t), &redispb.FailoverInstanceRequest{Name: name, DataProtectionMode: 7}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("mode 7: %v", err)
	}
	beta := betapb.NewCloudRedisClient(s.grpc)
	s.nodes.set(func(n *nodes) { n.behind = 0 })
	updated, err := beta.UpdateInstance(authorized(t), &betapb.UpdateInstanceRequest{
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"read_replicas_mode", "secondary_ip_range", "replica_count"}},
		Instance:   &betapb.Instance{Name: name, ReadReplicasMode: betapb.Instance_READ_REPLICAS_ENABLED, SecondaryIpRange: "auto", ReplicaCount: 3},
	})
	b := &betapb.Instance{}
	if err != nil {
		t.Fatal(err)
	}
	if err := updated.GetResponse().UnmarshalTo(b); err != nil || b.GetReplicaCount() != 3 || len(b.GetNodes()) != 4 || b.GetReadEndpoint() == "" || b.GetReadEndpointPort() == 0 {
		t.Errorf("over gRPC v1beta1: %v, %v", updated, err)
	}
}

func TestReplicationOfEachTier(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", standard)
	s.create("bare", basic)
	s.done(s.ok("POST", first+":failover", `{"dataProtectionMode":"FORCE_DATA_LOSS"}`))
	s.fields("after a failover", s.ok("GET", first+"/replication", ""), map[string]any{
		"name":       "projects/p1/locations/local/instances/first/replication",
		"nodes.0.id": "node-0", "nodes.0.zone": "local-a", "nodes.0.role": "REPLICA", "nodes.1.id": "node-1", "nodes.1.zone": "local-b", "nodes.1.role": "PRIMARY", "nodes.1.inSync": true,
		"failovers.0.fromNode": "node-0", "failovers.0.toNode": "node-1", "failovers.0.reason": "asked for", "failovers.0.planned": true, "failovers.0.endTime": some, "failovers.0.duration": some,
	})
	s.done(s.ok("POST", first+":failover", "{}"))
	s.fields("after another", s.ok("GET", first+"/replication", ""), map[string]any{"failovers.0.fromNode": "node-1", "failovers.1.fromNode": "node-0"})
	s.fields("of tier BASIC", s.ok("GET", instances+"/bare/replication", ""), map[string]any{"nodes.0.role": "PRIMARY", "nodes.0.inSync": true, "failovers": nil})
	code, v := s.do("GET", instances+"/none/replication", "")
	s.refused(404, "NOT_FOUND", v, code, "instances/none")
}

// Clients of the read endpoint count like those of the endpoint: they would be cut off too, by the end of plaintext and by a new CA.
func TestClientsOfTheReadEndpointCount(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", `{"tier":"STANDARD_HA","memorySizeGb":5,"readReplicasMode":2}`)
	began := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	reader := ledger.Identity{Address: netip.MustParseAddr("10.0.0.9"), Name: "reports", Library: "jedis", User: "default"}
	s.nodes.set(func(n *nodes) {
		n.plaintext = plaintext.Account{Since: began}
		n.plainReaders = []plaintext.Connected{{Identity: reader, Connections: 1}}
	})
	s.ok("POST", transitEncryption+":prefer", "")
	code, v := s.do("POST", transitEncryption+":enforce", `{}`)
	// Each of the two replicas' gateways has one of its connections.
	s.refusedWith(v, code, `1 client is connected without TLS: 10.0.0.9 name="reports" library="jedis" user="default" (2 connections)`)
	s.nodes.set(func(n *nodes) {
		n.plainReaders, n.status = nil, gateway.Status{Plaintext: &plaintext.Counts{}}
		n.readers = []ledger.Client{{Identity: reader, First: began, Last: time.Now()}}
	})
	s.ok("POST", transitEncryption+":enforce", `{"force":true}`)
	if clients := s.ok("GET", certificates+":clients", ""); at(clients, "clients.0.address") != "10.0.0.9" {
		t.Errorf("clients: %v; want that of the read endpoint", clients)
	}
	s.ok("POST", certificates+":rotateCa", "{}")
	code, v = s.do("POST", certificates+":activateCa", "{}")
	s.refusedWith(v, code, "10.0.0.9")
}

// refusedWith checks that an answer is FAILED_PRECONDITION and says something.
func (s *server) refusedWith(v object, code int, says string) {
	s.t.Helper()
	s.refused(400, "FAILED_PRECONDITION", object{"error": v["error"]}, code, says)
}

// FAILING_OVER is 9 in v1 and 10 in v1beta1, over gRPC and for REST clients that want numbers, such as Go's.
func TestStateDuringAFailover(t *testing.T) {
	t.Parallel()
	s := newServer(t, answerAtOnce)
	s.create("first", standard)
	s.nodes.set(func(n *nodes) { n.hold = true })
	if op := s.ok("POST", first+":failover", "{}"); op["done"] != false {
		t.Fatalf("the failover is done at once: %v", op)
	}
	for path, want := range map[string]any{
		first: "FAILING_OVER", first + "?$alt=json;enum-encoding=int": 9.0,
		strings.Replace(first, "v1", "v1beta1", 1):                                   "FAILING_OVER",
		strings.Replace(first, "v1", "v1beta1", 1) + "?$alt=json;enum-encoding=int":  10.0,
		strings.Replace(first, "v1", "v1alpha1", 1) + "?$alt=json;enum-encoding=int": 10.0,
	} {
		if got := s.ok("GET", path, "")["state"]; got != want {
			t.Errorf("%s: the state is %v; want %v", path, got, want)
		}
	}
	list := s.ok("GET", strings.Replace(instances, "v1", "v1beta1", 1)+"?$alt=json;enum-encoding=int", "")
	if got := at(list, "instances.0.state"); got != 10.0 {
		t.Errorf("in a list of v1beta1 the state is %v; want 10", got)
	}
	name := "projects/p1/locations/local/instances/first"
	i, err := redispb.NewCloudRedisClient(s.grpc).GetInstance(authorized(t), &redispb.GetInstanceRequest{Name: name})
	if err != nil || i.GetState() != redispb.Instance_FAILING_OVER {
		t.Errorf("over gRPC: %v, %v", i.GetState(), err)
	}
	b, err := betapb.NewCloudRedisClient(s.grpc).GetInstance(authorized(t), &betapb.GetInstanceRequest{Name: name})
	if err != nil || b.GetState() != betapb.Instance_FAILING_OVER {
		t.Errorf("over gRPC v1beta1: %v, %v", b.GetState(), err)
	}
	// Nothing else begins meanwhile.
	code, v := s.do("PATCH", first+"?updateMask=labels", `{}`)
	s.refused(400, "FAILED_PRECONDITION", v, code, "is in state FAILING_OVER")
}
