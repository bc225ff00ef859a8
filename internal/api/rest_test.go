package api_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

func TestInstanceOverREST(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	op := s.ok("POST", instances+"?instanceId=first", `{
		"name": "projects/p1/locations/local/instances/first", "displayName": "First", "labels": {"team": "a"},
		"tier": "BASIC", "memorySizeGb": 2, "redisConfigs": {"maxmemory-policy": "noeviction"},
		"transitEncryptionMode": "SERVER_AUTHENTICATION", "authEnabled": true,
		"persistenceConfig": {"persistenceMode": "RDB", "rdbSnapshotPeriod": "SIX_HOURS"}}`)
	metadata := op["metadata"].(object)
	if op["done"] != true || metadata["cancelRequested"] != false || metadata["verb"] != "create" || metadata["apiVersion"] != "v1" ||
		metadata["target"] != "projects/p1/locations/local/instances/first" || metadata["createTime"] == nil || metadata["endTime"] == nil ||
		metadata["@type"] != "type.googleapis.com/google.cloud.redis.v1.OperationMetadata" {
		t.Errorf("operation: %v", op)
	}
	op = s.done(op)
	response := op["response"].(object)
	if response["@type"] != "type.googleapis.com/google.cloud.redis.v1.Instance" || op["metadata"].(object)["endTime"] == nil {
		t.Errorf("operation: %v", op)
	}
	got := s.ok("GET", first, "")
	for k, want := range (object{
		"name": "projects/p1/locations/local/instances/first", "displayName": "First", "tier": "BASIC", "memorySizeGb": 2.0,
		"transitEncryptionMode": "SERVER_AUTHENTICATION", "authEnabled": true, "state": "READY", "port": 6378.0,
		"redisVersion": "REDIS_7_0", "locationId": "local-a", "currentLocationId": "local-a", "connectMode": "DIRECT_PEERING",
		"readReplicasMode": "READ_REPLICAS_DISABLED", "authorizedNetwork": "projects/p1/global/networks/default",
	}) {
		if got[k] != want || response[k] != want {
			t.Errorf("%s: %v, in the operation %v; want %v", k, got[k], response[k], want)
		}
	}
	if p := got["persistenceConfig"].(object); p["persistenceMode"] != "RDB" || p["rdbSnapshotPeriod"] != "SIX_HOURS" {
		t.Errorf("persistence: %v", p)
	}
	if n := got["nodes"].([]any)[0].(object); n["id"] != "node-0" || n["zone"] != "local-a" || !strings.HasPrefix(got["host"].(string), "127.") {
		t.Errorf("host %v, node %v", got["host"], n)
	}
	ca := got["serverCaCerts"].([]any)[0].(object)
	if !strings.HasPrefix(ca["cert"].(string), "-----BEGIN CERTIFICATE-----\n") || len(ca["sha1Fingerprint"].(string)) != 40 ||
		ca["serialNumber"] == "" || ca["createTime"] == nil || ca["expireTime"] == nil {
		t.Errorf("ca: %v", ca)
	}
	if auth := s.ok("GET", first+"/authString", ""); len(auth["authString"].(string)) != 36 {
		t.Errorf("auth string: %v", auth)
	}
	if op := s.done(s.ok("DELETE", first, "")); op["response"].(object)["@type"] != "type.googleapis.com/google.protobuf.Empty" {
		t.Errorf("delete: %v", op)
	}
	code, v := s.do("GET", first, "")
	s.refused(404, "NOT_FOUND", v, code, "Resource 'projects/p1/locations/local/instances/first' was not found")
}

func TestDefaultsAreLeftOut(t *testing.T) {
	t.Parallel()
	s := newServer(t, answerAtOnce)
	s.nodes.set(func(n *nodes) { n.hold = true })
	if op := s.ok("POST", instances+"?instanceId=first", basic); op["done"] != false || op["metadata"].(object)["endTime"] != nil {
		t.Errorf("operation: %v", op)
	}
	got := s.ok("GET", first, "")
	if got["state"] != "CREATING" || got["transitEncryptionMode"] != "DISABLED" || got["persistenceConfig"].(object)["persistenceMode"] != "DISABLED" {
		t.Errorf("while it is created: %v", got)
	}
	for _, absent := range []string{"authEnabled", "host", "port", "nodes", "serverCaCerts", "statusMessage", "displayName", "labels"} {
		if v, ok := got[absent]; ok {
			t.Errorf("%s is there: %v", absent, v)
		}
	}
	if auth := s.ok("GET", first+"/authString", ""); len(auth) != 0 {
		t.Errorf("auth string: %v", auth)
	}
}

