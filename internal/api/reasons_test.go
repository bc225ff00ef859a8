package api_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/api"
	"github.com/sealane/sealane/internal/authz"
	"github.com/sealane/sealane/internal/instance"
)

// reason is that of an error over REST, "" if it has none, and its metadata.
func reason(v object) (string, object) {
	e, _ := v["error"].(object)
	details, _ := e["details"].([]any)
	for _, d := range details {
		if d := d.(object); d["@type"] == "type.googleapis.com/google.rpc.ErrorInfo" && d["domain"] == api.ErrorDomain {
			metadata, _ := d["metadata"].(object)
			return d["reason"].(string), metadata
		}
	}
	return "", nil
}

func TestErrorsHaveReasonsOverREST(t *testing.T) {
	t.Parallel()
	s := newServer(t, answerAtOnce)
	s.create("first", encrypted)
	s.create("bare", basic)
	s.ok("POST", certificates+":rotateCa", "{}")
	bare := instances + "/bare"
	for _, c := range []struct{ path, reason, metadata string }{
		{certificates + ":activateCa", "CLIENTS_NOT_READY", "dueTime"},
		{bare + "/certificates:rotateCa", "ENCRYPTION_DISABLED", ""},
		{bare + ":rotateAuthString", "AUTH_DISABLED", ""},
	} {
		_, v := s.do("POST", c.path, "{}")
		got, metadata := reason(v)
		if _, ok := metadata[c.metadata]; got != c.reason || ok != (c.metadata != "") {
			t.Errorf("%s: got the reason %q with %v, want %q with %q: %v", c.path, got, metadata, c.reason, c.metadata, v)
		}
	}
	_, v := s.doAs("Bearer wrong", "GET", first, "")
	if got, _ := reason(v); got != authz.TokenInvalid {
		t.Errorf("a wrong token: got the reason %q, want %q: %v", got, authz.TokenInvalid, v)
	}
	if _, v := s.do("GET", instances+"/nobody", ""); v["error"].(object)["details"] != nil {
		t.Errorf("not found: got details in %v, want none", v)
	}
	s.nodes.set(func(n *nodes) { n.hold = true })
	op := s.ok("POST", instances+"?instanceId=second", encrypted)
	_, v = s.do("POST", instances+"/second/certificates:rotateLeaf", "{}")
	if got, metadata := reason(v); got != "OPERATION_IN_PROGRESS" || metadata["operation"] != op["name"] {
		t.Errorf("while it is made: got the reason %q with %v, want OPERATION_IN_PROGRESS with %v", got, metadata, op["name"])
	}
}

func TestErrorsHaveReasonsOverGRPC(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", encrypted)
	client := sealanepb.NewCertificatesClient(s.grpc)
	name := "projects/p1/locations/local/instances/first/certificates"
	if _, err := client.RotateCa(authorized(t), &sealanepb.RotateCaRequest{Name: name}); err != nil {
		t.Fatal(err)
	}
	_, err := client.ActivateCa(authorized(t), &sealanepb.ActivateCaRequest{Name: name})
	st := status.Convert(err)
	if st.Code() != codes.FailedPrecondition || len(st.Details()) != 1 {
		t.Fatalf("activate: got %v with %d details", err, len(st.Details()))
	}
	if info, ok := st.Details()[0].(*errdetails.ErrorInfo); !ok || info.GetReason() != string(instance.ClientsNotReady) || info.GetDomain() != api.ErrorDomain {
		t.Errorf("activate: got the details %v", st.Details())
	}
}

// docs/api.md lists every reason, and no other. Reasons have the form that google.rpc.ErrorInfo asks for.
func TestReasonsAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Reasons of errors\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var got []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\|").FindAllStringSubmatch(section, -1) {
		got = append(got, row[1])
	}
	want := []string{authz.TokenInvalid, authz.TokenExpired, authz.TokenRevoked, authz.PermissionDenied}
	for _, r := range instance.Reasons {
		want = append(want, string(r))
	}
	form := regexp.MustCompile(`^[A-Z][A-Z0-9_]+[A-Z0-9]$`)
	for _, r := range want {
		if !form.MatchString(r) || len(r) > 63 {
			t.Errorf("reason %q: want at most 63 of A-Z, 0-9 and _, a letter first", r)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("docs/api.md has\n%q, want\n%q", got, want)
	}
}
