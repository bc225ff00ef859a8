package e2e_test

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cloud.google.com/go/redis/apiv1/redispb"
	"github.com/googleapis/gax-go/v2/apierror"
	"google.golang.org/api/iterator"
	"google.golang.org/grpc/codes"
)

// token makes a token with the CLI.
func (s *server) newToken(flags ...string) string {
	s.t.Helper()
	out := run(s.command(append([]string{"tokens", "create"}, flags...)...))
	token := strings.TrimSpace(out.stdout)
	if out.code != 0 || !strings.HasPrefix(token, "sealane_") || strings.Contains(out.stderr, token) {
		s.t.Fatalf("tokens create %v: exit code %d, %s%s", flags, out.code, out.stdout, out.stderr)
	}
	return token
}

// tokenID is the public part of a token.
func tokenID(token string) string { return strings.Split(token, "_")[1] }

// The official client library tells by its own means what is missing and where.
func TestOfficialClientsWithLessThanEverything(t *testing.T) {
	t.Parallel()
	for _, transport := range transports {
		t.Run(transport.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, serverOptions{})
			s.create("i", "--project", "my-project", "--region", "us-central1", "--enable-auth")
			const name = usCentral + "/instances/i"
			viewer := transport.dial(t, s, s.newToken("--project", "my-project"))
			if i := must(viewer.GetInstance(t.Context(), &redispb.GetInstanceRequest{Name: name}))(t); i.GetName() != name {
				t.Errorf("get: %v", i)
			}
			_, err := viewer.GetInstanceAuthString(t.Context(), &redispb.GetInstanceAuthStringRequest{Name: name})
			wantDenied(t, err, "redis.instances.getAuthString", name)
			_, err = viewer.DeleteInstance(t.Context(), &redispb.DeleteInstanceRequest{Name: name})
			wantDenied(t, err, "redis.instances.delete", name)

			only := transport.dial(t, s, s.newToken("--role", "redis.editor", "--project", "my-project", "--region", "us-central1", "--instance", "i"))
			if auth := must(only.GetInstanceAuthString(t.Context(), &redispb.GetInstanceAuthStringRequest{Name: name}))(t); auth.GetAuthString() == "" {
				t.Error("the AUTH string is empty")
			}
			elsewhere := transport.dial(t, s, s.newToken("--role", "owner", "--project", "another"))
			_, err = elsewhere.GetInstance(t.Context(), &redispb.GetInstanceRequest{Name: name})
			wantDenied(t, err, "redis.instances.get", name)
			all := elsewhere.ListInstances(t.Context(), &redispb.ListInstancesRequest{Parent: "projects/another/locations/-"})
			if i, err := all.Next(); !errors.Is(err, iterator.Done) {
				t.Errorf("list: %v, %v; want nothing", i, err)
			}

			token := s.newToken("--project", "my-project")
			revoked := transport.dial(t, s, token)
			must(revoked.GetInstance(t.Context(), &redispb.GetInstanceRequest{Name: name}))(t)
			s.cli("tokens", "revoke", tokenID(token))
			_, err = revoked.GetInstance(t.Context(), &redispb.GetInstanceRequest{Name: name})
			wantCode(t, "a revoked token", err, codes.Unauthenticated)
			var e *apierror.APIError
			if !errors.As(err, &e) || e.Reason() != "TOKEN_REVOKED" || e.Metadata()["token"] != tokenID(token) {
				t.Errorf("a revoked token: %v", err)
			}
		})
	}
}

func wantDenied(t *testing.T, err error, permission, resource string) {
	t.Helper()
	wantCode(t, permission, err, codes.PermissionDenied)
	var e *apierror.APIError
	if !errors.As(err, &e) || e.Reason() != "IAM_PERMISSION_DENIED" || e.Domain() != "redis.googleapis.com" ||
		e.Metadata()["permission"] != permission || e.Metadata()["resource"] != resource {
		t.Errorf("got %v, want that %s is denied on %s", err, permission, resource)
	}
}

