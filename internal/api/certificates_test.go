package api_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/redis/apiv1/redispb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/ledger"
)

const certificates = first + "/certificates"

var encrypted = strings.Replace(basic, "{", `{"transitEncryptionMode":"SERVER_AUTHENTICATION",`, 1)

// caStates are the states of the CAs in an answer, oldest first.
func caStates(v object) string {
	var states []string
	for _, a := range v["authorities"].([]any) {
		states = append(states, a.(object)["state"].(string))
	}
	return strings.Join(states, " ")
}

func keys(v any) string {
	var all []string
	for k := range v.(object) {
		all = append(all, k)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestCertificatesOverREST(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", encrypted)
	got := s.ok("GET", certificates, "")
	if got["name"] != "projects/p1/locations/local/instances/first/certificates" || caStates(got) != "SIGNING" {
		t.Errorf("got %v", got)
	}
	if want := "authorities leaf name upcoming"; keys(got) != want {
		t.Errorf("fields %s; want %s", keys(got), want)
	}
	ca, leaf := got["authorities"].([]any)[0].(object), got["leaf"].(object)
	if want := "activateTime cert generation notAfter notBefore serialNumber sha1Fingerprint sha256Fingerprint signs state"; keys(ca) != want {
		t.Errorf("a CA has %s; want %s", keys(ca), want)
	}
	if want := "cert issuerGeneration names notAfter notBefore renewalTime serialNumber sha1Fingerprint sha256Fingerprint"; keys(leaf) != want {
		t.Errorf("the leaf has %s; want %s", keys(leaf), want)
	}
	// The same CA as the Memorystore API shows.
	shown := s.ok("GET", first, "")["serverCaCerts"].([]any)[0].(object)
	if ca["cert"] != shown["cert"] || ca["serialNumber"] != shown["serialNumber"] || ca["sha1Fingerprint"] != shown["sha1Fingerprint"] || ca["notAfter"] != shown["expireTime"] {
		t.Errorf("CA %v; the Memorystore API shows %v", ca, shown)
	}
	if next := got["upcoming"].([]any)[0].(object); keys(next) != "action generation reason time" || next["action"] != "issue-leaf" {
		t.Errorf("next is %v", next)
	}

	rotated := s.ok("POST", certificates+":rotateLeaf", "{}")
	if l := rotated["leaf"].(object); l["serialNumber"] == leaf["serialNumber"] || caStates(rotated) != "SIGNING" {
		t.Errorf("after a new leaf: %v", rotated)
	}
	if got := s.ok("POST", certificates+":rotateCa", ""); caStates(got) != "SIGNING PUBLISHED" {
		t.Errorf("after rotateCa: %s", caStates(got))
	}
	if n := len(s.ok("GET", first, "")["serverCaCerts"].([]any)); n != 2 {
		t.Errorf("the Memorystore API shows %d CAs", n)
	}
	code, v := s.do("POST", certificates+":rotateCa", "{}")
	s.refused(400, "FAILED_PRECONDITION", v, code, "retire CA-1 first")
	for _, body := range []string{"", "{}", `{"force":false}`} {
		code, v = s.do("POST", certificates+":activateCa", body)
		s.refused(400, "FAILED_PRECONDITION", v, code, "CA-2 is to sign from", "not known that any client trusts CA-2", "force it")
	}
	got = s.ok("POST", certificates+":activateCa", `{"force":true}`)
	if caStates(got) != "RETIRING CROSS_SIGNED" || got["crossCertificateServed"] != true || got["authorities"].([]any)[1].(object)["crossSignedBy"] != 1.0 {
		t.Errorf("after activateCa: %v", got)
	}
	code, v = s.do("POST", certificates+":retireCa", "{}")
	s.refused(400, "FAILED_PRECONDITION", v, code, "CA-1 is to leave the bundle", "force it")
	if got := s.ok("POST", certificates+":retireCa", `{"force":true}`); caStates(got) != "RETIRED SIGNING" || got["crossCertificateServed"] != nil {
		t.Errorf("after retireCa: %v", got)
	}
	if got := s.ok("POST", certificates+":compromiseCa", `{"generation":2}`); caStates(got) != "RETIRED COMPROMISED SIGNING" {
		t.Errorf("after compromiseCa: %s", caStates(got))
	}
	// It is no operation.
	if ops := s.ok("GET", "/v1/projects/p1/locations/local/operations", "")["operations"].([]any); len(ops) != 1 {
		t.Errorf("operations: %v", ops)
	}
}

// Name constraints are asked for in a header over REST, in metadata over gRPC, and in a rotation's message.
func TestNameConstraintsAreAskedFor(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	constrained := func(v object) string {
		var out []string
		for _, a := range v["authorities"].([]any) {
			out = append(out, fmt.Sprint(a.(object)["nameConstraints"] == true))
		}
		return strings.Join(out, " ")
	}
	create := func(id, header string) (int, object) {
		return s.doWith(http.Header{"Authorization": {"Bearer " + token}, "Sealane-Ca-Name-Constraints": {header}}, "POST", instances+"?instanceId="+id, encrypted)
	}
	code, v := create("first", "yes")
	s.refused(400, "INVALID_ARGUMENT", v, code, `sealane-ca-name-constraints`, `"yes": want true or false`)
	if code, v = create("first", "true"); code != http.StatusOK {
		t.Fatalf("create: %d, %v", code, v)
	}
	s.done(v)
	if got := constrained(s.ok("GET", certificates, "")); got != "true" {
		t.Errorf("over REST: %s; want true", got)
	}
	if got := constrained(s.ok("POST", certificates+":rotateCa", "{}")); got != "true true" {
		t.Errorf("the next generation, which nothing is said of: %s", got)
	}
	if got := constrained(s.ok("POST", certificates+":compromiseCa", "{}")); got != "true true true" {
		t.Errorf("after all were given up: %s", got)
	}
	got := s.ok("POST", certificates+":rotateCa", `{"nameConstraints":false}`)
	if constrained(got) != "true true true false" || !strings.Contains(fmt.Sprint(got["warnings"]), "CA-3 has name constraints, and rustls (valkey-glide, Deno, redis-rs)") {
		t.Errorf("without: %s, warnings %v", constrained(got), got["warnings"])
	}

	ctx := metadata.AppendToOutgoingContext(authorized(t), "sealane-ca-name-constraints", "true")
	op, err := redispb.NewCloudRedisClient(s.grpc).CreateInstance(ctx, &redispb.CreateInstanceRequest{
		Parent: "projects/p1/locations/local", InstanceId: "second",
		Instance: &redispb.Instance{MemorySizeGb: 1, Tier: redispb.Instance_BASIC, TransitEncryptionMode: redispb.Instance_SERVER_AUTHENTICATION},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.done(s.ok("GET", "/v1/"+op.GetName(), ""))
	if got := constrained(s.ok("GET", instances+"/second/certificates", "")); got != "true" {
		t.Errorf("over gRPC: %s; want true", got)
	}
}

func TestCertificatesThatCannotBeChanged(t *testing.T) {
	t.Parallel()
	s := newServer(t, answerAtOnce)
	s.create("bare", basic)
	for _, verb := range []string{":rotateCa", ":activateCa", ":retireCa", ":compromiseCa", ":rotateLeaf", ""} {
		method := "POST"
		if verb == "" {
			method = "GET"
		}
		for _, c := range []struct {
			path, body, status string
			code               int
			says               string
		}{
			{certificates + verb, "", "NOT_FOUND", 404, "Resource 'projects/p1/locations/local/instances/first' was not found"},
			{instances + "/Bad/certificates" + verb, "", "INVALID_ARGUMENT", 400, `name: `},
			{instances + "/bare/certificates" + verb, "", "FAILED_PRECONDITION", 400, "has no encryption"},
			{instances + "/bare/certificates" + verb + "?colour=red", "", "INVALID_ARGUMENT", 400, "colour"},
		} {
			code, v := s.do(method, c.path, c.body)
			s.refused(c.code, c.status, v, code, c.says)
		}
	}
	code, v := s.do("POST", certificates+":rotateCa", `{"force":true}`)
	s.refused(400, "INVALID_ARGUMENT", v, code, "force")
	code, v = s.do("POST", certificates+":compromiseCa", `{"generation":-1}`)
	s.refused(400, "INVALID_ARGUMENT", v, code, "generation: -1: want")
	code, v = s.do("DELETE", certificates, "")
	s.refused(405, "UNIMPLEMENTED", v, code, "DELETE is not offered at")
	code, v = s.do("POST", certificates+":frobnicate", "{}")
	s.refused(404, "NOT_FOUND", v, code)

	s.nodes.set(func(n *nodes) { n.hold = true })
	op := s.ok("POST", instances+"?instanceId=first", encrypted)
	code, v = s.do("POST", certificates+":rotateLeaf", "{}")
	s.refused(400, "FAILED_PRECONDITION", v, code, "is in state CREATING: wait for "+op["name"].(string))
}

func TestCertificatesOverGRPC(t *testing.T) {
	t.Parallel()
	s := newServer(t, answerAtOnce)
	s.create("first", encrypted)
	certs, ctx := sealanepb.NewCertificatesClient(s.grpc), authorized(t)
	const name = "projects/p1/locations/local/instances/first/certificates"
	states := func(got *sealanepb.InstanceCertificates, err error) string {
		if err != nil {
			return err.Error()
		}
		var all []string
		for _, ca := range got.GetAuthorities() {
			all = append(all, fmt.Sprintf("%d:%s", ca.GetGeneration(), ca.GetState()))
		}
		return strings.Join(all, " ")
	}
	for _, step := range []struct {
		got, want string
	}{
		{states(certs.GetCertificates(ctx, &sealanepb.GetCertificatesRequest{Name: name})), "1:SIGNING"},
		{states(certs.RotateLeaf(ctx, &sealanepb.RotateLeafRequest{Name: name})), "1:SIGNING"},
		{states(certs.RotateCa(ctx, &sealanepb.RotateCaRequest{Name: name})), "1:SIGNING 2:PUBLISHED"},
		{states(certs.SetSampling(ctx, &sealanepb.SetSamplingRequest{Name: name, Percent: 1, PerHour: 1})), "1:SIGNING 2:PUBLISHED"},
		{states(certs.ActivateCa(ctx, &sealanepb.ActivateCaRequest{Name: name, Force: true})), "1:RETIRING 2:CROSS_SIGNED"},
		{states(certs.RetireCa(ctx, &sealanepb.RetireCaRequest{Name: name, Force: true})), "1:RETIRED 2:SIGNING"},
		{states(certs.CompromiseCa(ctx, &sealanepb.CompromiseCaRequest{Name: name})), "1:COMPROMISED 2:COMPROMISED 3:SIGNING"},
	} {
		if step.got != step.want {
			t.Errorf("got %s; want %s", step.got, step.want)
		}
	}
	if got, err := certs.ListClients(ctx, &sealanepb.ListClientsRequest{Name: name}); err != nil || got.GetGeneration() != 3 || len(got.GetClients()) != 0 {
		t.Errorf("clients: %v, %v", got, err)
	}
	for _, bad := range []string{"", "certificates", "projects/p1/locations/local/instances/first", name + "/certificates", "projects/p1/locations/local/instances//certificates"} {
		_, err := certs.RotateCa(ctx, &sealanepb.RotateCaRequest{Name: bad})
		st := status.Convert(err)
		if st.Code() != codes.InvalidArgument || len(st.Details()) != 1 || st.Details()[0].(*errdetails.BadRequest).GetFieldViolations()[0].GetField() != "name" {
			t.Errorf("name %q: %v", bad, err)
		}
	}
	if _, err := certs.GetCertificates(t.Context(), &sealanepb.GetCertificatesRequest{Name: name}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: %v", err)
	}
	s.nodes.set(func(n *nodes) { n.hold = true })
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := certs.RotateLeaf(short, &sealanepb.RotateLeafRequest{Name: name}); status.Code(err) != codes.Unavailable && status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("while the gateway is down: %v", err)
	}
}

// Who the clients are, and the sampling of them.
func TestClientsOfCertificates(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", encrypted)
	if got := s.ok("GET", certificates+":clients", ""); got["generation"] != 1.0 || got["clients"] != nil {
		t.Errorf("without clients: %v", got)
	}
	code, v := s.do("POST", certificates+":setSampling", `{"percent":1,"perHour":5}`)
	s.refused(400, "FAILED_PRECONDITION", v, code, "start the next generation first")
	got := s.ok("POST", certificates+":rotateCa", "")
	seen := ledger.NewTable(10)
	now := time.Now()
	for at, ca := range got["authorities"].([]any) {
		label := ca.(object)["sha256Fingerprint"].(string)
		seen.Seen(ledger.Identity{Address: netip.MustParseAddr("10.0.0.1"), Name: "web", Library: "redis-py", User: "default"},
			ledger.Handshake{At: now, Anchors: []string{label}}, now)
		if at == 1 {
			seen.Failed(netip.MustParseAddr("10.0.0.2"), []string{label}, ledger.UnknownCA, now)
		}
	}
	s.nodes.set(func(n *nodes) { n.ledger = seen.Ledger() })
	clients := s.ok("GET", certificates+":clients", "")["clients"].([]any)
	if len(clients) != 2 {
		t.Fatalf("clients: %v", clients)
	}
	if web := clients[0].(object); web["readiness"] != "UNKNOWN" || fmt.Sprint(web["missingTests"]) != "[cross.ca-next.sealane.invalid]" {
		t.Errorf("who has shown half of it: %v", web)
	}
	s.nodes.set(func(n *nodes) {
		seen.Seen(ledger.Identity{Address: netip.MustParseAddr("10.0.0.1"), Name: "web", Library: "redis-py", User: "default"},
			ledger.Handshake{At: now, Anchors: n.given.NextCross.Anchors}, now)
		n.ledger = seen.Ledger()
	})
	clients = s.ok("GET", certificates+":clients", "")["clients"].([]any)
	bad, good := clients[0].(object), clients[1].(object)
	if bad["readiness"] != "FAILED" || bad["failure"] != "unknown_ca" || bad["address"] != "10.0.0.2" || bad["user"] != nil {
		t.Errorf("the one in doubt: %v", bad)
	}
	if good["readiness"] != "PROVEN" || good["clientName"] != "web" || good["library"] != "redis-py" || good["missingTests"] != nil || len(good["evidence"].([]any)) != 3 ||
		good["evidence"].([]any)[2].(object)["crossCertificate"] != true || good["evidence"].([]any)[2].(object)["generation"] != 2.0 {
		t.Errorf("the other: %v", good)
	}
	code, v = s.do("POST", certificates+":activateCa", "{}")
	s.refused(400, "FAILED_PRECONDITION", v, code, "10.0.0.2 (unknown_ca on 20", "--sni ca-next.sealane.invalid")
	code, v = s.do("POST", certificates+":setSampling", `{"percent":5}`)
	s.refused(400, "INVALID_ARGUMENT", v, code, "per_hour: 0: want 1 to 1000")
	if got := s.ok("POST", certificates+":setSampling", `{"percent":5,"perHour":20}`); fmt.Sprint(got["sampling"]) != "map[generation:2 perHour:20 percent:5]" {
		t.Errorf("sampling: %v", got["sampling"])
	}
	if got := s.ok("POST", certificates+":setSampling", `{}`); got["sampling"] != nil {
		t.Errorf("sampling, when it was ended: %v", got["sampling"])
	}
	if got := s.ok("POST", certificates+":compromiseCa", `{"generation":2}`)["affectedClients"]; got != nil {
		t.Errorf("affected by the loss of CA-2: %v", got)
	}
	if got := s.ok("POST", certificates+":compromiseCa", "{}")["affectedClients"].([]any); len(got) != 1 || got[0].(object)["clientName"] != "web" {
		t.Errorf("affected by the loss of all: %v", got)
	}
	code, v = s.do("GET", instances+"/nobody/certificates:clients", "")
	s.refused(404, "NOT_FOUND", v, code)
}