// Clients name an enum by its name, its number, or ask for numbers.
func TestEnumSpellings(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for id, body := range map[string]string{
		"names":   `{"tier":"BASIC","memorySizeGb":1,"connectMode":"PRIVATE_SERVICE_ACCESS","persistenceConfig":{"persistenceMode":"RDB","rdbSnapshotPeriod":"ONE_HOUR"}}`,
		"numbers": `{"tier":1,"memory_size_gb":1,"connect_mode":2,"persistence_config":{"persistence_mode":2,"rdb_snapshot_period":3}}`,
	} {
		s.create(id, body)
		for query, want := range map[string][]any{
			"":                                   {"BASIC", "PRIVATE_SERVICE_ACCESS", "DISABLED", "READY", "RDB", "ONE_HOUR"},
			"?alt=json":                          {"BASIC", "PRIVATE_SERVICE_ACCESS", "DISABLED", "READY", "RDB", "ONE_HOUR"},
			"?$alt=json;enum-encoding=int":       {1.0, 2.0, 2.0, 2.0, 2.0, 3.0},
			"?%24alt=json%3Benum-encoding%3Dint": {1.0, 2.0, 2.0, 2.0, 2.0, 3.0},
			"?prettyPrint=false&alt=json;enum-encoding=int": {1.0, 2.0, 2.0, 2.0, 2.0, 3.0},
		} {
			i := s.ok("GET", instances+"/"+id+query, "")
			p := i["persistenceConfig"].(object)
			got := []any{i["tier"], i["connectMode"], i["transitEncryptionMode"], i["state"], p["persistenceMode"], p["rdbSnapshotPeriod"]}
			if !slices.Equal(got, want) {
				t.Errorf("%s%s: %v; want %v", id, query, got, want)
			}
		}
	}
}

func TestUpdateMasks(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", basic)
	body := func(n int) string { return fmt.Sprintf(`{"displayName":"name %d","labels":{"n":"l%d"}}`, n, n) }
	name, label := "", ""
	for n, c := range []struct {
		mask        string
		name, label bool
		code        int
		says        string
	}{
		{"displayName", true, false, 200, ""},
		{"display_name", true, false, 200, ""},
		{"labels", false, true, 200, ""},
		{"labels,displayName", true, true, 200, ""},
		{"labels,%20display_name,", true, true, 200, ""},
		{"", false, false, 400, "update_mask: is empty"},
		{"displayName&updateMask=labels", true, true, 200, ""},
		{"displayName&update_mask=labels", true, true, 200, ""},
		{"labels.n", false, true, 200, ""},
		{"labels.`n`", false, true, 200, ""},
		{"memory_size_gb", false, false, 400, "memory_size_gb: 0"},
		{"displayName,memorySizeGb", false, false, 400, "memory_size_gb: 0"},
		{"tier", false, false, 400, `"tier" is immutable`},
		{"transitEncryptionMode,labels", false, false, 400, `"transit_encryption_mode" is immutable`},
		{"redisVersion", false, false, 400, "UpgradeInstance"},
		{"name", false, false, 400, "keeps its name"},
		{"host", false, false, 400, `"host" is set by the server`},
		{"displayName.x", false, false, 400, `display_name has no fields of its own`},
		{"persistenceConfig.rdbNextSnapshotTime", false, false, 400, "rdb_next_snapshot_time is not a field that can be updated"},
		{"maintenancePolicy.createTime", false, false, 400, "create_time is not a field that can be updated"},
		{"colour", false, false, 400, `"colour" is not a field`},
		{"tags", false, false, 400, `"tags" is not a field`},
		{"*", false, false, 400, `"*"`},
		{"%ff", false, false, 400, "UTF-8"},
	} {
		param := []string{"updateMask", "update_mask"}[n%2]
		code, v := s.do("PATCH", fmt.Sprintf("%s?%s=%s", first, param, c.mask), body(n))
		switch {
		case c.code == 200 && code == 200:
			s.done(v)
		case c.code == 200:
			t.Errorf("mask %q: %d, %v", c.mask, code, v)
		default:
			s.refused(c.code, "INVALID_ARGUMENT", v, code, c.says)
		}
		if c.name {
			name = fmt.Sprintf("name %d", n)
		}
		if c.label {
			label = fmt.Sprintf("l%d", n)
		}
		got := s.ok("GET", first, "")
		labels, _ := got["labels"].(object)
		gotName, _ := got["displayName"].(string)
		gotLabel, _ := labels["n"].(string)
		if gotName != name || gotLabel != label {
			t.Errorf("mask %q: name %q, label %q; want %q, %q", c.mask, gotName, gotLabel, name, label)
		}
	}
}

