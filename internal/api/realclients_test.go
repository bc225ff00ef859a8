package api_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// These are the calls that gcloud, Terraform's provider and the client libraries were seen to send, with their spellings. Each must do
// what it does at the managed service, or be refused in words that say what to do, at once: never with 501, after which gcloud and
// Python's client try again for half a minute.

// updates are those of an instance that is as production says, one after another. body is what the mask's fields are sent with.
var updates = []struct {
	client, mask, body string
	want               map[string]any // by JSON name; nil: that the field is absent
	refused            string         // or else what the refusal says
}{
	{"terraform", "displayName", `{"displayName":"web cache"}`, map[string]any{"displayName": "web cache"}, ""},
	{"terraform", "displayName", `{}`, map[string]any{"displayName": nil}, ""},
	{"terraform", "labels", `{"labels":{"env":"prod","goog-terraform-provisioned":"true"}}`, map[string]any{"labels.env": "prod"}, ""},
	{"terraform", "authEnabled", `{"authEnabled":true}`, map[string]any{"authEnabled": true}, ""},
	{"terraform", "authEnabled", `{}`, map[string]any{"authEnabled": nil}, ""},
	{"terraform", "memorySizeGb", `{"memorySizeGb":3}`, map[string]any{"memorySizeGb": 3.0}, ""},
	{"terraform", "redisConfigs", `{"redisConfigs":{"maxmemory-policy":"allkeys-lru","timeout":"300"}}`, map[string]any{"redisConfigs.timeout": "300"}, ""},
	{"terraform", "redisConfigs%2CmemorySizeGb", `{"redisConfigs":{"maxmemory-gb":"1.5"},"memorySizeGb":2}`, map[string]any{"redisConfigs.timeout": nil, "redisConfigs.maxmemory-gb": "1.5", "memorySizeGb": 2.0}, ""},
	{"terraform", "redisConfigs", `{}`, map[string]any{"redisConfigs": nil}, ""},
	{"terraform", "persistenceConfig", `{"persistenceConfig":{"persistenceMode":"RDB","rdbSnapshotPeriod":"TWELVE_HOURS","rdbSnapshotStartTime":"2030-01-02T03:04:05Z"}}`,
		map[string]any{"persistenceConfig.persistenceMode": "RDB", "persistenceConfig.rdbSnapshotPeriod": "TWELVE_HOURS", "persistenceConfig.rdbSnapshotStartTime": "2030-01-02T03:04:05Z", "persistenceConfig.rdbNextSnapshotTime": "2030-01-02T03:04:05Z"}, ""},
	{"terraform", "persistenceConfig", `{"persistenceConfig":{"persistenceMode":"DISABLED"}}`, map[string]any{"persistenceConfig.persistenceMode": "DISABLED", "persistenceConfig.rdbSnapshotPeriod": nil}, ""},
	{"terraform", "maintenancePolicy", `{"maintenancePolicy":{"description":"nights","weeklyMaintenanceWindow":[{"day":"SUNDAY","startTime":{"minutes":30}}]}}`,
		map[string]any{"maintenancePolicy.description": "nights", "maintenancePolicy.weeklyMaintenanceWindow.0.day": "SUNDAY", "maintenancePolicy.weeklyMaintenanceWindow.0.startTime.minutes": 30.0, "maintenancePolicy.weeklyMaintenanceWindow.0.duration": "3600s"}, ""},
	{"terraform", "maintenancePolicy", `{}`, map[string]any{"maintenancePolicy": nil}, ""},
	{"terraform", "maintenanceVersion", `{"maintenanceVersion":"7.0.15"}`, map[string]any{"maintenanceVersion": "7.0.15"}, ""},
	{"terraform", "maintenanceVersion", `{"maintenanceVersion":"20251007_00_00"}`, nil, "maintenance_version: \"20251007_00_00\" is not installed on this server, which has 7.0.15"},
	{"terraform", "replicaCount", `{}`, map[string]any{"replicaCount": nil}, ""},
	{"terraform", "replicaCount", `{"replicaCount":2}`, nil, "replicas are of tier STANDARD_HA, and this instance is BASIC"},
	{"terraform", "readReplicasMode%2CsecondaryIpRange", `{"readReplicasMode":"READ_REPLICAS_DISABLED"}`, map[string]any{"readReplicasMode": "READ_REPLICAS_DISABLED"}, ""},
	{"terraform", "readReplicasMode%2CsecondaryIpRange", `{"readReplicasMode":"READ_REPLICAS_ENABLED","secondaryIpRange":"auto"}`, nil, "read_replicas_mode: READ_REPLICAS_ENABLED: replicas are of tier STANDARD_HA"},
	// All that changed in one apply; the fields without a mask, which come along, do not count.
	{"terraform", "authEnabled%2CdisplayName%2CredisConfigs%2Clabels", `{"name":"NAME","displayName":"all","tier":"STANDARD_HA","memorySizeGb":9,"labels":{"a":"b"},"redisConfigs":{"maxmemory-policy":"noeviction"},"authEnabled":true,"connectMode":"DIRECT_PEERING"}`,
		map[string]any{"displayName": "all", "memorySizeGb": 2.0, "labels.a": "b", "labels.env": nil, "redisConfigs.maxmemory-policy": "noeviction", "authEnabled": true, "tier": "BASIC"}, ""},

	{"gcloud", "display_name", `{"displayName":"by gcloud"}`, map[string]any{"displayName": "by gcloud"}, ""},
	{"gcloud", "labels", `{"labels":{"team":"web"}}`, map[string]any{"labels.team": "web", "labels.a": nil}, ""},
	{"gcloud", "auth_enabled", `{"authEnabled":false}`, map[string]any{"authEnabled": nil}, ""},
	{"gcloud", "memory_size_gb", `{"memorySizeGb":5}`, map[string]any{"memorySizeGb": 5.0}, ""},
	{"gcloud", "redis_configs", `{"redisConfigs":{"maxmemory-policy":"noeviction","notify-keyspace-events":"Ex"}}`, map[string]any{"redisConfigs.notify-keyspace-events": "Ex"}, ""},
	{"gcloud", "redis_configs", `{"redisConfigs":{"maxmemory-policy":"noeviction"}}`, map[string]any{"redisConfigs.notify-keyspace-events": nil, "redisConfigs.maxmemory-policy": "noeviction"}, ""},
	{"gcloud", "redis_configs", `{"redisConfigs":{"databases":"32"}}`, nil, "updating databases not supported"},
	{"gcloud", "persistence_config", `{"persistenceConfig":{"persistenceMode":"RDB"}}`, map[string]any{"persistenceConfig.rdbSnapshotPeriod": "TWENTY_FOUR_HOURS", "persistenceConfig.rdbSnapshotStartTime": some, "persistenceConfig.rdbNextSnapshotTime": some}, ""},
	{"gcloud", "persistence_config", `{"persistenceConfig":{"persistenceMode":"RDB","rdbSnapshotPeriod":"SIX_HOURS"}}`, map[string]any{"persistenceConfig.rdbSnapshotPeriod": "SIX_HOURS"}, ""},
	// --persistence-mode=disabled sends the period back that was read.
	{"gcloud", "persistence_config", `{"persistenceConfig":{"persistenceMode":"DISABLED","rdbSnapshotPeriod":"SIX_HOURS"}}`, map[string]any{"persistenceConfig.persistenceMode": "DISABLED", "persistenceConfig.rdbSnapshotPeriod": nil}, ""},
	// --rdb-snapshot-period=1h alone, while persistence is disabled.
	{"gcloud", "persistence_config", `{"persistenceConfig":{"persistenceMode":"DISABLED","rdbSnapshotPeriod":"ONE_HOUR"}}`, nil, "persistence_config.rdb_snapshot_period: ONE_HOUR has no effect while persistence_mode is DISABLED: set persistence_mode to RDB"},
	{"gcloud", "maintenance_policy", `{"maintenancePolicy":{"weeklyMaintenanceWindow":[{"day":"MONDAY","startTime":{"hours":5}}]}}`, map[string]any{"maintenancePolicy.weeklyMaintenanceWindow.0.startTime.hours": 5.0, "maintenancePolicy.createTime": some}, ""},
	{"gcloud", "maintenance_policy", `{}`, map[string]any{"maintenancePolicy": nil}, ""}, // --maintenance-window-any
	{"gcloud", "maintenance_version", `{"maintenanceVersion":"current_default"}`, map[string]any{"maintenanceVersion": "7.0.15"}, ""},
	{"gcloud", "replica_count", `{"replicaCount":1}`, nil, "replicas are of tier STANDARD_HA, and this instance is BASIC"},
	{"gcloud", "read_replicas_mode%2Csecondary_ip_range", `{"readReplicasMode":"READ_REPLICAS_ENABLED","secondaryIpRange":"10.79.0.0/28"}`, nil, "secondary_ip_range: \"10.79.0.0/28\": replicas are of tier STANDARD_HA"},

	{"config connector", "redisConfig", `{"redisConfigs":{"timeout":"7"}}`, map[string]any{"redisConfigs.timeout": "7"}, ""},
	{"nested path", "redis_configs.maxmemory-policy", `{"redisConfigs":{"maxmemory-policy":"volatile-ttl","timeout":"9"}}`, map[string]any{"redisConfigs.maxmemory-policy": "volatile-ttl", "redisConfigs.timeout": "7"}, ""},
	{"nested path", "redisConfigs.timeout", `{}`, map[string]any{"redisConfigs.timeout": nil, "redisConfigs.maxmemory-policy": "volatile-ttl"}, ""},
	{"nested path", "persistence_config.rdb_snapshot_period", `{"persistenceConfig":{"rdbSnapshotPeriod":"ONE_HOUR"}}`, nil, "set persistence_mode to RDB"},
	{"nested path", "persistence_config.persistence_mode", `{"persistenceConfig":{"persistenceMode":"RDB"}}`, map[string]any{"persistenceConfig.persistenceMode": "RDB"}, ""},
	{"nested path", "persistenceConfig.rdbSnapshotPeriod", `{"persistenceConfig":{"rdbSnapshotPeriod":"ONE_HOUR"}}`, map[string]any{"persistenceConfig.persistenceMode": "RDB", "persistenceConfig.rdbSnapshotPeriod": "ONE_HOUR"}, ""},
	{"nested path", "persistence_config.rdb_snapshot_start_time", `{"persistenceConfig":{"rdbSnapshotStartTime":"2031-01-01T00:00:00Z"}}`, map[string]any{"persistenceConfig.rdbSnapshotPeriod": "ONE_HOUR", "persistenceConfig.rdbNextSnapshotTime": "2031-01-01T00:00:00Z"}, ""},
	{"nested path", "maintenance_policy.description", `{"maintenancePolicy":{"description":"x"}}`, map[string]any{"maintenancePolicy.description": "x", "maintenancePolicy.weeklyMaintenanceWindow": nil}, ""},
	{"nested path", "maintenancePolicy.weeklyMaintenanceWindow", `{"maintenancePolicy":{"weeklyMaintenanceWindow":[{"day":2}]}}`, map[string]any{"maintenancePolicy.description": "x", "maintenancePolicy.weeklyMaintenanceWindow.0.day": "TUESDAY"}, ""},
	{"wrong", "maintenance_policy", `{"maintenancePolicy":{"weeklyMaintenanceWindow":[{"startTime":{"hours":5}}]}}`, nil, "maintenance_policy.weekly_maintenance_window[0].day"},
	{"wrong", "maintenance_policy", `{"maintenancePolicy":{"weeklyMaintenanceWindow":[{"day":1,"startTime":{"hours":25}}]}}`, nil, "25:00"},
	{"wrong", "persistence_config", `{"persistenceConfig":{"rdbSnapshotPeriod":"WEEKLY"}}`, nil, "Invalid value at 'instance.persistence_config.rdb_snapshot_period' (type.googleapis.com/google.cloud.redis.v1.PersistenceConfig.SnapshotPeriod), \"WEEKLY\""},
	{"labels", "labels", `{}`, map[string]any{"labels": nil}, ""},
}

