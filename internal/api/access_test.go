package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/api"
	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/authz"
	"github.com/sealane/sealane/internal/rest"
)

// calls is a log of calls in memory, which has no room while it is full.
type calls struct {
	mu      sync.Mutex
	entries []audit.Entry
	full    error
}

func (c *calls) Enter(e audit.Entry) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full != nil {
		return 0, c.full
	}
	c.entries = append(c.entries, e)
	return uint64(len(c.entries)), nil
}

func (c *calls) all() []audit.Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.entries)
}

func (c *calls) fill(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.full = err
}

// bindings reads ROLE=SCOPE.
func bindings(t testing.TB, texts ...string) []access.Binding {
	t.Helper()
	var all []access.Binding
	for _, text := range texts {
		r, s, _ := strings.Cut(text, "=")
		role, ok := access.ParseRole(r)
		scope, err := access.ParseScope(s)
		if !ok || err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		all = append(all, access.Binding{Role: role, Scope: scope})
	}
	return all
}

// token makes a token for bindings in the form ROLE=SCOPE.
func (s *server) token(texts ...string) (id, secret string) {
	s.t.Helper()
	made, secret, err := s.tokens.Create(access.Token{Bindings: bindings(s.t, texts...)})
	if err != nil {
		s.t.Fatal(err)
	}
	return made.ID, secret
}

// rpc is a method that the server offers, and a request for it about resources of project p1.
type rpc struct {
	method  string // SERVICE/METHOD
	desc    protoreflect.MethodDescriptor
	request proto.Message
	verb    string // of REST; "" where it isn't offered there
	path    string
	body    string
}

// rpcs are all methods of all services that the server has registered, so that a new one can't be forgotten. names say what stands for
// a * after each collection's name.
func (s *server) rpcs(names map[string]string) []rpc {
	s.t.Helper()
	var all []rpc
	for service := range s.api.GRPC.GetServiceInfo() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			s.t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for n := range methods.Len() {
			all = append(all, s.rpc(service, methods.Get(n), names))
		}
	}
	slices.SortFunc(all, func(a, b rpc) int { return strings.Compare(a.method, b.method) })
	return all
}

func (s *server) rpc(service string, m protoreflect.MethodDescriptor, names map[string]string) rpc {
	s.t.Helper()
	r := rpc{method: service + "/" + string(m.Name()), desc: m}
	input, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
	if err != nil {
		s.t.Fatal(err)
	}
	r.request = input.New().Interface()
	rule, mixin := api.MixinRules[m.FullName()]
	if !mixin {
		rule, _ = proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	}
	field, resource := "name", "projects/p1/locations/local/operations/"+names["operations"] // WaitOperation has no path
	if rule != nil {
		r.verb, r.path = rest.Pattern(rule)
		if rule.GetBody() != "" {
			r.body = "{}"
		}
		field = ""
		if before, rest, ok := strings.Cut(r.path, "{"); ok {
			variable, after, _ := strings.Cut(rest, "}")
			var template string
			field, template, _ = strings.Cut(variable, "=")
			parts := strings.Split(template, "/")
			for i := range parts {
				if parts[i] == "*" {
					parts[i] = names[parts[i-1]]
				}
			}
			resource = strings.Join(parts, "/")
			r.path = before + resource + after
		}
	}
	if field != "" {
		if err := runtime.PopulateFieldFromPath(r.request, field, resource); err != nil {
			s.t.Fatal(err)
		}
	}
	if m.Name() == "CreateToken" {
		r.body = `{"token":{"bindings":[{"role":"roles/redis.viewer","scope":"projects/p1"}]}}`
		if err := protojson.Unmarshal([]byte(r.body), r.request); err != nil {
			s.t.Fatal(err)
		}
	}
	return r
}

// overGRPC makes the call. token "" is none.
func (s *server) overGRPC(r rpc, token string, timeout time.Duration) (proto.Message, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), timeout)
	defer cancel()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	output, err := protoregistry.GlobalTypes.FindMessageByName(r.desc.Output().FullName())
	if err != nil {
		s.t.Fatal(err)
	}
	out := output.New().Interface()
	return out, s.grpc.Invoke(ctx, "/"+r.method, r.request, out)
}

var placeholders = map[string]string{"projects": "p1", "locations": "local", "instances": "nobody", "operations": "operation-1"}