// gcloud reads an instance, changes it and sends all of it back, with what only the server sets.
func TestInstanceIsSentBackAsItWasRead(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", `{"tier":"BASIC","memorySizeGb":1,"transitEncryptionMode":"SERVER_AUTHENTICATION"}`)
	before := s.ok("GET", first, "")
	op := s.ok("PATCH", first+"?updateMask=display_name", `{
		"name":"projects/p1/locations/local/instances/first","displayName":"after","host":"10.0.0.1","port":1,"state":"DELETING",
		"createTime":"2001-01-01T00:00:00Z","currentLocationId":"x","statusMessage":"x","persistenceIamIdentity":"x",
		"serverCaCerts":[{"cert":"x","serialNumber":"1"}],"nodes":[{"id":"x","zone":"y"}],"readEndpoint":"x","readEndpointPort":1,
		"maintenanceSchedule":{"startTime":"2001-01-01T00:00:00Z"},"suspensionReasons":["CUSTOMER_MANAGED_KEY_ISSUE"],
		"availableMaintenanceVersions":["x"],"tier":"STANDARD_HA","memorySizeGb":7,"satisfiesPzi":true,"satisfiesPzs":false,"tags":{"a":"b"}}`)
	s.done(op)
	after := s.ok("GET", first, "")
	if after["displayName"] != "after" {
		t.Errorf("display name: %v", after["displayName"])
	}
	delete(after, "displayName")
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("after:  %v\nbefore: %v", after, before)
	}
	// The same on create: what a client read somewhere makes another instance.
	s.create("second", `{"name":"second","tier":"BASIC","memorySizeGb":1,"host":"10.0.0.1","port":1,"state":"READY","tags":{},"satisfiesPzi":true}`)
	if got := s.ok("GET", instances+"/second", ""); got["port"] != 6379.0 || got["host"] == "10.0.0.1" {
		t.Errorf("second: %v", got)
	}
}

