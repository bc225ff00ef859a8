package api_test

import (
	"bufio"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/authz"
)

// binding is the body of a create of a token.
func binding(role, scope, more string) string {
	return fmt.Sprintf(`{"token":{"description":"of a test","bindings":[{"role":%q,"scope":%q}]}%s}`, role, scope, more)
}

func TestATokenOverREST(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", basic)
	made := s.ok("POST", "/v1/tokens", binding("redis.viewer", "//redis.googleapis.com/projects/p1", `,"ttl":"3600s"`))
	shown, secret := made["token"].(object), made["secret"].(string)
	name := shown["name"].(string)
	if shown["state"] != "ACTIVE" || shown["creator"] != "tokens/admin" || shown["description"] != "of a test" || shown["lastUseTime"] != nil ||
		fmt.Sprint(shown["bindings"]) != "[map[role:roles/redis.viewer scope:projects/p1]]" {
		t.Errorf("made: %v", shown)
	}
	if at, err := time.Parse(time.RFC3339, shown["expireTime"].(string)); err != nil || time.Until(at) > time.Hour || time.Until(at) < 59*time.Minute {
		t.Errorf("it expires at %v, %v", at, err)
	}
	if code, v := s.as(secret, "GET", first, ""); code != http.StatusOK {
		t.Errorf("with the token: %d, %v", code, v)
	}
	got := s.ok("GET", "/v1/"+name, "")
	if got["lastUseTime"] == nil || got["secret"] != nil {
		t.Errorf("after its use: %v", got)
	}
	if list := s.ok("GET", "/v1/tokens", ""); !slices.Equal(ids(list, "tokens"), []string{strings.TrimPrefix(name, "tokens/")}) {
		t.Errorf("list: %v", list)
	}
	for range 2 { // the second time it changes nothing
		if revoked := s.ok("POST", "/v1/"+name+":revoke", ""); revoked["state"] != "REVOKED" || revoked["revokeTime"] == nil {
			t.Errorf("revoked: %v", revoked)
		}
	}
	code, v := s.as(secret, "GET", first, "")
	s.refused(401, "UNAUTHENTICATED", v, code, "was revoked", "sealane tokens create")
	if why, metadata := reason(v); why != authz.TokenRevoked || "tokens/"+metadata["token"].(string) != name {
		t.Errorf("reason %s, %v", why, metadata)
	}
	_, expired, err := s.tokens.Create(access.Token{Bindings: bindings(t, "owner=*"), Expires: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	code, v = s.as(expired, "GET", first, "")
	s.refused(401, "UNAUTHENTICATED", v, code, "has expired", "sealane tokens create")
	if why, _ := reason(v); why != authz.TokenExpired {
		t.Errorf("reason %s", why)
	}
}

func TestATokenThatCannotBe(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, c := range []struct{ body, field, says string }{
		{`{}`, "token.bindings", "0 of them: want 1 to 50"},
		{binding("roles/gardener", "*", ""), "token.bindings[0].role", "roles/gardener.*want roles/redis.dbConnectionUser, roles/redis.viewer, .* or roles/owner"},
		{binding("owner", "", ""), "token.bindings[0].scope", "is not a scope"},
		{binding("owner", "projects/p1/instances/a", ""), "token.bindings[0].scope", "is not a scope"},
		{binding("owner", "projects/Caps", ""), "token.bindings[0].scope", "project \"Caps\": want 2 to 63"},
		{binding("owner", "projects/p1/locations/-", ""), "token.bindings[0].scope", "is not a scope"},
		{binding("owner", "projects/p1/locations/local/instances/A", ""), "token.bindings[0].scope", "\"A\": want 1 to 40"},
		{binding("owner", "*", `,"ttl":"-1s"`), "ttl", "a time that is still to come"},
		{binding("owner", "*", `,"ttl":"0s"`), "ttl", "a time that is still to come"},
		{binding("owner", "*", `,"expireTime":"2001-01-01T00:00:00Z"`), "expire_time", "a time that is still to come"},
		{binding("owner", "*", `,"neverExpires":false`), "never_expires", "want true, or leave it out"},
		{strings.Replace(binding("owner", "*", ""), "of a test", strings.Repeat("x", 201), 1), "token.description", "at most 200 bytes"},
		{strings.Replace(binding("owner", "*", ""), "of a test", `two\nlines`, 1), "token.description", "on one line"},
	} {
		code, v := s.do("POST", "/v1/tokens", c.body)
		s.refused(400, "INVALID_ARGUMENT", v, code, c.field)
		if message, _ := v["error"].(object)["message"].(string); !regexp.MustCompile(c.says).MatchString(message) {
			t.Errorf("%s: %q, want %q", c.body, message, c.says)
		}
	}
	for _, c := range [][3]string{{"GET", "/v1/tokens/nobody", "404"}, {"POST", "/v1/tokens/nobody:revoke", "404"}, {"POST", "/v1/tokens/admin:revoke", "400"}} {
		if code, v := s.do(c[0], c[1], ""); fmt.Sprint(code) != c[2] {
			t.Errorf("%s: %d, %v", c[1], code, v)
		}
	}
	if n := len(s.tokens.List()); n != 0 {
		t.Errorf("%d tokens, want none", n)
	}
}

// Neither permissions nor places nor time can be had by making a token.
func TestATokenGivesNoMoreThanItsMakerHas(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	limit := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	_, maker, err := s.tokens.Create(access.Token{Bindings: bindings(t, "redis.admin=projects/p1", "redis.editor=projects/p2"), Expires: limit})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ role, scope, permission string }{
		{"owner", "*", "redis.tokens.create"},
		{"redis.viewer", "projects/p2", "redis.tokens.create"},
		{"redis.viewer", "projects/p3", "redis.tokens.create"},
		{"owner", "projects/p1", ""},
		{"redis.viewer", "projects/p1/locations/local/instances/a", ""},
	} {
		code, v := s.as(maker, "POST", "/v1/tokens", binding(c.role, c.scope, ""))
		if c.permission == "" {
			if code != http.StatusOK {
				t.Errorf("%s at %s: %d, %v", c.role, c.scope, code, v)
			} else if at := v["token"].(object)["expireTime"]; at != limit.Format(time.RFC3339) {
				t.Errorf("%s at %s expires at %v, its maker at %v", c.role, c.scope, at, limit)
			}
			continue
		}
		s.refused(403, "PERMISSION_DENIED", v, code, "'"+c.permission+"' denied on resource '//redis.googleapis.com/"+c.scope+"'")
	}
	// Two bindings, of which it may give one.
	both := `{"token":{"bindings":[{"role":"viewer","scope":"projects/p1"},{"role":"viewer","scope":"projects/p2"}]}}`
	if code, v := s.as(maker, "POST", "/v1/tokens", both); code != http.StatusForbidden {
		t.Errorf("two bindings: %d, %v", code, v)
	}
	for _, longer := range []string{`,"neverExpires":true`, `,"ttl":"7200s"`, `,"expireTime":"2100-01-01T00:00:00Z"`} {
		code, v := s.as(maker, "POST", "/v1/tokens", binding("viewer", "projects/p1", longer))
		s.refused(400, "INVALID_ARGUMENT", v, code, "can't outlive the one that makes it")
	}
}

// Who may make tokens in a project sees and revokes those that are for that project only.
func TestTokensOfOthers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, admin := s.token("redis.admin=projects/p1")
	mine, _ := s.token("viewer=projects/p1/locations/local")
	for _, of := range [][]string{{"viewer=projects/p2"}, {"viewer=*"}, {"viewer=projects/p1", "viewer=projects/p2"}} {
		id, secret := s.token(of...)
		for _, c := range [][2]string{{"GET", ""}, {"POST", ":revoke"}} {
			code, v := s.as(admin, c[0], "/v1/tokens/"+id+c[1], "")
			s.refused(403, "PERMISSION_DENIED", v, code, "tokens/"+id)
			absent, w := s.as(admin, c[0], "/v1/tokens/nobody"+c[1], "")
			s.refused(403, "PERMISSION_DENIED", w, absent, "tokens/nobody")
		}
		if _, err := s.tokens.Authenticate(secret); err != nil {
			t.Errorf("%v: %v", of, err)
		}
	}
	code, v := s.as(admin, "GET", "/v1/tokens", "")
	if got := ids(v, "tokens"); code != http.StatusOK || len(got) != 2 || !slices.Contains(got, mine) {
		t.Errorf("list: %d, %v", code, v)
	}
	if code, v := s.as(admin, "POST", "/v1/tokens/"+mine+":revoke", ""); code != http.StatusOK {
		t.Errorf("revoke: %d, %v", code, v)
	}
	if code, v := s.as(admin, "POST", "/v1/tokens/admin:revoke", ""); code != http.StatusForbidden {
		t.Errorf("revoke the administrator's: %d, %v", code, v)
	}
}

