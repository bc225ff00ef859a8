package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// withoutAPI are the commands that don't call the API.
var withoutAPI = map[string]bool{
	"serve": true, "stop": true, "version": true, "gateway": true, "audit": true, "sidecar": true, "completion": true, "help": true, "rehearse": true,
}

// flagsFor are flags without which a command asks for nothing.
var flagsFor = map[string][]string{
	"instances update": {"--display-name", "x"}, "instances delete": {"--quiet"}, "ca sample": {"--percent", "1", "--per-hour", "1"},
	"instances upgrade": {"--redis-version", "redis_7_2", "--quiet"}, "ca compromise": {"--quiet"}, "instances import": {"--quiet"},
	"instances reschedule-maintenance": {"--reschedule-type", "immediate"},
}

// argumentsOf makes up what a command's usage wants.
func argumentsOf(c *cobra.Command) []string {
	var args []string
	for _, word := range strings.Fields(c.Use)[1:] {
		switch {
		case strings.HasPrefix(word, "--"):
			return args // flags come last
		case strings.HasPrefix(word, "["):
		case strings.Contains(word, "gs://") || strings.Contains(word, "URI") || strings.Contains(word, "OBJECT"):
			args = append(args, "gs://bucket/object.rdb")
		case strings.ToUpper(word) == word:
			args = append(args, "first")
		}
	}
	return args
}

func leaves(c *cobra.Command) []*cobra.Command {
	if !c.HasSubCommands() {
		return []*cobra.Command{c}
	}
	var all []*cobra.Command
	for _, sub := range c.Commands() {
		if !withoutAPI[sub.Name()] || sub.Parent().HasParent() {
			all = append(all, leaves(sub)...)
		}
	}
	return all
}

// Every command, with a token that may nothing, says which permission is missing and who has it. A command that is not tried here
// doesn't call the API, and is in withoutAPI.
func TestEveryCommandSaysWhatItMayNot(t *testing.T) { // not parallel: it sets the environment
	const permission, resource = "redis.engines.restart", "projects/local/locations/local/instances/first"
	message := fmt.Sprintf("Permission '%s' denied on resource '//redis.googleapis.com/%s' (or it may not exist).", permission, resource)
	calls := 0
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls++
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"error":{"code":403,"status":"PERMISSION_DENIED","message":%q,"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo",
			"reason":"IAM_PERMISSION_DENIED","domain":"redis.googleapis.com","metadata":{"permission":%q,"resource":%q}}]}}`, message, permission, resource)
	}))
	defer api.Close()
	t.Setenv("SEALANE_API", api.URL)
	t.Setenv("SEALANE_TOKEN", "sealane_0123456789ab_not-much")
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	tried := 0
	for _, c := range leaves(newRoot(stdio{in: strings.NewReader(""), out: io.Discard, err: io.Discard})) {
		path := strings.Fields(c.CommandPath())[1:]
		args := append(append(path, argumentsOf(c)...), flagsFor[strings.Join(path, " ")]...)
		var out, errs bytes.Buffer
		calls = 0
		code := run(t.Context(), args, stdio{in: strings.NewReader("y\n"), out: &out, err: &errs})
		want := "sealane: error: " + message + "\nsealane: hint: "
		if code != exitFailed || calls == 0 || !strings.Contains(errs.String(), want) || !strings.HasSuffix(errs.String(), "roles/owner have it\n") || out.Len() > 0 {
			t.Errorf("sealane %s: exit code %d after %d calls, printed %q and\n%s", strings.Join(args, " "), code, calls, &out, &errs)
		}
		tried++
	}
	if tried < 30 {
		t.Errorf("only %d commands", tried)
	}
}
