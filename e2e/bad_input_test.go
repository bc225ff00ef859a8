package e2e_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// Whatever is wrong with a request, the answer is Google's error envelope with the right code and a sentence that names the
// field. The server goes on.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverOptions{})
	release := s.holdEngines()
	s.start()
	const parent = "/v1/projects/my-project/locations/us-central1"
	// One instance that stays in CREATING, and one whose name is taken.
	underWay := s.rest("POST", parent+"/instances?instanceId=creating", `{"tier":"BASIC","memorySizeGb":1}`)
	if underWay.code != 200 {
		t.Fatalf("create: got %d, %s", underWay.code, underWay.body)
	}
	const instances, good = parent + "/instances", `{"tier":"BASIC","memorySizeGb":1}`
	create := instances + "?instanceId=i"
	with := func(fields string) string { return `{"tier":"BASIC","memorySizeGb":1,` + fields + `}` }

	for _, c := range []struct {
		name         string
		method, path string
		body         string
		code         int
		status       string
		words        string // what the message must say; it names the field
	}{
		{"no id", "POST", instances, good, 400, "INVALID_ARGUMENT", "instance_id"},
		{"id with a capital", "POST", instances + "?instanceId=Bad", good, 400, "INVALID_ARGUMENT", `instance_id: "Bad": want 1 to 40 lower-case letters`},
		{"id that begins with a digit", "POST", instances + "?instanceId=1a", good, 400, "INVALID_ARGUMENT", "instance_id"},
		{"id that ends with a hyphen", "POST", instances + "?instanceId=a-", good, 400, "INVALID_ARGUMENT", "instance_id"},
		{"id of 41 characters", "POST", instances + "?instanceId=" + strings.Repeat("a", 41), good, 400, "INVALID_ARGUMENT", "instance_id"},
		{"id that is a path", "POST", instances + "?instanceId=..%2F..%2Fx", good, 400, "INVALID_ARGUMENT", "instance_id"},
		{"duplicate id", "POST", instances + "?instanceId=creating", good, 409, "ALREADY_EXISTS", "projects/my-project/locations/us-central1/instances/creating"},
		{"no size", "POST", create, `{"tier":"BASIC"}`, 400, "INVALID_ARGUMENT", "memory_size_gb: 0: want 1 to 300"},
		{"size 0", "POST", create, `{"tier":"BASIC","memorySizeGb":0}`, 400, "INVALID_ARGUMENT", "memory_size_gb: 0: want 1 to 300"},
		{"size 301", "POST", create, `{"tier":"BASIC","memorySizeGb":301}`, 400, "INVALID_ARGUMENT", "memory_size_gb: 301: want 1 to 300"},
		{"negative size", "POST", create, `{"tier":"BASIC","memorySizeGb":-1}`, 400, "INVALID_ARGUMENT", "memory_size_gb"},
		{"size that is too large for a number", "POST", create, `{"tier":"BASIC","memorySizeGb":99999999999}`, 400, "INVALID_ARGUMENT", "Invalid value at 'instance.memory_size_gb' (TYPE_INT32), 99999999999"},
		{"size that is a word", "POST", create, `{"tier":"BASIC","memorySizeGb":"big"}`, 400, "INVALID_ARGUMENT", "instance.memory_size_gb"},
		{"no tier", "POST", create, `{"memorySizeGb":1}`, 400, "INVALID_ARGUMENT", "tier: is required"},
		{"unknown tier", "POST", create, `{"tier":"GOLD","memorySizeGb":1}`, 400, "INVALID_ARGUMENT", "tier"},
		{"tier as a number that is none", "POST", create, `{"tier":99,"memorySizeGb":1}`, 400, "INVALID_ARGUMENT", "tier: 99"},
		{"replicas of tier BASIC", "POST", create, with(`"replicaCount":2`), 400, "INVALID_ARGUMENT", "replica_count: 2: tier BASIC has no replicas"},
		{"replicas without read replicas", "POST", create, `{"tier":"STANDARD_HA","memorySizeGb":1,"replicaCount":2}`, 400, "INVALID_ARGUMENT", "replica_count: 2: without read replicas an instance has 1 replica"},
		{"read replicas of a small instance", "POST", create, `{"tier":"STANDARD_HA","memorySizeGb":1,"readReplicasMode":"READ_REPLICAS_ENABLED"}`, 400, "INVALID_ARGUMENT", "memory_size_gb: 1: an instance with read replicas has 5 GB or more"},
		{"second zone that is the first", "POST", create, `{"tier":"STANDARD_HA","memorySizeGb":1,"locationId":"us-central1-b","alternativeLocationId":"us-central1-b"}`, 400, "INVALID_ARGUMENT", "alternative_location_id"},
		{"unknown encryption mode", "POST", create, with(`"transitEncryptionMode":"CLIENT_AUTHENTICATION"`), 400, "INVALID_ARGUMENT", "instance.transit_encryption_mode"},
		{"encryption mode as a number that is none", "POST", create, with(`"transitEncryptionMode":99`), 400, "INVALID_ARGUMENT", "transit_encryption_mode: 99"},
		{"unknown redis config", "POST", create, with(`"redisConfigs":{"port":"1"}`), 400, "INVALID_ARGUMENT", `redis_configs["port"]: unknown parameter`},
		{"redis config out of range", "POST", create, with(`"redisConfigs":{"databases":"101"}`), 400, "INVALID_ARGUMENT", `redis_configs["databases"]: "101": want a whole number from 1 to 100`},
		{"redis config that is no policy", "POST", create, with(`"redisConfigs":{"maxmemory-policy":"lru"}`), 400, "INVALID_ARGUMENT", `redis_configs["maxmemory-policy"]`},
		{"redis config with another line in it", "POST", create, with(`"redisConfigs":{"notify-keyspace-events":"K\nport 7777"}`), 400, "INVALID_ARGUMENT", `redis_configs["notify-keyspace-events"]`},
		{"maxmemory-gb below a fifth", "POST", create, with(`"redisConfigs":{"maxmemory-gb":"0.1"}`), 400, "INVALID_ARGUMENT", `redis_configs["maxmemory-gb"]`},
		{"unknown version", "POST", create, with(`"redisVersion":"REDIS_99_9"`), 400, "INVALID_ARGUMENT", `redis_version: "REDIS_99_9" is unknown`},
		{"version that is not installed", "POST", create, with(`"redisVersion":"REDIS_3_2"`), 400, "FAILED_PRECONDITION", "redis_version: REDIS_3_2 is not installed"},
		{"label that begins with a capital", "POST", create, with(`"labels":{"Team":"web"}`), 400, "INVALID_ARGUMENT", `labels: key "Team"`},
		{"label with a bad value", "POST", create, with(`"labels":{"team":"Web Shop"}`), 400, "INVALID_ARGUMENT", `labels["team"]`},
		{"display name that is too long", "POST", create, with(`"displayName":"` + strings.Repeat("x", 81) + `"`), 400, "INVALID_ARGUMENT", "display_name: 81 characters"},
		{"zone of another region", "POST", create, with(`"locationId":"europe-west1-b"`), 400, "INVALID_ARGUMENT", "location_id"},
		{"body with another name", "POST", create, with(`"name":"projects/my-project/locations/us-central1/instances/other"`), 400, "INVALID_ARGUMENT", "instance.name"},
		{"create in all regions", "POST", "/v1/projects/my-project/locations/-/instances?instanceId=i", good, 400, "INVALID_ARGUMENT", `parent: location "-"`},
		{"bad project", "POST", "/v1/projects/BAD/locations/us-central1/instances?instanceId=i", good, 400, "INVALID_ARGUMENT", `parent: project "BAD"`},
		{"several things at once", "POST", create, `{"tier":"BASIC","memorySizeGb":0,"labels":{"A":"b"}}`, 400, "INVALID_ARGUMENT", "memory_size_gb: 0: want 1 to 300; labels"},
		{"no body", "POST", create, "", 400, "INVALID_ARGUMENT", "tier"},
		{"malformed JSON", "POST", create, `{"tier":`, 400, "INVALID_ARGUMENT", "Invalid JSON payload received"},
		{"JSON that is no object", "POST", create, `[1]`, 400, "INVALID_ARGUMENT", "Invalid JSON payload received"},
		{"JSON nested very deep", "POST", create, strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000), 400, "INVALID_ARGUMENT", "Invalid JSON payload received"},
		{"JSON that is not UTF-8", "POST", create, with("\"displayName\":\"\xff\""), 400, "INVALID_ARGUMENT", "Invalid JSON payload received"},
		{"unknown field", "POST", create, with(`"noSuchField":1`), 400, "INVALID_ARGUMENT", "noSuchField"},
		{"unknown query parameter", "POST", create + "&noSuchParameter=1", good, 400, "INVALID_ARGUMENT", "noSuchParameter"},
		{"body of more than a MiB", "POST", create, with(`"displayName":"` + strings.Repeat("x", 1<<20) + `"`), 413, "INVALID_ARGUMENT", "larger than 1048576 bytes"},
		{"empty mask", "PATCH", instances + "/creating?updateMask=", `{}`, 400, "INVALID_ARGUMENT", "update_mask: is empty"},
		{"no mask", "PATCH", instances + "/creating", `{}`, 400, "INVALID_ARGUMENT", "update_mask: is empty"},
		{"mask with an unknown path", "PATCH", instances + "/creating?updateMask=noSuchField", `{}`, 400, "INVALID_ARGUMENT", "update_mask"},
		{"mask with a path that never changes", "PATCH", instances + "/creating?updateMask=transitEncryptionMode", `{}`, 400, "INVALID_ARGUMENT", "update_mask"},
		{"network that is none", "POST", create, with(`"authorizedNetwork":"nonsense"`), 400, "INVALID_ARGUMENT", "authorized_network: \"nonsense\" is not the full name of a network"},
		{"range that is none", "POST", create, with(`"reservedIpRange":"garbage range!"`), 400, "INVALID_ARGUMENT", "reserved_ip_range: \"garbage range!\" is not a range of addresses"},
		{"second zone of tier BASIC", "POST", create, with(`"alternativeLocationId":"us-central1-b"`), 400, "INVALID_ARGUMENT", "alternative_location_id"},
		{"update of what is missing", "PATCH", instances + "/missing?updateMask=displayName", `{}`, 404, "NOT_FOUND", "Resource 'projects/my-project/locations/us-central1/instances/missing' was not found"},
		{"update while creating", "PATCH", instances + "/creating?updateMask=displayName", `{"displayName":"x"}`, 400, "FAILED_PRECONDITION", "CREATING"},
		{"delete while creating", "DELETE", instances + "/creating", "", 400, "FAILED_PRECONDITION", "CREATING"},
		{"delete of what is missing", "DELETE", instances + "/missing", "", 404, "NOT_FOUND", "'projects/my-project/locations/us-central1/instances/missing' was not found"},
		{"get of what is missing", "GET", instances + "/missing", "", 404, "NOT_FOUND", "'projects/my-project/locations/us-central1/instances/missing' was not found"},
		{"get of a bad name", "GET", instances + "/Bad_Name", "", 400, "INVALID_ARGUMENT", `name: "Bad_Name"`},
		{"AUTH string of what is missing", "GET", instances + "/missing/authString", "", 404, "NOT_FOUND", "was not found"},
		{"bad page token", "GET", instances + "?pageToken=%21%21", "", 400, "INVALID_ARGUMENT", "page_token"},
		{"negative page size", "GET", instances + "?pageSize=-1", "", 400, "INVALID_ARGUMENT", "page_size"},
		{"page size that is a word", "GET", instances + "?pageSize=many", "", 400, "INVALID_ARGUMENT", "page"},
		{"operation that is missing", "GET", parent + "/operations/operation-1-0-0-0", "", 404, "NOT_FOUND", "operations/operation-1-0-0-0' was not found"},
		{"cancel of what is missing", "POST", parent + "/operations/operation-1-0-0-0:cancel", "{}", 404, "NOT_FOUND", "was not found"},
		{"upgrade to nothing", "POST", instances + "/creating:upgrade", `{}`, 400, "INVALID_ARGUMENT", "redis_version: is required"},
		{"failover of tier BASIC", "POST", instances + "/creating:failover", `{}`, 400, "FAILED_PRECONDITION", "has no replica"},
		{"Redis Cluster", "GET", parent + "/clusters", "", 400, "FAILED_PRECONDITION", "Memorystore for Redis Cluster"},
		{"unknown verb", "POST", instances + "/creating:explode", "{}", 405, "UNIMPLEMENTED", "POST is not offered at /v1/projects/my-project/locations/us-central1/instances/creating:explode"},
		{"unknown path", "GET", "/v1/nothing", "", 404, "NOT_FOUND", "/v1/nothing"},
		{"unknown version of the API", "GET", "/v9/projects/my-project/locations/us-central1/instances", "", 404, "NOT_FOUND", "/v9/"},
		{"unknown method", "PUT", instances, good, 405, "UNIMPLEMENTED", "PUT is not offered at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantError(t, s.rest(c.method, c.path, c.body), c.code, c.status, c.words)
		})
	}
	for name, authorization := range map[string]string{
		"no token": "", "wrong token": "Bearer sealane_wrong", "empty token": "Bearer ", "another scheme": "Basic " + s.token, "only the token": s.token,
	} {
		t.Run(name, func(t *testing.T) {
			r := s.restAs(authorization, "POST", create, good)
			wantError(t, r, 401, "UNAUTHENTICATED", "authorization: Bearer TOKEN")
			if r.header.Get("WWW-Authenticate") == "" {
				t.Error("no header WWW-Authenticate")
			}
			if strings.Contains(string(r.body), s.token) {
				t.Error("the answer holds the token")
			}
		})
	}

	// None of this has left a trace, and the server works.
	release()
	var op struct{ Name string }
	if err := json.Unmarshal(underWay.body, &op); err != nil {
		t.Fatal(err)
	}
	s.wantDone(op.Name)
	if list := s.rest("GET", "/v1/projects/my-project/locations/-/instances", "").json(t)["instances"].([]any); len(list) != 1 {
		t.Errorf("got %d instances, want the one that was created rightly: %v", len(list), list)
	}
	s.wantPong(s.create("after"), s.bundle("after"))
}

