package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// terraformSteps are what becomes of a configuration, one step after another: each is applied in place, and a plan after it finds no difference.
var terraformSteps = []struct {
	name, config string
	want         map[string]string // fields of the instance afterwards
}{
	{"create", `memory_size_gb = 1
		redis_configs = { maxmemory-policy = "allkeys-lru", timeout = "60" }
		auth_enabled = true
		display_name = "Terraform"
		labels = { team = "web" }
		reserved_ip_range = "10.20.30.0/29"
		persistence_config {
			persistence_mode = "RDB"
			rdb_snapshot_period = "SIX_HOURS"
		}
		maintenance_policy {
			weekly_maintenance_window {
				day = "SUNDAY"
				start_time {
					minutes = 30
				}
			}
		}`, map[string]string{"state": "READY", "authEnabled": "true", "maintenancePolicy.weeklyMaintenanceWindow.0.startTime.minutes": "30", "persistenceConfig.rdbSnapshotPeriod": "SIX_HOURS"}},
	{"scale up", `memory_size_gb = 3
		redis_configs = { maxmemory-policy = "allkeys-lru", timeout = "60" }
		auth_enabled = true
		display_name = "Terraform"
		labels = { team = "web" }
		reserved_ip_range = "10.20.30.0/29"
		persistence_config {
			persistence_mode = "RDB"
			rdb_snapshot_period = "SIX_HOURS"
		}`, map[string]string{"memorySizeGb": "3", "maintenancePolicy.weeklyMaintenanceWindow.0.day": ""}},
	{"another period, other parameters", `memory_size_gb = 3
		redis_configs = { maxmemory-policy = "noeviction", notify-keyspace-events = "Ex" }
		auth_enabled = true
		display_name = "Renamed"
		labels = { team = "web", env = "prod" }
		reserved_ip_range = "10.20.30.0/29"
		persistence_config {
			persistence_mode = "RDB"
			rdb_snapshot_period = "ONE_HOUR"
			rdb_snapshot_start_time = "2040-01-01T00:00:00Z"
		}
		maintenance_policy {
			description = "nights"
			weekly_maintenance_window {
				day = "MONDAY"
				start_time {
					hours = 4
				}
			}
		}`, map[string]string{"redisConfigs.timeout": "", "redisConfigs.notify-keyspace-events": "Ex", "labels.env": "prod", "persistenceConfig.rdbNextSnapshotTime": "2040-01-01T00:00:00Z"}},
	{"all of it taken away", `memory_size_gb = 1
		reserved_ip_range = "10.20.30.0/29"
		persistence_config {
			persistence_mode = "DISABLED"
		}`, map[string]string{"memorySizeGb": "1", "redisConfigs.maxmemory-policy": "", "displayName": "", "labels.env": "", "authEnabled": "", "persistenceConfig.persistenceMode": "DISABLED"}},
}

// terraformLimit is how long a change by Terraform may take.
const terraformLimit = 4 * time.Second

// terraformProvider is read here because TestMain removes such variables.
var terraformProvider = os.Getenv("SEALANE_TERRAFORM_PROVIDER")

// The real provider creates, changes in place, imports and destroys, and each takes seconds. Its binary is not in the registries, so it has to
// be given: SEALANE_TERRAFORM_PROVIDER is the file terraform-provider-google, built from its source. TestTerraformReplay sends its calls anyway.
func TestTerraformProvider(t *testing.T) {
	t.Parallel()
	need(t, "terraform")
	provider := terraformProvider
	if provider == "" {
		t.Skip("NOT TESTED WITH THE REAL TERRAFORM PROVIDER: SEALANE_TERRAFORM_PROVIDER names no file terraform-provider-google")
	}
	// With a newer engine there is one step more.
	options, newest := serverOptions{}, ""
	found := versions(t)
	if older, newer := found["REDIS_7_0"], found["REDIS_8_0"]; len(older) > 0 && len(newer) > 0 {
		options.config, newest = withEngines(older[0], newer[0]), "REDIS_8_0"
	} else {
		t.Log("NOT TESTED WITH AN UPGRADE BY TERRAFORM: it needs engines of REDIS_7_0 and REDIS_8_0")
	}
	s := startServer(t, options)
	tf := &terraformFolder{t: t, s: s, dir: t.TempDir(), tier: "BASIC"}
	s.write(filepath.Join(tf.dir, "terraform.rc"), fmt.Sprintf("provider_installation {\n  dev_overrides { \"hashicorp/google\" = %q }\n  direct {}\n}\n", filepath.Dir(provider)))
	const name = "/v1/projects/local/locations/us-central1/instances/cache"
	for _, step := range terraformSteps {
		tf.write(step.config)
		tf.apply(step.name)
		if r := tf.run("plan", "-detailed-exitcode"); r.code != 0 {
			t.Errorf("%s: a plan afterwards finds a difference:\n%s%s", step.name, r.stdout, r.stderr)
		}
		wantFields(t, step.name, string(s.rest("GET", name, "").body), step.want)
	}
	if r := tf.run("state", "show", "google_redis_instance.cache"); !regexp.MustCompile(`effective_reserved_ip_range += "10\.20\.30\.0/29"`).MatchString(r.stdout) ||
		!regexp.MustCompile(`persistence_iam_identity += "serviceAccount:`).MatchString(r.stdout) {
		t.Errorf("state: %s", r.stdout)
	}
	// What doesn't go together is said, and said at once.
	last := terraformSteps[len(terraformSteps)-1].config
	tf.write(last + "\nreplica_count = 2\nread_replicas_mode = \"READ_REPLICAS_ENABLED\"")
	began := time.Now()
	if r := tf.run("apply", "-auto-approve"); r.code == 0 || !strings.Contains(r.stderr, "STANDARD_HA") || time.Since(began) > 30*time.Second {
		t.Errorf("replicas: exit code %d after %v:\n%s", r.code, time.Since(began), r.stderr)
	}
	// The provider doesn't read reserved_ip_range back, so an imported instance would be replaced for it, here as at the managed service.
	imported := strings.Replace(last, `reserved_ip_range = "10.20.30.0/29"`, "", 1)
	tf.write(imported)
	tf.run("state", "rm", "google_redis_instance.cache")
	if r := tf.run("import", "google_redis_instance.cache", "projects/local/locations/us-central1/instances/cache"); r.code != 0 {
		t.Errorf("import: %s%s", r.stdout, r.stderr)
	}
	if r := tf.run("plan"); r.code != 0 || strings.Contains(r.stdout, "must be replaced") {
		t.Errorf("plan after the import: %s%s", r.stdout, r.stderr)
	}
	if newest != "" {
		tf.write(imported + "\nredis_version = \"" + newest + "\"")
		tf.apply("upgrade")
		wantFields(t, "upgrade", string(s.rest("GET", name, "").body), map[string]string{"redisVersion": newest, "state": "READY"})
	}
	tf.timed("destroy", tf.run("destroy", "-auto-approve"))
	if r := s.rest("GET", name, ""); r.code != 404 {
		t.Errorf("after the destroy: %d, %s", r.code, r.body)
	}

	tf.tier = "STANDARD_HA"
	for _, step := range terraformStandardSteps {
		tf.write(step.config)
		tf.apply(step.name)
		if r := tf.run("plan", "-detailed-exitcode"); r.code != 0 {
			t.Errorf("%s: a plan afterwards finds a difference:\n%s%s", step.name, r.stdout, r.stderr)
		}
		wantFields(t, step.name, string(s.rest("GET", name, "").body), step.want)
	}
	tf.timed("destroy", tf.run("destroy", "-auto-approve"))
}

