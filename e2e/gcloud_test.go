package e2e_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// gcloud works unchanged once it is told where the API is.
func TestGcloud(t *testing.T) {
	t.Parallel()
	need(t, "gcloud")
	s := startServer(t, serverOptions{})
	gcloud := func(args ...string) *exec.Cmd {
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