func TestBadCreates(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("taken", basic)
	for _, c := range []struct {
		query, body string
		code        int
		status      string
		says        []string
	}{
		{"instanceId=Bad", basic, 400, "INVALID_ARGUMENT", []string{"instance_id", `"Bad"`}},
		{"", basic, 400, "INVALID_ARGUMENT", []string{"instance_id"}},
		{"instanceId=a", "", 400, "INVALID_ARGUMENT", []string{"tier"}},
		{"instanceId=a", `{"tier":"BASIC"}`, 400, "INVALID_ARGUMENT", []string{"memory_size_gb: 0"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":301}`, 400, "INVALID_ARGUMENT", []string{"memory_size_gb: 301"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1.5}`, 400, "INVALID_ARGUMENT", []string{"Invalid value at 'instance.memory_size_gb' (TYPE_INT32), 1.5"}},
		{"instanceId=a", `{"memorySizeGb":1}`, 400, "INVALID_ARGUMENT", []string{"tier: is required"}},
		{"instanceId=a", `{"tier":"GOLD","memorySizeGb":1}`, 400, "INVALID_ARGUMENT", []string{"tier", "GOLD"}},
		{"instanceId=a", `{"tier":7,"memorySizeGb":1}`, 400, "INVALID_ARGUMENT", []string{"tier: 7"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"transitEncryptionMode":9}`, 400, "INVALID_ARGUMENT", []string{"transit_encryption_mode: 9"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"customerManagedKey":"k"}`, 400, "FAILED_PRECONDITION", []string{"customer_managed_key: ", "leave it out"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"replicaCount":1,"readReplicasMode":2,"secondaryIpRange":"auto"}`, 400, "INVALID_ARGUMENT",
			[]string{"replica_count: 1: tier BASIC has no replicas", "; read_replicas_mode: ", "; secondary_ip_range: ", "leave it out"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"readReplicasMode":7}`, 400, "INVALID_ARGUMENT", []string{"read_replicas_mode: 7"}},
		{"instanceId=a", `{"tier":"STANDARD_HA","memorySizeGb":1,"replicaCount":2}`, 400, "INVALID_ARGUMENT", []string{"replica_count: 2: without read replicas an instance has 1 replica"}},
		{"instanceId=a", `{"tier":"STANDARD_HA","memorySizeGb":1,"secondaryIpRange":"auto"}`, 400, "INVALID_ARGUMENT", []string{`secondary_ip_range: "auto": it is for instances with read replicas`}},
		{"instanceId=a", `{"tier":"STANDARD_HA","memorySizeGb":4,"readReplicasMode":"READ_REPLICAS_ENABLED"}`, 400, "INVALID_ARGUMENT", []string{"memory_size_gb: 4: an instance with read replicas has 5 GB or more"}},
		{"instanceId=a", `{"tier":"STANDARD_HA","memorySizeGb":5,"readReplicasMode":"READ_REPLICAS_ENABLED","replicaCount":6}`, 400, "INVALID_ARGUMENT", []string{"replica_count: 6: want 1 to 5"}},
		{"instanceId=a", `{"tier":"STANDARD_HA","memorySizeGb":5,"readReplicasMode":"READ_REPLICAS_ENABLED","reservedIpRange":"10.0.0.0/29"}`, 400, "INVALID_ARGUMENT", []string{"reserved_ip_range: \"10.0.0.0/29\": want a range of 16, 32 or 64"}},
		{"instanceId=a", `{"tier":"STANDARD_HA","memorySizeGb":5,"readReplicasMode":"READ_REPLICAS_ENABLED","secondaryIpRange":"10.0.0.1/28"}`, 400, "INVALID_ARGUMENT", []string{"secondary_ip_range: \"10.0.0.1/28\" begins within a range: want 10.0.0.0/28"}},
		{"instanceId=a", `{"tier":"STANDARD_HA","memorySizeGb":5,"readReplicasMode":"READ_REPLICAS_ENABLED","redisVersion":"REDIS_4_0"}`, 400, "FAILED_PRECONDITION", []string{"redis_version: REDIS_4_0 is not installed"}},
		{"instanceId=a", `{"tier":"STANDARD_HA","memorySizeGb":1,"locationId":"local-b","alternativeLocationId":"local-b"}`, 400, "INVALID_ARGUMENT", []string{`alternative_location_id: "local-b" is location_id too: want another zone of local`}},
		{"instanceId=a", `{"tier":"STANDARD_HA","memorySizeGb":1,"alternativeLocationId":"mars-a"}`, 400, "INVALID_ARGUMENT", []string{`alternative_location_id: zone "mars-a" is not in local`}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"maintenanceVersion":"20251007_00_00"}`, 400, "FAILED_PRECONDITION", []string{"maintenance_version: \"20251007_00_00\" is not installed", "7.0.15"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"alternativeLocationId":"local-b"}`, 400, "INVALID_ARGUMENT", []string{"alternative_location_id", "STANDARD_HA"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"tags":{"123/env":"prod"}}`, 400, "FAILED_PRECONDITION", []string{"tags", "leave them out"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"redisVersion":"REDIS_9_9"}`, 400, "INVALID_ARGUMENT", []string{"redis_version", "REDIS_9_9"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"redisVersion":"REDIS_5_0"}`, 400, "FAILED_PRECONDITION", []string{"redis_version", "not installed"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"redisConfigs":{"nope":"1"}}`, 400, "INVALID_ARGUMENT", []string{`redis_configs["nope"]`}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"redisConfigs":{"databases":"101"}}`, 400, "INVALID_ARGUMENT", []string{`redis_configs["databases"]`, "1 to 100"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"locationId":"mars-a"}`, 400, "INVALID_ARGUMENT", []string{"location_id", "mars-a"}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"labels":{"A":"b"}}`, 400, "INVALID_ARGUMENT", []string{"labels", `"A"`}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1,"colour":"red"}`, 400, "INVALID_ARGUMENT", []string{"Invalid JSON payload received. Unknown name \"colour\" at 'instance': Cannot find field."}},
		{"instanceId=a", `{"tier":"BASIC","memorySizeGb":1`, 400, "INVALID_ARGUMENT", []string{"Invalid JSON payload received"}},
		{"instanceId=a", `[]`, 400, "INVALID_ARGUMENT", []string{"Invalid JSON payload received"}},
		{"instanceId=a", "{\"displayName\":\"\xff\"}", 400, "INVALID_ARGUMENT", []string{"UTF-8"}},
		{"instanceId=a", `{"name":"b","tier":"BASIC","memorySizeGb":1}`, 400, "INVALID_ARGUMENT", []string{"instance.name", `"b"`}},
		{"instanceId=a&colour=red", basic, 400, "INVALID_ARGUMENT", []string{`"colour"`}},
		{"instanceId=a&instance.displayName=x", basic, 400, "INVALID_ARGUMENT", []string{`"instance.displayName"`}},
		{"instanceId=a&updateMask=x", basic, 400, "INVALID_ARGUMENT", []string{"updateMask"}},
		{"instanceId=a&instanceId=b", basic, 400, "INVALID_ARGUMENT", []string{"instance_id"}},
		{"instanceId=%ff", basic, 400, "INVALID_ARGUMENT", []string{"instanceId", "UTF-8"}},
		{"instanceId=taken", basic, 409, "ALREADY_EXISTS", []string{"Resource 'projects/p1/locations/local/instances/taken' already exists"}},
		{"instanceId=a", `{"displayName":"` + strings.Repeat("a", 1<<20) + `"}`, 413, "INVALID_ARGUMENT", []string{"larger than 1048576 bytes"}},
	} {
		for _, version := range []string{"v1", "v1beta1"} {
			if version == "v1beta1" && strings.Contains(c.body, "customerManagedKey") {
				continue // not a field there
			}
			code, v := s.do("POST", strings.Replace(instances, "v1", version, 1)+"?"+c.query, c.body)
			s.refused(c.code, c.status, v, code, c.says...)
			if t.Failed() {
				t.Fatalf("%s, %s, %.200s", version, c.query, c.body)
			}
		}
	}
	if got := s.ok("GET", instances, "")["instances"].([]any); len(got) != 1 {
		t.Errorf("%d instances; want the one that was made", len(got))
	}
}