// some stands for any value.
var some = struct{}{}

func TestUpdatesOfRealClients(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", basic)
	for _, u := range updates {
		what := fmt.Sprintf("%s, updateMask=%s, %s", u.client, u.mask, u.body)
		body := strings.Replace(u.body, "NAME", "projects/p1/locations/local/instances/first", 1)
		code, v := s.do("PATCH", first+"?alt=json&updateMask="+u.mask, body)
		if u.refused != "" {
			e, _ := v["error"].(object)
			if message, _ := e["message"].(string); code != 400 || !strings.Contains(message, u.refused) {
				t.Errorf("%s: %d, %v; want 400 and %q", what, code, e, u.refused)
			}
			continue
		}
		if code != 200 || v["done"] != true || v["error"] != nil {
			t.Errorf("%s: %d, %v; want an operation that is done", what, code, v)
			continue
		}
		got := s.ok("GET", first+"?alt=json", "")
		for _, path := range slices.Sorted(maps.Keys(u.want)) {
			if value, want := at(got, path), u.want[path]; value != want && !(want == some && value != nil) {
				t.Errorf("%s: %s is %v; want %v", what, path, value, want)
			}
		}
	}
}

// at is the value at a dotted path, or nil.
func at(v any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case object:
			v = x[name]
		case []any:
			v = x[int(name[0]-'0')]
		default:
			return nil
		}
	}
	return v
}