// Whoever has stolen a token may have made others with it.
func TestDescendantsOfAToken(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	made := func(maker string) (name, secret string) {
		code, v := s.as(maker, "POST", "/v1/tokens", binding("redis.admin", "projects/p1", ""))
		if code != http.StatusOK {
			t.Fatalf("create: %d, %v", code, v)
		}
		return v["token"].(object)["name"].(string), v["secret"].(string)
	}
	other, _ := made(token)
	stolen, secret := made(token)
	child, childSecret := made(secret)
	grandchild, _ := made(childSecret)
	state := func(name string) any { return s.ok("GET", "/v1/"+name, "")["state"] }
	_, stranger := s.token("redis.admin=projects/p2")
	code, v := s.as(stranger, "POST", "/v1/"+stolen+":revoke", `{"descendants":true}`)
	s.refused(403, "PERMISSION_DENIED", v, code)
	if state(child) != "ACTIVE" || state(stolen) != "ACTIVE" {
		t.Error("a stranger has revoked them")
	}
	s.ok("POST", "/v1/"+stolen+":revoke", "{}")
	if state(child) != "ACTIVE" {
		t.Error("a token that was made with it is revoked unasked")
	}
	s.ok("POST", "/v1/"+stolen+":revoke", `{"descendants":true}`)
	for name, want := range map[string]string{stolen: "REVOKED", child: "REVOKED", grandchild: "REVOKED", other: "ACTIVE"} {
		if got := state(name); got != want {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
}

// summary is what a test looks at of the log of calls.
func (c *calls) summary() []string {
	var all []string
	for _, e := range c.all() {
		all = append(all, fmt.Sprintf("%s %s %s %s %s", e.Action, e.Call.Token, e.Call.Method[strings.LastIndexByte(e.Call.Method, '/')+1:], e.Call.Resource, e.Call.Outcome))
	}
	return all
}

func TestWhoDidWhatIsEntered(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	viewer, secret := s.token("viewer=projects/p1")
	editor, writer := s.token("redis.editor=projects/p1")
	s.create("first", withAuth)
	s.as(secret, "GET", first, "")
	s.as(secret, "GET", instances, "")
	s.as(secret, "GET", first+"/authString", "")
	for range 3 {
		s.as(writer, "GET", first+"/authString", "")
	}
	s.as(writer, "POST", first+":rotateAuthString", "{}")
	s.as(writer, "GET", first+"/authString", "") // another secret
	s.as(writer, "PATCH", first+"?updateMask=host", "{}")
	s.as(writer, "DELETE", first, "")
	s.doAs("Bearer wrong", "DELETE", first, "")
	token := s.ok("POST", "/v1/tokens", binding("viewer", "*", ""))["token"].(object)["name"].(string)
	const name = " projects/p1/locations/local/instances/first"
	want := []string{
		"call admin CreateInstance" + name + " ", "outcome admin CreateInstance" + name + " OK",
		"call " + viewer + " GetInstanceAuthString" + name + " PERMISSION_DENIED",
		"call " + editor + " GetInstanceAuthString" + name + " OK",
		"call " + editor + " RotateAuthString" + name + " ", "outcome " + editor + " RotateAuthString" + name + " OK",
		"call " + editor + " GetInstanceAuthString" + name + " OK",
		"call " + editor + " UpdateInstance" + name + " ", "outcome " + editor + " UpdateInstance" + name + " INVALID_ARGUMENT",
		"call " + editor + " DeleteInstance" + name + " PERMISSION_DENIED",
		"call admin CreateToken  ", "outcome admin CreateToken " + token + " OK",
	}
	if got := s.calls.summary(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for n, e := range s.calls.all() {
		if !strings.HasPrefix(e.Call.Peer, "127.0.0.1:") || e.Time.IsZero() || e.Call.Method[:1] == "/" {
			t.Errorf("entry %d: %+v, %+v", n, e, e.Call)
		}
		if e.Action == audit.CallOutcome && e.Call.Of != uint64(n) {
			t.Errorf("entry %d is the outcome of %d, want %d", n+1, e.Call.Of, n)
		}
		if e.Call.Resource == name[1:] && e.Instance != name[1:] {
			t.Errorf("entry %d is of instance %q", n, e.Instance)
		}
	}
}

// A change that can't be entered is not made; reads go on, and a stolen token is revoked all the same.
func TestAFullLogOfCalls(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", withAuth)
	id, secret := s.token("viewer=*")
	s.calls.fill(fmt.Errorf("append: %w", syscall.ENOSPC))
	for _, c := range [][3]string{
		{"PATCH", first + "?updateMask=displayName", `{"displayName":"x"}`}, {"DELETE", first, ""}, {"POST", first + ":rotateAuthString", "{}"},
		{"POST", instances + "?instanceId=b", basic}, {"POST", "/v1/tokens", binding("viewer", "*", "")},
	} {
		code, v := s.do(c[0], c[1], c[2])
		s.refused(429, "RESOURCE_EXHAUSTED", v, code, "the disk is full", "can't be entered into the log of calls")
		if why, _ := reason(v); why != "DISK_FULL" {
			t.Errorf("%s %s: reason %q", c[0], c[1], why)
		}
	}
	if i := s.ok("GET", first, ""); i["displayName"] != nil || i["state"] != "READY" {
		t.Errorf("the instance: %v", i)
	}
	if auth := s.ok("GET", first+"/authString", ""); auth["authString"] == "" {
		t.Errorf("the AUTH string: %v", auth)
	}
	if list := s.ok("GET", instances, ""); len(ids(list, "instances")) != 1 {
		t.Errorf("list: %v", list)
	}
	s.ok("POST", "/v1/tokens/"+id+":revoke", "")
	if code, _ := s.as(secret, "GET", first, ""); code != http.StatusUnauthorized {
		t.Errorf("the revoked token: %d", code)
	}
	if n := len(s.tokens.List()); n != 1 {
		t.Errorf("%d tokens, want the one of before", n)
	}
	if log := s.log.String(); !strings.Contains(log, "could not be entered into the log of calls") || !strings.Contains(log, "RevokeToken") || !strings.Contains(log, "GetInstanceAuthString") {
		t.Errorf("log: %s", log)
	}
	s.calls.fill(nil)
	s.done(s.ok("PATCH", first+"?updateMask=displayName", `{"displayName":"x"}`))
}

// A caller without permissions doesn't push out of the log what others did.
func TestDeniedCallsAreEnteredWithALimit(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	id, secret := s.token("viewer=*")
	_, other := s.token("viewer=*")
	for range 100 {
		s.as(secret, "DELETE", first, "")
	}
	s.as(other, "DELETE", first, "")
	if n := len(s.calls.all()); n < 31 || n > 62 { // at most two minutes have begun
		t.Errorf("%d entries of 101 calls, want 30 a minute and the one of the other token", n)
	}
	if got := s.calls.summary(); !strings.HasPrefix(got[0], "call "+id) {
		t.Errorf("entries: %v", got)
	}
}

func TestACallThatPanicsHasAnOutcome(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.nodes.set(func(n *nodes) { n.panics = true })
	code, v := s.do("POST", instances+"?instanceId=a", basic)
	s.refused(500, "INTERNAL", v, code)
	got := s.calls.summary()
	if want := "outcome admin CreateInstance projects/p1/locations/local/instances/a INTERNAL"; len(got) != 2 || got[1] != want {
		t.Errorf("entries %q, want the second %q", got, want)
	}
}

// The unauthenticated connections' limits count callers with any token that is in force, and not those with another one.
func TestAnyTokenTakesAConnectionOutOfTheUnauthenticated(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	rest, _ := s.onTCP()
	_, viewer := s.token("viewer=projects/p1")
	id, revoked := s.token("viewer=projects/p1")
	if _, err := s.tokens.Revoke(id); err != nil {
		t.Fatal(err)
	}
	ask := func(token string) *http.Response {
		t.Helper()
		conn := dialTCP(t, rest)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", first, token)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	if r := ask(viewer); r.StatusCode != http.StatusNotFound {
		t.Errorf("a viewer: %d", r.StatusCode)
	}
	if r := ask(revoked); r.StatusCode != http.StatusUnauthorized {
		t.Errorf("a revoked token: %d", r.StatusCode)
	}
	if n := s.api.Unauthenticated(); n != 1 {
		t.Errorf("%d connections are unauthenticated, want the one with the revoked token", n)
	}
}