// The fields that are wrong are in the details, for programs.
func TestErrorEnvelope(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	code, v := s.do("POST", instances+"?instanceId=a", `{"tier":"BASIC","memorySizeGb":0,"locationId":"x"}`)
	s.refused(400, "INVALID_ARGUMENT", v, code, "memory_size_gb: ", "location_id: ")
	detail := v["error"].(object)["details"].([]any)[0].(object)
	violations := detail["fieldViolations"].([]any)
	if detail["@type"] != "type.googleapis.com/google.rpc.BadRequest" || len(violations) != 2 ||
		violations[0].(object)["field"] != "memory_size_gb" || violations[0].(object)["description"] != "0: want 1 to 300" {
		t.Errorf("details: %v", detail)
	}
	code, v = s.do("GET", first, "")
	s.refused(404, "NOT_FOUND", v, code)
	if e := v["error"].(object); len(e) != 3 {
		t.Errorf("error without details: %v", e)
	}
	for path, want := range map[string]int{"/": 404, "/v1": 404, "/v1/projects": 404, "/v2/projects/p1/locations/local/instances": 404, first + "/": 404, instances + "/": 404, "/v1/projects/p1/locations//instances": 404, "/%2e%2e/etc/passwd": 404} {
		code, v := s.do("GET", path, "")
		s.refused(want, "NOT_FOUND", v, code)
	}
	for _, c := range [][2]string{{"PUT", first}, {"POST", first}, {"DELETE", instances}, {"POST", first + ":nope"}} {
		code, v := s.do(c[0], c[1], "")
		s.refused(405, "UNIMPLEMENTED", v, code, c[0]+" is not offered at "+c[1])
	}
}

