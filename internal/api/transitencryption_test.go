package api_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/plaintext"
)

const transitEncryption = first + "/transitEncryption"

// The whole way over REST. The Memorystore API shows what it showed before, until plaintext is closed.
func TestTransitEncryptionOverREST(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", basic)
	s.nodes.set(func(n *nodes) {
		n.status = gateway.Status{Clients: 5, Plaintext: &plaintext.Counts{Connections: 2}}
		n.plaintext = plaintext.Account{Since: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), Connected: []plaintext.Connected{
			{Identity: ledger.Identity{Address: netip.MustParseAddr("10.0.0.7"), Name: "web", Library: "redis-py", User: "default"}, Connections: 2},
		}}
	})
	shows := func(what string, got object, want string) {
		t.Helper()
		text := fmt.Sprintf("%v %v %v %v", got["mode"], got["tlsPort"], got["plaintextPort"], got["safeToEnforce"])
		if text != want {
			t.Errorf("%s: %s; want %s: %v", what, text, want, got)
		}
	}
	memorystore := func(what, want string) {
		t.Helper()
		i := s.ok("GET", first, "")
		cas, _ := i["serverCaCerts"].([]any)
		if text := fmt.Sprintf("%v %v %d", i["transitEncryptionMode"], i["port"], len(cas)); text != want {
			t.Errorf("%s: the Memorystore API shows %s; want %s", what, text, want)
		}
	}
	shows("created", s.ok("GET", transitEncryption, ""), "DISABLED <nil> 6379 <nil>")
	memorystore("created", "DISABLED 6379 0")

	shows("preferred", s.ok("POST", transitEncryption+":prefer", ""), "PREFERRED 6378 6379 <nil>")
	memorystore("preferred", "DISABLED 6379 1")
	clients := s.ok("GET", transitEncryption+":plaintextClients", "")
	if c := clients["clients"].([]any)[0].(object); c["address"] != "10.0.0.7" || c["clientName"] != "web" || c["library"] != "redis-py" || c["user"] != "default" || c["connections"] != 2.0 || clients["countedSinceTime"] == nil {
		t.Errorf("clients: %v", clients)
	}
	got := s.ok("GET", transitEncryption+"?unseenFor=3600s", "")
	if fmt.Sprintf("%v %v %v", got["unseenFor"], got["plaintextConnections"], got["tlsConnections"]) != "3600s 2 3" || !strings.Contains(fmt.Sprint(got["reasons"]), `name="web"`) {
		t.Errorf("got %v", got)
	}

	// What a sidecar's token may see names no other client.
	_, secret := s.token("redis.dbConnectionUser=projects/p1")
	if code, v := s.doAs("Bearer "+secret, "GET", transitEncryption, ""); code != 200 || v["mode"] != "PREFERRED" || v["tlsPort"] != 6378.0 || strings.Contains(fmt.Sprint(v), "web") {
		t.Errorf("with the role of clients: %d, %v", code, v)
	}

	code, v := s.do("POST", transitEncryption+":enforce", `{}`)
	if text := fmt.Sprint(v); code != 400 || !strings.Contains(text, "PLAINTEXT_CLIENTS") || !strings.Contains(text, `1 client is connected without TLS: 10.0.0.7 name="web"`) {
		t.Errorf("enforce: %d, %v", code, v)
	}
	for body, says := range map[string]string{
		`{"unseenFor":"0s"}`: "unseen_for", `{"unseenFor":"-1s"}`: "unseen_for", `{"unseenFor":"9999999s"}`: "at most the 90 days", `{"unseenFor":"soon"}`: "Duration",
		`{"colour":"red"}`: "colour", `{"force":"perhaps"}`: "force",
	} {
		if code, v := s.do("POST", transitEncryption+":enforce", body); code != 400 || !strings.Contains(fmt.Sprint(v), says) {
			t.Errorf("enforce with %s: %d, %v; want it to say %q", body, code, v, says)
		}
	}
	s.nodes.set(func(n *nodes) { n.status = gateway.Status{Clients: 3, Plaintext: &plaintext.Counts{}} })
	got = s.ok("POST", transitEncryption+":enforce", `{"force":true}`)
	shows("enforced", got, "SERVER_AUTHENTICATION 6378 <nil> <nil>")
	if cut, _ := got["cutClients"].([]any); len(cut) != 1 || got["enforceTime"] == nil {
		t.Errorf("enforced: %v", got)
	}
	memorystore("enforced", "SERVER_AUTHENTICATION 6378 1")

	if code, v := s.do("POST", transitEncryption+":prefer", `{}`); code != 400 || !strings.Contains(fmt.Sprint(v), "PLAINTEXT_NOT_ALLOWED") {
		t.Errorf("prefer without allow_plaintext: %d, %v", code, v)
	}
	shows("rolled back", s.ok("POST", transitEncryption+":rollback", ""), "PREFERRED 6378 6379 <nil>")
	memorystore("rolled back", "DISABLED 6379 1")
	if code, v := s.do("POST", transitEncryption+":disable", `{}`); code != 400 || !strings.Contains(fmt.Sprint(v), "TLS_CLIENTS") {
		t.Errorf("disable: %d, %v", code, v)
	}
	shows("disabled", s.ok("POST", transitEncryption+":disable", `{"force":true}`), "DISABLED <nil> 6379 <nil>")

	for _, path := range []string{"/v1/projects/p1/locations/local/instances/nobody/transitEncryption", first + "/transitEncryptions"} {
		if code, _ := s.do("GET", path, ""); code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
}