func wantError(t *testing.T, r reply, code int, status, words string) {
	t.Helper()
	var envelope struct {
		Error struct {
			Code            int
			Message, Status string
		}
	}
	if err := json.Unmarshal(r.body, &envelope); err != nil {
		t.Fatalf("got %d, %.300q: %v", r.code, r.body, err)
	}
	e := envelope.Error
	if r.code != code || e.Code != code || e.Status != status || !strings.Contains(e.Message, words) {
		t.Errorf("got %d, %s, want %d, %s, %q in the message", r.code, strings.Join(strings.Fields(fmt.Sprintf("%.600s", r.body)), " "), code, status, words)
	}
	if !strings.HasPrefix(r.header.Get("Content-Type"), "application/json") {
		t.Errorf("Content-Type: got %q", r.header.Get("Content-Type"))
	}
}

// The CLI turns the same answers into an error line and a hint.
func TestCLIErrors(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	s.create("plain", "--transit-encryption-mode", "disabled")
	for _, c := range []struct {
		code  int
		words string
		args  []string
	}{
		{1, "instance_id", []string{"instances", "create", "Bad"}},
		{1, "already exists", []string{"instances", "create", "plain"}},
		{1, "was not found", []string{"instances", "describe", "missing"}},
		{1, "was not found", []string{"instances", "delete", "missing", "--quiet"}},
		{1, "nothing was done", []string{"instances", "delete", "plain"}}, // there is nobody to answer the question
		{1, "transit encryption is disabled", []string{"ca", "bundle", "plain"}},
		{1, "AUTH is off", []string{"instances", "get-auth-string", "plain"}},
		{2, "NAME is missing", []string{"instances", "create"}},
		{2, "--tier", []string{"instances", "create", "i", "--tier", "gold"}},
		{2, "unknown command", []string{"instances", "explode"}},
		{2, "--no-such-flag", []string{"instances", "list", "--no-such-flag"}},
	} {
		if got := s.cliFails(c.code, c.args...); !strings.Contains(got, c.words) {
			t.Errorf("%v: got %q, want %q in it", c.args, got, c.words)
		}
	}
	stranger := s.command("instances", "list")
	stranger.Env = append(stranger.Env, "SEALANE_TOKEN=sealane_wrong")
	if got := run(stranger); got.code != 1 || !strings.Contains(got.stderr, "sealane: hint: ") {
		t.Errorf("wrong token: got exit code %d, %q", got.code, got.stderr)
	}
	if got := s.describe("plain"); got.State != "READY" {
		t.Errorf("after all that: got %+v", got)
	}
}