// terraformStandardSteps are terraformSteps of an instance of tier STANDARD_HA.
var terraformStandardSteps = []struct {
	name, config string
	want         map[string]string
}{
	{"create with a replica", `memory_size_gb = 5`, map[string]string{"tier": "STANDARD_HA", "replicaCount": "1", "alternativeLocationId": "us-central1-b", "nodes.1.id": "node-1"}},
	{"enable read replicas", `memory_size_gb = 5
		read_replicas_mode = "READ_REPLICAS_ENABLED"
		secondary_ip_range = "auto"`, map[string]string{"replicaCount": "2", "readEndpointPort": "6378", "nodes.2.id": "node-2"}},
	{"more replicas", `memory_size_gb = 5
		read_replicas_mode = "READ_REPLICAS_ENABLED"
		secondary_ip_range = "auto"
		replica_count = 3`, map[string]string{"replicaCount": "3", "nodes.3.id": "node-3"}},
	{"fewer replicas, and more memory", `memory_size_gb = 6
		read_replicas_mode = "READ_REPLICAS_ENABLED"
		secondary_ip_range = "auto"
		replica_count = 1`, map[string]string{"replicaCount": "1", "memorySizeGb": "6", "nodes.2.id": "", "state": "READY"}},
}

// terraformFolder is a folder with a configuration.
type terraformFolder struct {
	t    *testing.T
	s    *server
	dir  string
	tier string
}

func (tf *terraformFolder) write(config string) {
	tf.s.write(filepath.Join(tf.dir, "main.tf"), fmt.Sprintf(`
		provider "google" {
			project               = "local"
			region                = "us-central1"
			redis_custom_endpoint = "%s/v1/"
			access_token          = trimspace(file(%q))
		}
		resource "google_redis_instance" "cache" {
			name                    = "cache"
			tier                    = %q
			transit_encryption_mode = "SERVER_AUTHENTICATION"
			deletion_protection     = false
			%s
		}`, tf.s.api, filepath.Join(tf.s.state, "admin.token"), tf.tier, config))
}

func (tf *terraformFolder) run(args ...string) result {
	c := exec.Command("terraform", append(args, "-no-color")...)
	if args[0] == "state" || args[0] == "import" {
		c = exec.Command("terraform", args...)
	}
	c.Dir = tf.dir
	c.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+filepath.Join(tf.dir, "terraform.rc"), "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1", "TF_CLI_ARGS=-no-color")
	return run(c)
}

func (tf *terraformFolder) apply(what string) {
	tf.t.Helper()
	r := tf.run("apply", "-auto-approve")
	if r.code != 0 || strings.Contains(r.stdout, "must be replaced") {
		tf.t.Fatalf("%s: %s%s", what, r.stdout, r.stderr)
	}
	tf.timed(what, r)
}

var completeAfter = regexp.MustCompile(`(?:Creation|Modifications|Destruction) complete after (\d+)s`)

// timed checks how long Terraform says that a change has taken.
func (tf *terraformFolder) timed(what string, r result) {
	tf.t.Helper()
	m := completeAfter.FindStringSubmatch(r.stdout)
	if m == nil {
		tf.t.Errorf("%s: nothing is complete:\n%s%s", what, r.stdout, r.stderr)
		return
	}
	seconds, _ := strconv.Atoi(m[1])
	tf.t.Logf("%s: %d s", what, seconds)
	if took := time.Duration(seconds) * time.Second; took > terraformLimit {
		tf.t.Errorf("%s took %v, want %v at most", what, took, terraformLimit)
	}
}
