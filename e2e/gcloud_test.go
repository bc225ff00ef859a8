package e2e_test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// gcloud is a gcloud that knows where the API is, as README says it, in a configuration that holds nothing.
func (s *server) gcloud(args ...string) *exec.Cmd {
	c := s.program("gcloud", args...)
	c.Env = append(c.Env,
		"CLOUDSDK_CONFIG="+filepath.Join(s.base, "gcloud"),
		"CLOUDSDK_API_ENDPOINT_OVERRIDES_REDIS="+s.api+"/",
		"CLOUDSDK_AUTH_ACCESS_TOKEN_FILE="+filepath.Join(s.state, "admin.token"),
		"CLOUDSDK_CORE_PROJECT=my-project",
		// gcloud must not use the network.
		"CLOUDSDK_CORE_DISABLE_USAGE_REPORTING=true", "CLOUDSDK_SURVEY_DISABLE_PROMPTS=true",
		"CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK=true", "CLOUDSDK_CORE_CHECK_GCE_METADATA=false",
	)
	return c
}

// gcloud works unchanged once it is told where the API is.
func TestGcloud(t *testing.T) {
	t.Parallel()
	need(t, "gcloud")
	s := startServer(t, serverOptions{})
	gcloud := func(args ...string) *exec.Cmd { return s.gcloud(args...) }
	redis := func(args ...string) string {
		t.Helper()
		return s.mustRun(gcloud(append([]string{"redis"}, args...)...))
	}
	const region = "--region=us-central1"

	redis("instances", "create", "first", "--transit-encryption-mode=SERVER_AUTHENTICATION", "--size=1", region, "--enable-auth", "--quiet")
	i := s.parse(redis("instances", "describe", "first", region, "--format=json"))
	if i.State != "READY" || i.TransitEncryptionMode != "SERVER_AUTHENTICATION" || i.Port != 6378 || !i.AuthEnabled || len(i.ServerCACerts) != 1 {
		t.Fatalf("describe: got %+v", i)
	}
	var auth struct{ AuthString string }
	if err := json.Unmarshal([]byte(redis("instances", "get-auth-string", "first", region, "--format=json")), &auth); err != nil || auth.AuthString == "" {
		t.Fatalf("get-auth-string: got %v, %v", auth, err)
	}
	// gcloud's output has all that a client needs.
	ca := filepath.Join(s.base, "ca.pem")
	s.write(ca, i.ServerCACerts[0].Cert)
	cli := s.program("redis-cli", "--tls", "--cacert", ca, "-h", i.Host, "-p", "6378", "PING")
	cli.Env = append(cli.Env, "REDISCLI_AUTH="+auth.AuthString)
	if out := s.mustRun(cli); out != "PONG\n" {
		t.Errorf("PING: got %q, want PONG", out)
	}

	updated := s.parse(redis("instances", "update", "first", region, "--display-name=The first", "--update-labels=team=web", "--quiet", "--format=json"))
	if updated.DisplayName != "The first" || updated.Labels["team"] != "web" || updated.Host != i.Host || updated.State != "READY" {
		t.Errorf("update: got %+v", updated)
	}
	table := redis("instances", "list", region)
	if !strings.Contains(table, "first") || !strings.Contains(table, "READY") || !strings.Contains(table, i.Host) {
		t.Errorf("list: got %q", table)
	}
	// The beta track uses another version of the API. gcloud itself leaves out much of the answer.
	beta := s.parse(s.mustRun(gcloud("beta", "redis", "instances", "describe", "first", region, "--format=json")))
	if beta.Name != i.Name || beta.State != "READY" || beta.Host != i.Host || beta.Port != i.Port {
		t.Errorf("beta describe: got %+v", beta)
	}
	if list := s.mustRun(gcloud("beta", "redis", "instances", "list", "--region=-", "--format=value(name.basename())")); strings.TrimSpace(list) != "first" {
		t.Errorf("beta list of all regions: got %q, want first", list)
	}

	ops := strings.Fields(redis("operations", "list", region, "--sort-by=name", "--format=value(name.basename())"))
	if len(ops) != 2 {
		t.Fatalf("operations list: got %q, want two", ops)
	}
	if op := redis("operations", "describe", ops[1], region, "--format=value(done,metadata.verb,metadata.target.basename())"); strings.Join(strings.Fields(op), " ") != "True update first" {
		t.Errorf("operations describe: got %q, want True update first", op)
	}
	if regions := redis("regions", "list", "--format=value(locationId)"); strings.Join(strings.Fields(regions), " ") != "local us-central1" {
		t.Errorf("regions list: got %q", regions)
	}
	if zones := redis("zones", "list"); !strings.Contains(zones, "us-central1-a") {
		t.Errorf("zones list: got %q, want us-central1-a in it", zones)
	}

	redis("instances", "delete", "first", region, "--quiet")
	gone := run(gcloud("redis", "instances", "describe", "first", region))
	if gone.code == 0 || !strings.Contains(gone.stderr, "NOT_FOUND") || !strings.Contains(gone.stderr, "Resource 'projects/my-project/locations/us-central1/instances/first' was not found") {
		t.Errorf("describe after the delete: got exit code %d, %q", gone.code, gone.stderr)
	}
}