func TestBeta(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	beta := strings.Replace(instances, "v1", "v1beta1", 1)
	op := s.ok("POST", beta+"?instanceId=first", basic)
	if op["metadata"].(object)["apiVersion"] != "v1beta1" {
		t.Errorf("operation: %v", op)
	}
	op = s.done(op)
	if got := op["response"].(object)["@type"]; got != "type.googleapis.com/google.cloud.redis.v1beta1.Instance" {
		t.Errorf("response of v1beta1: %v", got)
	}
	// Whoever looks at it through the other version sees the operation that it is.
	if again := s.ok("GET", "/v1/"+op["name"].(string), ""); fmt.Sprint(again) != fmt.Sprint(op) {
		t.Errorf("through v1: %v\nthrough v1beta1: %v", again, op)
	}
	v1, v1beta1 := s.ok("GET", first, ""), s.ok("GET", beta+"/first", "")
	if fmt.Sprint(v1) != fmt.Sprint(v1beta1) {
		t.Errorf("v1: %v\nv1beta1: %v", v1, v1beta1)
	}
	op = s.done(s.ok("PATCH", first+"?updateMask=labels", `{"labels":{"a":"b"}}`))
	if op["metadata"].(object)["apiVersion"] != "v1" || op["response"].(object)["@type"] != "type.googleapis.com/google.cloud.redis.v1.Instance" {
		t.Errorf("operation of v1: %v", op)
	}
	if got := s.ok("GET", beta+"/first?$alt=json;enum-encoding=int", ""); got["state"] != 2.0 {
		t.Errorf("numbers: %v", got["state"])
	}
	if got := s.ok("GET", beta, "")["instances"].([]any); len(got) != 1 {
		t.Errorf("list: %v", got)
	}
	code, v := s.do("POST", beta+"/first:upgrade", `{"redisVersion":"REDIS_7_0"}`)
	s.refused(400, "FAILED_PRECONDITION", v, code, "redis_version")
	op = s.done(s.ok("DELETE", beta+"/first", ""))
	if op["response"].(object)["@type"] != "type.googleapis.com/google.protobuf.Empty" {
		t.Errorf("delete: %v", op)
	}
}