// gcloud shows the refusal at once, in the managed service's words.
func TestGcloudWithAViewersToken(t *testing.T) {
	t.Parallel()
	need(t, "gcloud")
	s := startServer(t, serverOptions{})
	s.create("i", "--project", "my-project", "--region", "us-central1", "--enable-auth")
	file := filepath.Join(s.base, "token")
	gcloud := func(token string, args ...string) result {
		t.Helper()
		s.write(file, token+"\n")
		c := s.program("gcloud", append([]string{"redis", "instances"}, args...)...)
		c.Env = append(c.Env,
			"CLOUDSDK_CONFIG="+filepath.Join(s.base, "gcloud"), "CLOUDSDK_API_ENDPOINT_OVERRIDES_REDIS="+s.api+"/",
			"CLOUDSDK_AUTH_ACCESS_TOKEN_FILE="+file, "CLOUDSDK_CORE_PROJECT=my-project",
			"CLOUDSDK_CORE_DISABLE_USAGE_REPORTING=true", "CLOUDSDK_SURVEY_DISABLE_PROMPTS=true",
			"CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK=true", "CLOUDSDK_CORE_CHECK_GCE_METADATA=false",
		)
		return run(c)
	}
	const region = "--region=us-central1"
	viewer := s.newToken("--project", "my-project")
	if out := gcloud(viewer, "describe", "i", region, "--format=value(state)"); out.code != 0 || strings.TrimSpace(out.stdout) != "READY" {
		t.Errorf("describe: %+v", out)
	}
	for _, c := range [][]string{
		{"redis.instances.getAuthString", "get-auth-string", "i", region},
		{"redis.instances.delete", "delete", "i", region, "--quiet"},
	} {
		out := gcloud(viewer, c[1:]...)
		want := "Permission '" + c[0] + "' denied on resource '//redis.googleapis.com/" + usCentral + "/instances/i' (or it may not exist)"
		if out.code == 0 || !strings.Contains(out.stderr, "PERMISSION_DENIED") || !strings.Contains(out.stderr, want) {
			t.Errorf("%s: got exit code %d, %q", c[1], out.code, out.stderr)
		}
		// It has not tried again: the log of calls has it once.
		if n := strings.Count(s.cli("audit", "list", "--calls"), "Z  "+tokenID(viewer)+" "); n != 1 {
			t.Errorf("%s: %d calls, want one", c[1], n)
		}
		viewer = s.newToken("--project", "my-project")
	}
	s.cli("tokens", "revoke", tokenID(viewer))
	out := gcloud(viewer, "describe", "i", region)
	if out.code == 0 || !strings.Contains(out.stderr, "the token "+tokenID(viewer)+" was revoked") {
		t.Errorf("a revoked token: got exit code %d, %q", out.code, out.stderr)
	}
}

// A sidecar's token can do no more than connect. When it is revoked, the sidecar's clients go on.
func TestASidecarsToken(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	s.create("first", "--enable-auth")
	token := s.newToken("--role", "redis.dbConnectionUser", "--instance", "first")
	side := s.startSidecarWith([]string{"SEALANE_TOKEN=" + token}, "--instance", "first")
	client := side.stream("counter", nil)
	c := s.command("instances", "update", "first", "--display-name", "x")
	c.Env = append(c.Env, "SEALANE_TOKEN="+token)
	if out := run(c); out.code == 0 || !strings.Contains(out.stderr, "'redis.instances.update' denied") {
		t.Errorf("update: %+v", out)
	}
	if calls := s.cli("audit", "list", "--calls"); !strings.Contains(calls, tokenID(token)) || !strings.Contains(calls, "GetInstanceAuthString") {
		t.Errorf("the log of calls doesn't say that the sidecar read the password:\n%s", calls)
	}
	s.cli("tokens", "revoke", tokenID(token))
	client.wantUnnoticed(t)
	if strings.Contains(side.stderr.String()+side.stdout.String()+s.stderr.String(), token) {
		t.Error("the token is in a log")
	}
}

// What was answered holds, however the server ends.
func TestTokensSurviveAKilledServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	kept, revoked := s.newToken("--expires", "never"), s.newToken()
	s.cli("tokens", "revoke", tokenID(revoked))
	s.signal(syscall.SIGKILL)
	s.start()
	list := func(token string) result {
		c := s.command("instances", "list")
		c.Env = append(c.Env, "SEALANE_TOKEN="+token)
		return run(c)
	}
	if out := list(kept); out.code != 0 {
		t.Errorf("a token of before: %+v", out)
	}
	if out := list(revoked); out.code != 1 || !strings.Contains(out.stderr, "was revoked") {
		t.Errorf("a revoked one: %+v", out)
	}
	if out := s.cli("audit", "verify"); !strings.Contains(out, "log of calls is whole") {
		t.Errorf("verify: %s", out)
	}
}