// gcloudCalls are gcloud's commands with their arguments, one after another. want is what the answer's fields are; refused is what gcloud
// says of a command that is not done.
var gcloudCalls = []struct {
	args    string
	want    map[string]string
	refused string
}{
	{"instances create full --size=2 --tier=basic --zone=us-central1-b --network=default --connect-mode=direct-peering --reserved-ip-range=10.9.8.0/29 " +
		"--transit-encryption-mode=server-authentication --enable-auth --display-name=Full --labels=team=web,env=prod --redis-config=maxmemory-policy=allkeys-lru,timeout=100,databases=20 " +
		"--persistence-mode=rdb --rdb-snapshot-period=6h --rdb-snapshot-start-time=2040-01-01T00:00:00Z --maintenance-window-day=monday --maintenance-window-hour=3", nil, ""},
	{"instances describe full", map[string]string{
		"state": "READY", "tier": "BASIC", "memorySizeGb": "2", "locationId": "us-central1-b", "reservedIpRange": "10.9.8.0/29", "connectMode": "DIRECT_PEERING", "authEnabled": "true",
		"transitEncryptionMode": "SERVER_AUTHENTICATION", "displayName": "Full", "labels.team": "web", "redisConfigs.maxmemory-policy": "allkeys-lru", "redisConfigs.databases": "20",
		"persistenceConfig.persistenceMode": "RDB", "persistenceConfig.rdbSnapshotPeriod": "SIX_HOURS", "persistenceConfig.rdbSnapshotStartTime": "2040-01-01T00:00:00Z",
		"persistenceConfig.rdbNextSnapshotTime": "2040-01-01T00:00:00Z", "maintenancePolicy.weeklyMaintenanceWindow.0.day": "MONDAY",
		"maintenancePolicy.weeklyMaintenanceWindow.0.startTime.hours": "3", "maintenancePolicy.weeklyMaintenanceWindow.0.duration": "3600s",
		"authorizedNetwork": "projects/my-project/global/networks/default", "persistenceIamIdentity": "serviceAccount:redis@my-project.sealane.invalid",
	}, ""},
	{"instances create ha --tier=standard --size=5 --alternative-zone=us-central1-c --zone=us-central1-b --transit-encryption-mode=server-authentication", nil, ""},
	{"instances failover ha", nil, ""},
	{"instances describe ha", map[string]string{
		"state": "READY", "tier": "STANDARD_HA", "replicaCount": "1", "locationId": "us-central1-b", "alternativeLocationId": "us-central1-c", "currentLocationId": "us-central1-c",
		"nodes.0.id": "node-0", "nodes.0.zone": "us-central1-b", "nodes.1.id": "node-1", "nodes.1.zone": "us-central1-c", "readReplicasMode": "READ_REPLICAS_DISABLED", "readEndpoint": "",
	}, ""},
	{"instances update ha --read-replicas-mode=read-replicas-enabled --secondary-ip-range=auto", map[string]string{
		"readReplicasMode": "READ_REPLICAS_ENABLED", "replicaCount": "2", "nodes.2.id": "node-2", "readEndpointPort": "6378", "secondaryIpRange": "10.83.0.16/28"}, ""},
	{"instances update ha --replica-count=1", map[string]string{"replicaCount": "1", "nodes.2.id": "", "readEndpointPort": "6378", "state": "READY"}, ""},
	{"instances create no --read-replicas-mode=read-replicas-enabled --replica-count=2", nil, "replica_count: 2: tier BASIC has no replicas"},
	{"instances create no --customer-managed-key=projects/p/locations/us-central1/keyRings/r/cryptoKeys/k", nil, "customer_managed_key"},
	{"instances create no --redis-version=redis_3_2", nil, "REDIS_3_2 is not installed"},
	{"instances create no --reserved-ip-range=10.9.8.0/29", nil, "the range of another instance"},

	{"instances update full --display-name=Renamed --size=3 --update-labels=tier=gold --remove-labels=env", map[string]string{
		"displayName": "Renamed", "memorySizeGb": "3", "labels.tier": "gold", "labels.env": "", "state": "READY"}, ""},
	{"instances update full --size=1", map[string]string{"memorySizeGb": "1"}, ""},
	{"instances update full --update-redis-config=maxmemory-policy=noeviction,notify-keyspace-events=Ex", map[string]string{
		"redisConfigs.maxmemory-policy": "noeviction", "redisConfigs.notify-keyspace-events": "Ex", "redisConfigs.timeout": "100"}, ""},
	{"instances update full --remove-redis-config=timeout,notify-keyspace-events", map[string]string{"redisConfigs.timeout": "", "redisConfigs.maxmemory-policy": "noeviction"}, ""},
	{"instances update full --no-enable-auth --clear-labels", map[string]string{"authEnabled": "", "labels.team": ""}, ""},
	{"instances update full --enable-auth", map[string]string{"authEnabled": "true"}, ""},
	{"instances update full --persistence-mode=disabled", map[string]string{"persistenceConfig.persistenceMode": "DISABLED", "persistenceConfig.rdbSnapshotPeriod": ""}, ""},
	{"instances update full --rdb-snapshot-period=12h", nil, "set persistence_mode to RDB"},
	{"instances update full --persistence-mode=rdb --rdb-snapshot-period=12h --rdb-snapshot-start-time=2041-01-01T00:00:00Z", map[string]string{
		"persistenceConfig.rdbSnapshotPeriod": "TWELVE_HOURS", "persistenceConfig.rdbNextSnapshotTime": "2041-01-01T00:00:00Z"}, ""},
	{"instances update full --maintenance-window-day=sunday --maintenance-window-hour=0", map[string]string{
		"maintenancePolicy.weeklyMaintenanceWindow.0.day": "SUNDAY", "maintenancePolicy.weeklyMaintenanceWindow.0.startTime.hours": ""}, ""},
	{"instances update full --maintenance-window-any", map[string]string{"maintenancePolicy.weeklyMaintenanceWindow.0.day": ""}, ""},
	{"instances update full --maintenance-version=current_default", map[string]string{"state": "READY"}, ""},
	{"instances update full --maintenance-version=20251007_00_00", nil, "is not installed on this server"},
	{"instances update full --read-replicas-mode=read-replicas-enabled --secondary-ip-range=auto", nil, "replicas are of tier STANDARD_HA, and this instance is BASIC"},

	{"instances export gs://backups/full.rdb full", nil, ""},
	{"instances import gs://backups/full.rdb full", nil, ""},
	{"instances describe full", map[string]string{"state": "READY", "displayName": "Renamed"}, ""},
	{"instances import gs://backups/none.rdb full", nil, "gs://backups/none.rdb"},

	{"instances failover full --data-protection-mode=force-data-loss", nil, "has no replica to fail over to"},
	{"instances reschedule-maintenance full --reschedule-type=immediate", nil, "FAILED_PRECONDITION"},
	{"instances reschedule-maintenance full --reschedule-type=specific-time --schedule-time=2040-01-01T00:00:00Z", nil, "FAILED_PRECONDITION"},
	{"instances upgrade full --redis-version=redis_7_2", nil, "FAILED_PRECONDITION"},
	{"clusters list", nil, "FAILED_PRECONDITION: clusters belong to Memorystore for Redis Cluster"},

	{"instances list --filter=name:full --sort-by=~name --page-size=1", map[string]string{"0.displayName": "Renamed"}, ""},
	{"operations list --filter=name:operation --limit=1 --page-size=2", map[string]string{"0.done": "true", "0.metadata.apiVersion": "v1"}, ""},
	{"regions list", map[string]string{"0.locationId": "local", "1.locationId": "us-central1"}, ""},
	{"zones list", map[string]string{"0.name": "us-central1-a"}, ""},
}

