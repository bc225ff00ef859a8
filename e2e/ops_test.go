package e2e_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Anyone who can connect to an ops listener may ask whether the process is well. Everything else needs the token, and web pages get
// nothing.
func TestOpsListenersKnowWhoAsks(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	s.create("first")
	side := s.startSidecarWith([]string{"SEALANE_SIDECAR_ALLOW_QUIT=true"}, "--instance", "first")
	open := s.startSidecarWith([]string{"SEALANE_SIDECAR_METRICS=anyone"}, "--instance", "first", "--ops", "localhost:0")
	file := filepath.Join(s.state, "ops.token")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
	raw, _ := os.ReadFile(file)
	token := "Bearer " + strings.TrimSpace(string(raw))
	admin, _ := os.ReadFile(filepath.Join(s.state, "admin.token"))
	if string(admin) == string(raw) {
		t.Error("who may read the metrics may do everything")
	}
	ask := func(method, ops, path string, headers ...string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+ops+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
			if headers[i] == "Host" {
				req.Host = headers[i+1]
			}
		}
		resp, err := apiClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	want := func(code int, words, method, ops, path string, headers ...string) {
		t.Helper()
		if got, text := ask(method, ops, path, headers...); got != code || !strings.Contains(text, words) {
			t.Errorf("%s %s %q: %d %.200q; want %d and %q", method, path, headers, got, text, code, words)
		}
	}
	for _, ops := range []string{s.ops, side.ops} {
		want(200, "ok", "GET", ops, "/livez")
		want(200, "ok", "GET", ops, "/readyz")
		want(401, "wants a token", "GET", ops, "/metrics")
		want(401, file, "GET", ops, "/debug/pprof/heap")
		want(401, "wants a token", "GET", ops, "/metrics", "Authorization", "Bearer "+strings.TrimSpace(string(admin)))
		want(200, "sealane_", "GET", ops, "/metrics", "Authorization", token)
		want(200, "sealane_", "GET", ops, "/metrics", "Authorization", token, "Host", "db1.example.com")
		want(200, "goroutine", "GET", ops, "/debug/pprof/", "Authorization", token)
		want(403, "asked by the name", "GET", ops, "/readyz", "Host", "rebound.example:7380")
		want(403, "web pages", "GET", ops, "/metrics", "Authorization", token, "Origin", "https://page.example")
	}
	_, port, _ := net.SplitHostPort(open.ops)
	if open.ops != "localhost:"+port {
		t.Errorf("--ops localhost:0 is %s", open.ops)
	}
	for _, ip := range []string{"127.0.0.1", "::1"} {
		if c, err := net.Dial("tcp", net.JoinHostPort(ip, port)); err == nil {
			c.Close()
		} else if ip == "127.0.0.1" || errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("--ops localhost:%s is not at %s: %v", port, ip, err)
		}
	}
	want(200, "sealane_sidecar_ready", "GET", open.ops, "/metrics")
	want(401, "wants a token", "GET", open.ops, "/debug/pprof/heap")
	want(403, "asked by the name", "GET", open.ops, "/metrics", "Host", "rebound.example:7380")
	want(403, "web pages", "POST", side.ops, "/quit", "X-Sealane-Quit", "1", "Origin", "https://page.example")
	want(403, "asked by the name", "POST", side.ops, "/quit", "X-Sealane-Quit", "1", "Host", "rebound.example:7380")
	if isClosed(side.ended) {
		t.Error("a web page ended the sidecar")
	}
	want(200, "ok", "POST", side.ops, "/quit", "X-Sealane-Quit", "1")
	if strings.Contains(s.stderr.String()+side.stderr.String(), strings.TrimSpace(string(raw))) {
		t.Error("the token is in a log")
	}
}
