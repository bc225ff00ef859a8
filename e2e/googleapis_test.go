package e2e_test

import (
	"path/filepath"
	"testing"
)

// Google's own client library for Node.js calls every method, over gRPC and over REST, without TLS, and its helpers find operations again.
func TestGoogleapisForNode(t *testing.T) {
	t.Parallel()
	testdata, err := filepath.Abs(filepath.Join("testdata", "googleapis"))
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, serverOptions{})
	for _, version := range []string{"v1", "v1beta1"} {
		for _, transport := range []string{"grpc", "rest"} {
			t.Run(version+" "+transport, func(t *testing.T) {
				c := node(t, s, testdata, "redis.mjs")
				c.Env = append(c.Env, "VERSION="+version, "TRANSPORT="+transport, "GRPC="+s.grpc, "REST="+s.api, "TOKEN_FILE="+filepath.Join(s.state, "admin.token"))
				tellStory(t, s, c, []string{"create", "get and list", "update", "refusals", "operations and locations", "delete"})
			})
		}
	}
}

// Google's API client for Python selects fields, sends long queries as POST, sends batches, and is refused without being made to try again.
func TestGoogleapisForPython(t *testing.T) {
	t.Parallel()
	testdata, err := filepath.Abs(filepath.Join("testdata", "googleapis"))
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, serverOptions{})
	c := python(t, s, "googleapiclient", filepath.Join(testdata, "redis_discovery.py"))
	c.Env = append(c.Env, "REST="+s.api, "TOKEN_FILE="+filepath.Join(s.state, "admin.token"))
	tellStory(t, s, c, []string{"create", "fields", "long query", "batch", "refusal", "delete"})
}