// gcloud reads the instance, changes it, and sends all of it back with what only the server sets, through every version of the API.
func TestReadModifyUpdateOfGcloud(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", `{"tier":"BASIC","memorySizeGb":1,"transitEncryptionMode":"SERVER_AUTHENTICATION","authEnabled":true,
		"persistenceConfig":{"rdbSnapshotPeriod":"SIX_HOURS"},"maintenancePolicy":{"weeklyMaintenanceWindow":[{"day":"FRIDAY","startTime":{"hours":3}}]}}`)
	for _, version := range []string{"v1", "v1beta1", "v1alpha1"} {
		path := strings.Replace(first, "v1", version, 1)
		i := s.ok("GET", path, "")
		if at(i, "persistenceConfig.persistenceMode") != "RDB" || at(i, "persistenceConfig.rdbSnapshotStartTime") == nil || i["maintenanceVersion"] != "7.0.15" ||
			i["reservedIpRange"] == nil || i["persistenceIamIdentity"] != "serviceAccount:redis@p1.sealane.invalid" {
			t.Errorf("%s: %v", version, i)
		}
		for _, mask := range []string{"display_name", "memory_size_gb", "persistence_config", "maintenance_policy", "replica_count", "read_replicas_mode,secondary_ip_range", "maintenance_version", "labels"} {
			op := s.ok("PATCH", path+"?alt=json&updateMask="+mask, text(i))
			if op["done"] != true || op["error"] != nil {
				t.Errorf("%s, %s: %v", version, mask, op)
			}
		}
		if after := s.ok("GET", path, ""); fmt.Sprint(after) != fmt.Sprint(i) {
			t.Errorf("%s: after it was sent back as it was: %v\nbefore: %v", version, after, i)
		}
	}
}

// Whatever else clients call.
func TestOtherCallsOfRealClients(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", basic)
	for _, c := range []struct {
		method, path, body string
		code               int
		says               string
	}{
		{"POST", ":upgrade", `{"redisVersion":"REDIS_7_2"}`, 400, "redis_version"},
		{"POST", ":upgrade", `{}`, 400, "redis_version: is required"},
		{"POST", ":import", `{"inputConfig":{"gcsSource":{"uri":"gs://b/o.rdb"}}}`, 400, "input_config"},
		{"POST", ":import", `{}`, 400, "input_config.gcs_source.uri: is required"},
		{"POST", ":export", `{"outputConfig":{"gcsDestination":{"uri":"gs://b/o.rdb"}}}`, 400, "output_config"},
		{"POST", ":export", `{"outputConfig":{}}`, 400, "output_config.gcs_destination.uri: is required"},
		{"POST", ":failover", `{}`, 400, "is BASIC, so it has no replica"},
		{"POST", ":failover", `{"dataProtectionMode":"FORCE_DATA_LOSS"}`, 400, "sealane instances restart first"},
		{"POST", ":failover", `{"dataProtectionMode":7}`, 400, "data_protection_mode: 7"},
		{"POST", ":rescheduleMaintenance", `{"rescheduleType":"IMMEDIATE"}`, 400, "nothing to reschedule"},
		{"POST", ":rescheduleMaintenance", `{"rescheduleType":"SPECIFIC_TIME","scheduleTime":"2030-01-01T00:00:00Z"}`, 400, "nothing to reschedule"},
		{"POST", ":rescheduleMaintenance", `{"rescheduleType":"SPECIFIC_TIME"}`, 400, "schedule_time: is required with SPECIFIC_TIME"},
		{"POST", ":rescheduleMaintenance", `{"rescheduleType":"IMMEDIATE","scheduleTime":"2030-01-01T00:00:00Z"}`, 400, "schedule_time: is for SPECIFIC_TIME only"},
		{"POST", ":rescheduleMaintenance", `{}`, 400, "reschedule_type: "},
		{"GET", "/../../clusters", "", 400, "gcloud redis instances"},
		{"GET", "/../../clusters/c", "", 400, "Memorystore for Redis Cluster"},
		{"GET", "/../../backupCollections", "", 400, "Memorystore for Redis Cluster"},
	} {
		for _, version := range []string{"v1", "v1beta1", "v1alpha1"} {
			path := strings.Replace(first+c.path, "/instances/first/../..", "", 1)
			code, v := s.do(c.method, strings.Replace(path, "v1", version, 1), c.body)
			e, _ := v["error"].(object)
			if message, _ := e["message"].(string); code != c.code || !strings.Contains(message, c.says) || e["status"] == "UNIMPLEMENTED" {
				t.Errorf("%s %s %s %s: %d, %v; want %d and %q", version, c.method, c.path, c.body, code, e, c.code, c.says)
			}
		}
	}
	// An instance that is not there is said to be not there.
	for verb, body := range map[string]string{":failover": "{}", ":rescheduleMaintenance": `{"rescheduleType":"IMMEDIATE"}`} {
		code, v := s.do("POST", instances+"/none"+verb, body)
		s.refused(404, "NOT_FOUND", v, code, "instances/none")
	}
}

// An update of a masked field begins no operation when it is refused.
func TestRefusedUpdateIsNoOperation(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", basic)
	s.do("PATCH", first+"?updateMask=replicaCount", `{"replicaCount":3}`)
	if all := s.ok("GET", "/v1/projects/p1/locations/local/operations", "")["operations"].([]any); len(all) != 1 {
		t.Errorf("%d operations; want the create alone", len(all))
	}
}

// An answer waits for its operation, so that a client which looks again only after ten seconds, as Terraform does, needn't look.
func TestAnswersWaitForTheirOperations(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, c := range [][3]string{
		{"POST", instances + "?instanceId=first&alt=json", basic}, {"PATCH", first + "?updateMask=displayName&alt=json", `{"displayName":"x"}`}, {"DELETE", first + "?alt=json", ""},
	} {
		if op := s.ok(c[0], c[1], c[2]); op["done"] != true {
			t.Errorf("%s: %v; want that it is done", c[0], op)
		}
	}
	// One that takes long is answered in time, and so is every poll.
	s.nodes.set(func(n *nodes) { n.hold = true })
	began := time.Now()
	op := s.ok("POST", instances+"?instanceId=second", basic)
	again := s.ok("GET", "/v1/"+op["name"].(string), "")
	if took := time.Since(began); op["done"] != false || again["done"] != false || took < 3*time.Second || took > 6*time.Second {
		t.Errorf("after %v: %v, %v; want two answers that waited two seconds each", took, op, again)
	}
	// A client that gives up is let go.
	ctx := s.rest.Client()
	r, _ := http.NewRequestWithContext(t.Context(), "GET", s.rest.URL+"/v1/"+op["name"].(string), nil)
	r.Header.Set("Authorization", "Bearer "+token)
	impatient := *ctx
	impatient.Timeout = 50 * time.Millisecond
	if _, err := impatient.Do(r); err == nil {
		t.Error("the answer did not wait")
	}
}