// Every command of gcloud redis instances, operations, regions and zones, with every argument, does what it says or is refused at once in words
// that say what to do; in all three tracks.
func TestGcloudEveryCommand(t *testing.T) {
	t.Parallel()
	need(t, "gcloud")
	s := startServer(t, serverOptions{})
	region := func(args string) []string {
		words := strings.Fields("redis " + args + " --quiet --format=json")
		if !strings.HasPrefix(args, "regions") {
			words = append(words, "--region=us-central1")
		}
		return words
	}
	for _, c := range gcloudCalls {
		r := run(s.gcloud(region(c.args)...))
		if c.refused != "" {
			if r.code == 0 || !strings.Contains(r.stderr, c.refused) || strings.Contains(r.stderr, "Unable to") {
				t.Errorf("%s: exit code %d, %s; want that it is refused because %q", c.args, r.code, r.stderr, c.refused)
			}
			continue
		}
		if r.code != 0 {
			t.Errorf("%s: %s", c.args, r.stderr)
			continue
		}
		wantFields(t, c.args, r.stdout, c.want)
	}

	// The other tracks use other versions of the API, which have all fields too.
	for _, track := range []string{"beta", "alpha"} {
		in := func(args string) *exec.Cmd { return s.gcloud(append([]string{track}, region(args)...)...) }
		id := "in-" + track
		s.mustRun(in("instances create " + id + " --size=1 --rdb-snapshot-period=24h"))
		wantFields(t, track, s.mustRun(in("instances update "+id+" --size=2 --display-name="+track+" --maintenance-window-day=friday --maintenance-window-hour=1")),
			map[string]string{"memorySizeGb": "2", "displayName": track, "persistenceConfig.persistenceMode": "RDB", "persistenceConfig.rdbSnapshotPeriod": "TWENTY_FOUR_HOURS"})
		wantFields(t, track, s.mustRun(in("instances describe "+id)), map[string]string{"state": "READY", "maintenancePolicy.maintenanceWindow.0.day": "FRIDAY"})
		if r := run(in("instances failover " + id)); r.code == 0 || !strings.Contains(r.stderr, "has no replica") {
			t.Errorf("%s failover: exit code %d, %s", track, r.code, r.stderr)
		}
		s.mustRun(in("instances delete " + id))
	}
	op := strings.TrimSpace(s.mustRun(s.gcloud("redis", "operations", "list", "--region=us-central1", "--limit=1", "--format=value(name.basename())")))
	s.mustRun(s.gcloud("redis", "operations", "cancel", op, "--region=us-central1", "--quiet"))
	wantFields(t, "operations describe", s.mustRun(s.gcloud("redis", "operations", "describe", op, "--region=us-central1", "--format=json")), map[string]string{"done": "true"})
	wantFields(t, "regions describe", s.mustRun(s.gcloud("redis", "regions", "describe", "us-central1", "--format=json")), map[string]string{"locationId": "us-central1"})
}

// wantFields compares fields of a JSON text, by dotted paths. The empty text stands for a field that is absent.
func wantFields(t *testing.T, what, text string, want map[string]string) {
	t.Helper()
	if len(want) == 0 {
		return
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("%s: %v: %s", what, err, text)
		return
	}
	for path, w := range want {
		at := v
		for key := range strings.SplitSeq(path, ".") {
			switch x := at.(type) {
			case map[string]any:
				at = x[key]
			case []any:
				at = nil
				if n, err := strconv.Atoi(key); err == nil && n < len(x) {
					at = x[n]
				}
			default:
				at = nil
			}
		}
		got := ""
		if at != nil {
			got = fmt.Sprint(at)
		}
		if got != w {
			t.Errorf("%s: %s is %q, want %q", what, path, got, w)
		}
	}
}