// A method without a row in the table is refused for everybody. The table has no rows for methods that are not there.
func TestEveryMethodHasAPermission(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	offered := make(map[string]bool)
	for _, r := range s.rpcs(placeholders) {
		offered[r.method] = true
		permissions := api.PermissionsOf(r.method, nil)
		if len(permissions) == 0 {
			t.Errorf("%s has no row in the table of permissions (permissions.go), so nobody can call it", r.method)
			continue
		}
		if !slices.Contains(access.Permissions, permissions[0]) {
			t.Errorf("%s needs %q, which no role has: add it to access.Permissions", r.method, permissions[0])
		}
	}
	for _, m := range api.Methods() {
		if !offered[m] {
			t.Errorf("the table of permissions has a row for %s, which is not there", m)
		}
	}
}

// callers are the columns of the table in docs/api.md.
var callers = []struct{ column, binding string }{
	{"no token", ""}, {"expired", ""}, {"revoked", ""}, {"viewer", "viewer=projects/p1"}, {"redis.viewer", "redis.viewer=projects/p1"},
	{"dbConnectionUser", "redis.dbConnectionUser=projects/p1"}, {"redis.editor", "redis.editor=projects/p1"}, {"editor", "editor=projects/p1"}, {"redis.admin", "redis.admin=projects/p1"},
	{"owner", "owner=projects/p1"}, {"other project", "owner=projects/p2"},
}

// same are the columns that have the outcome of another one, and are left out of docs/api.md.
var same = map[string]string{"revoked": "expired", "redis.viewer": "viewer", "owner": "redis.admin"}

// secretsOf makes a token for each column. "no token" has none.
func (s *server) secretsOf() map[string]string {
	s.t.Helper()
	secrets := make(map[string]string)
	for _, c := range callers {
		if c.binding != "" {
			_, secrets[c.column] = s.token(c.binding)
		}
	}
	id, secret := s.token("owner=*")
	if _, err := s.tokens.Revoke(id); err != nil {
		s.t.Fatal(err)
	}
	secrets["revoked"] = secret
	_, secret, err := s.tokens.Create(access.Token{Bindings: bindings(s.t, "owner=*"), Expires: time.Now().Add(-time.Hour)})
	if err != nil {
		s.t.Fatal(err)
	}
	secrets["expired"] = secret
	return secrets
}

// Every method of every service, by every caller, over both transports. docs/api.md shows the outcome.
func TestEveryRPCByEveryRole(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	secrets, everywhere := s.secretsOf(), make(map[string]string)
	for _, c := range callers {
		if role, ok := strings.CutSuffix(c.binding, "projects/p1"); ok {
			_, everywhere[c.column] = s.token(role + "*")
		}
	}
	cells := make(map[string]map[string]string) // method, column
	all := s.rpcs(placeholders)
	for _, r := range all {
		cells[r.method] = make(map[string]string)
		for _, c := range callers {
			r := r
			if strings.Contains(r.path, "tokens/") { // one that can be revoked
				id, _ := s.token("redis.viewer=projects/p1")
				r = s.rpc(strings.Split(r.method, "/")[0], r.desc, map[string]string{"tokens": id})
			}
			cell := s.cell(r, secrets[c.column])
			everywhere := cell == "403" && strings.HasSuffix(c.binding, "p1") && s.cell(r, everywhere[c.column]) == "yes"
			if r.verb != "" {
				if rest := s.restCell(r, secrets[c.column]); rest != cell {
					t.Errorf("%s by %s: %s over gRPC, %s over REST", r.method, c.column, cell, rest)
				}
			}
			if want := map[string]string{"no token": "401", "expired": "401", "revoked": "401", "other project": "403"}[c.column]; want != "" && cell != want && !strings.HasSuffix(r.method, "/ListTokens") {
				t.Errorf("%s by %s: %s, want %s", r.method, c.column, cell, want)
			}
			if everywhere {
				cell = "only at *"
			}
			cells[r.method][c.column] = cell
		}
		for column, other := range same {
			if cells[r.method][column] != cells[r.method][other] {
				t.Errorf("%s: %s for %s and %s for %s: docs/api.md shows one column for both", r.method, cells[r.method][column], column, cells[r.method][other], other)
			}
		}
		if v1, ok := strings.CutPrefix(r.method, "google.cloud.redis.v1beta1."); ok && !maps.Equal(cells[r.method], cells["google.cloud.redis.v1."+v1]) {
			t.Errorf("%s: %v, and in v1 %v", r.method, cells[r.method], cells["google.cloud.redis.v1."+v1])
		}
	}
	compareTable(t, permissionTable(all, cells))
}