// A page begins where the one before ended, whatever came and went in between.
func TestPages(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, id := range []string{"b", "d", "f", "h"} {
		s.create(id, basic)
	}
	ids := func(v object) (got string) {
		all, _ := v["instances"].([]any)
		for _, i := range all {
			name := i.(object)["name"].(string)
			got += name[strings.LastIndexByte(name, '/')+1:]
		}
		return got
	}
	page := s.ok("GET", instances+"?pageSize=2", "")
	next := page["nextPageToken"].(string)
	if ids(page) != "bd" {
		t.Errorf("first page: %s", ids(page))
	}
	s.create("a", basic)
	s.create("e", basic)
	s.done(s.ok("DELETE", instances+"/d", "")) // the one that the token names
	s.done(s.ok("DELETE", instances+"/f", ""))
	page = s.ok("GET", instances+"?pageSize=2&pageToken="+next, "")
	if ids(page) != "eh" || page["nextPageToken"] != nil {
		t.Errorf("second page: %s, %v", ids(page), page["nextPageToken"])
	}
	if got := ids(s.ok("GET", strings.Replace(instances, "local", "-", 1), "")); got != "abeh" {
		t.Errorf("all locations: %s", got)
	}
	if got := s.ok("GET", strings.Replace(instances, "local", "elsewhere", 1), ""); len(got) != 0 {
		t.Errorf("another location: %v", got)
	}
	past := base64.RawURLEncoding.EncodeToString([]byte("projects/p1/locations/local/instances/z"))
	if got := s.ok("GET", instances+"?pageToken="+past, ""); len(got) != 0 {
		t.Errorf("past the end: %v", got)
	}
	for query, says := range map[string]string{"pageSize=-1": "page_size: -1", "pageToken=%21": "page_token", "pageSize=x": "page_size", "page_size=99999999999": "page_size"} {
		code, v := s.do("GET", instances+"?"+query, "")
		s.refused(400, "INVALID_ARGUMENT", v, code, says)
	}
	operations := "/v1/projects/p1/locations/local/operations"
	seen, token := map[any]bool{}, ""
	for pages := 0; ; pages++ {
		v := s.ok("GET", operations+"?pageSize=3&pageToken="+token, "")
		for _, op := range v["operations"].([]any) {
			op := op.(object)
			if seen[op["name"]] || op["done"] != true || op["metadata"].(object)["cancelRequested"] != false {
				t.Errorf("operation: %v", op)
			}
			seen[op["name"]] = true
		}
		if token, _ = v["nextPageToken"].(string); token == "" {
			break
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d operations; want 8", len(seen))
	}
}

func TestOperations(t *testing.T) {
	t.Parallel()
	s := newServer(t, answerAtOnce)
	operations := "/v1/projects/p1/locations/local/operations"
	if v := s.ok("GET", operations, ""); len(v) != 0 {
		t.Errorf("no operations: %v", v)
	}
	s.nodes.set(func(n *nodes) { n.hold = true })
	op := s.ok("POST", instances+"?instanceId=first", basic)
	name := "/v1/" + op["name"].(string)
	list := s.ok("GET", operations, "")["operations"].([]any)
	if got := list[0].(object); got["done"] != false || got["metadata"].(object)["cancelRequested"] != false {
		t.Errorf("in the list: %v", got)
	}
	code, v := s.do("DELETE", name, "")
	s.refused(400, "FAILED_PRECONDITION", v, code, "still running")
	code, v = s.do("DELETE", first, "")
	s.refused(400, "FAILED_PRECONDITION", v, code, "projects/p1/locations/local/instances/first", op["name"].(string))
	if v := s.ok("POST", name+":cancel", ""); len(v) != 0 {
		t.Errorf("cancel: %v", v)
	}
	op = s.done(op)
	failure, _ := op["error"].(object)
	if failure["code"] != 1.0 || failure["message"] != "the operation was cancelled" || op["response"] != nil || op["metadata"].(object)["cancelRequested"] != true {
		t.Errorf("cancelled: %v", op)
	}
	for _, version := range []string{"v1", "v1beta1"} {
		code, v = s.do("GET", strings.Replace(operations, "v1", version, 1)+"?filter=colour%3Dred", "")
		s.refused(400, "INVALID_ARGUMENT", v, code, "filter: \"colour\" is not a field", "metadata.verb")
	}
	if v := s.ok("DELETE", name, ""); len(v) != 0 {
		t.Errorf("delete: %v", v)
	}
	for _, c := range [][2]string{{"GET", name}, {"DELETE", name}, {"POST", name + ":cancel"}} {
		code, v := s.do(c[0], c[1], "")
		s.refused(404, "NOT_FOUND", v, code, "was not found")
	}
	code, v = s.do("GET", "/v1/projects/P/locations/local/operations/o", "")
	s.refused(400, "INVALID_ARGUMENT", v, code, "name: ")
	code, v = s.do("POST", name+":wait", "{}")
	s.refused(405, "UNIMPLEMENTED", v, code, "POST is not offered at "+name+":wait")
}

func TestLocations(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.done(s.ok("POST", strings.Replace(instances, "local", "mars1", 1)+"?instanceId=a", basic))
	for _, version := range []string{"v1", "v1beta1"} {
		v := s.ok("GET", "/"+version+"/projects/p1/locations", "")
		var got []string
		for _, l := range v["locations"].([]any) {
			l := l.(object)
			zones := l["metadata"].(object)["availableZones"].(object)
			if l["metadata"].(object)["@type"] != "type.googleapis.com/google.cloud.redis.v1.LocationMetadata" || len(zones) != 3 || zones[l["locationId"].(string)+"-b"] == nil {
				t.Errorf("location: %v", l)
			}
			got = append(got, l["name"].(string))
		}
		if strings.Join(got, " ") != "projects/p1/locations/local projects/p1/locations/mars1" {
			t.Errorf("locations: %v", got)
		}
		if l := s.ok("GET", "/"+version+"/projects/p1/locations/local", ""); l["locationId"] != "local" {
			t.Errorf("location: %v", l)
		}
	}
	page := s.ok("GET", "/v1/projects/p1/locations?pageSize=1", "")
	if len(page["locations"].([]any)) != 1 || page["nextPageToken"] == nil {
		t.Errorf("first page: %v", page)
	}
	code, v := s.do("GET", "/v1/projects/p1/locations/-", "")
	s.refused(400, "INVALID_ARGUMENT", v, code)
	code, v = s.do("GET", "/v1/projects/P/locations", "")
	s.refused(400, "INVALID_ARGUMENT", v, code, "name: ")
	code, v = s.do("GET", "/v1/projects/p1/locations?filter=colour%3Dred", "")
	s.refused(400, "INVALID_ARGUMENT", v, code, "filter")
	for query, want := range map[string]int{"filter=locationId%3Dmars1": 1, "filter=name:mars1": 1, "filter=mars": 1, "filter=venus": 0, "extraLocationTypes=x": 2} {
		all, _ := s.ok("GET", "/v1/projects/p1/locations?"+query, "")["locations"].([]any)
		if len(all) != want {
			t.Errorf("%s: %v; want %d", query, all, want)
		}
	}
}

// Projects may belong to a domain; the colon is not that of a custom verb.
func TestDomainScopedProject(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	path := strings.Replace(instances, "p1", "example.com:p1", 1)
	op := s.done(s.ok("POST", path+"?instanceId=first", `{"tier":"BASIC","memorySizeGb":1,"transitEncryptionMode":1}`))
	if op["error"] != nil {
		t.Fatalf("create: %v", op)
	}
	if got := s.ok("GET", path+"/first", "")["name"]; got != "projects/example.com:p1/locations/local/instances/first" {
		t.Errorf("name: %v", got)
	}
	s.ok("GET", strings.Replace(path, ":", "%3A", 1)+"/first", "")
	s.ok("GET", "/v1/projects/example.com:p1/locations", "")
}

// Every method of the API has its paths: a new one can't be forgotten.
func TestEveryAnnotationIsBound(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	paths := 0
	check := func(method protoreflect.FullName, verb, template string) {
		paths++
		path := template
		for _, v := range []struct{ wildcard, value string }{
			{"{name=projects/*/locations/*/operations/*}", "projects/p1/locations/local/operations/o"},
			{"{name=projects/*/locations/*/instances/*}", "projects/p1/locations/local/instances/i"},
			{"{instance.name=projects/*/locations/*/instances/*}", "projects/p1/locations/local/instances/i"},
			{"{name=projects/*/locations/*/instances/*/dataPlane}", "projects/p1/locations/local/instances/i/dataPlane"},
			{"{data_plane.name=projects/*/locations/*/instances/*/dataPlane}", "projects/p1/locations/local/instances/i/dataPlane"},
			{"{name=projects/*/locations/*}", "projects/p1/locations/local"},
			{"{parent=projects/*/locations/*}", "projects/p1/locations/local"},
			{"{name=projects/*}", "projects/p1"},
		} {
			path = strings.Replace(path, v.wildcard, v.value, 1)
		}
		if strings.Contains(path, "{") {
			t.Fatalf("%s: the test knows no value for %s", method, path)
		}
		code, v := s.do(verb, path, "")
		e, _ := v["error"].(object)
		message, _ := e["message"].(string)
		if strings.Contains(message, "there is nothing at") || code == http.StatusMethodNotAllowed {
			t.Errorf("%s: %s %s is not bound", method, verb, path)
		}
		if code == http.StatusNotImplemented || e["status"] == "UNIMPLEMENTED" {
			t.Errorf("%s: %d, %v; clients try again after 501 for half a minute and then blame the network", method, code, e)
		}
	}
	for _, service := range []protoreflect.FullName{"google.cloud.redis.v1.CloudRedis", "google.cloud.redis.v1beta1.CloudRedis", "sealane.v1.DataPlanes"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(service)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for n := range methods.Len() {
			m := methods.Get(n)
			rule := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
			rules := append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...)
			for _, r := range rules {
				switch p := r.GetPattern().(type) {
				case *annotations.HttpRule_Get:
					check(m.FullName(), "GET", p.Get)
				case *annotations.HttpRule_Post:
					check(m.FullName(), "POST", p.Post)
				case *annotations.HttpRule_Patch:
					check(m.FullName(), "PATCH", p.Patch)
				case *annotations.HttpRule_Delete:
					check(m.FullName(), "DELETE", p.Delete)
				default:
					t.Errorf("%s: no path, or of an unknown kind: %v", m.FullName(), r)
				}
			}
		}
	}
	if paths < 24 {
		t.Errorf("%d paths; want 11 of each version, and 2 of Sealane's own", paths)
	}
	// The mixins are bound by redis_v1.yaml, not by their own annotations.
	for _, version := range []string{"/v1", "/v1beta1"} {
		check("Locations.ListLocations", "GET", version+"/{name=projects/*}/locations")
		check("Locations.GetLocation", "GET", version+"/{name=projects/*/locations/*}")
		check("Operations.ListOperations", "GET", version+"/{name=projects/*/locations/*}/operations")
		check("Operations.GetOperation", "GET", version+"/{name=projects/*/locations/*/operations/*}")
		check("Operations.DeleteOperation", "DELETE", version+"/{name=projects/*/locations/*/operations/*}")
		check("Operations.CancelOperation", "POST", version+"/{name=projects/*/locations/*/operations/*}:cancel")
	}
}