// cell is the outcome of a call over gRPC as the table shows it.
func (s *server) cell(r rpc, token string) string {
	s.t.Helper()
	out, err := s.overGRPC(r, token, patience)
	switch status.Code(err) {
	case codes.Unauthenticated:
		return "401"
	case codes.PermissionDenied:
		s.checkDenied(r, err)
		return "403"
	case codes.Internal, codes.Unavailable, codes.DeadlineExceeded, codes.Unknown:
		s.t.Errorf("%s: %v", r.method, err)
	}
	if list := string(r.desc.Name()); list == "ListTokens" && !strings.Contains(out.(fmt.Stringer).String(), "projects/p1") {
		return "only its own"
	}
	return "yes"
}

func (s *server) restCell(r rpc, token string) string {
	s.t.Helper()
	authorization := ""
	if token != "" {
		authorization = "Bearer " + token
	}
	// What is no JSON shows whether the body was read.
	if code, _ := s.doAs(authorization, r.verb, r.path, `{"not json`); code != http.StatusBadRequest && r.body != "" && code != 401 && code != 403 {
		s.t.Errorf("%s %s with a body that is no JSON: %d", r.verb, r.path, code)
	}
	code, v := s.doAs(authorization, r.verb, r.path, r.body)
	switch code {
	case http.StatusUnauthorized:
		return "401"
	case http.StatusForbidden:
		if reason, _ := deniedReason(v); reason != authz.PermissionDenied {
			s.t.Errorf("%s %s: %v has not the reason %s", r.verb, r.path, v, authz.PermissionDenied)
		}
		return "403"
	}
	if raw, _ := json.Marshal(v); r.path == "/v1/tokens" && r.verb == "GET" && !strings.Contains(string(raw), "projects/p1") {
		return "only its own"
	}
	return "yes"
}

func deniedReason(v object) (string, object) {
	e, _ := v["error"].(object)
	details, _ := e["details"].([]any)
	for _, d := range details {
		if d := d.(object); d["domain"] == access.Service {
			metadata, _ := d["metadata"].(object)
			return d["reason"].(string), metadata
		}
	}
	return "", nil
}

// checkDenied wants the managed service's form.
func (s *server) checkDenied(r rpc, err error) {
	s.t.Helper()
	st := status.Convert(err)
	if len(st.Details()) != 1 {
		s.t.Errorf("%s: %v with details %v", r.method, err, st.Details())
		return
	}
	info, ok := st.Details()[0].(*errdetails.ErrorInfo)
	if !ok || info.GetReason() != "IAM_PERMISSION_DENIED" || info.GetDomain() != "redis.googleapis.com" {
		s.t.Errorf("%s: details %v", r.method, st.Details())
		return
	}
	permission, resource := info.GetMetadata()["permission"], info.GetMetadata()["resource"]
	want := "Permission '" + permission + "' denied on resource (or it may not exist)."
	if resource != "" {
		want = "Permission '" + permission + "' denied on resource '//redis.googleapis.com/" + resource + "' (or it may not exist)."
	}
	if st.Message() != want || !slices.Contains(access.Permissions, access.Permission(permission)) {
		s.t.Errorf("%s: message %q, want %q", r.method, st.Message(), want)
	}
}

// permissionTable is the table of docs/api.md.
func permissionTable(all []rpc, cells map[string]map[string]string) string {
	var columns []string
	for _, c := range callers {
		if same[c.column] == "" {
			columns = append(columns, c.column)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| method | permission | %s |\n|---|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, r := range all {
		if strings.HasPrefix(r.method, "google.cloud.redis.v1beta1.") {
			continue
		}
		service, method, _ := strings.Cut(r.method, "/")
		row := []string{service[strings.LastIndexByte(service, '.')+1:] + "." + method, "`" + string(api.PermissionsOf(r.method, nil)[0]) + "`"}
		for _, c := range columns {
			row = append(row, cells[r.method][c])
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
	}
	return b.String()
}

// compareTable wants the table between its markers in docs/api.md. With SEALANE_WRITE_DOCS=1 it puts it there.
func compareTable(t *testing.T, want string) {
	t.Helper()
	const page, begin, end = "../../docs/api.md", "<!-- permissions: SEALANE_WRITE_DOCS=1 go test ./internal/api -run TestEveryRPCByEveryRole -->\n", "<!-- /permissions -->"
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), begin)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table of permissions", page)
	}
	if got == want {
		return
	}
	if os.Getenv("SEALANE_WRITE_DOCS") != "" {
		if err := os.WriteFile(page, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s: the table of permissions is\n%s\nand should be (SEALANE_WRITE_DOCS=1 writes it)\n%s", page, got, want)
}
