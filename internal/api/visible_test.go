package api_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"cloud.google.com/go/redis/apiv1/redispb"
	betapb "cloud.google.com/go/redis/apiv1beta1/redispb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/api"
)

const withAuth = `{"tier":"BASIC","memorySizeGb":1,"transitEncryptionMode":"SERVER_AUTHENTICATION","authEnabled":true}`

// No answer has a secret that the role may not see: the AUTH string, a private key, a token, or a token's hash. Everybody makes every
// call, about an instance and an operation that are there.
func TestNoAnswerHasASecretThatTheRoleMayNotSee(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", withAuth)
	secrets := s.secretsOf()
	for n, c := range []string{"viewer", "redis.viewer", "dbConnectionUser", "redis.editor", "editor", "redis.admin", "owner"} {
		if n > 1 { // an operation that is deleted must be there again
			s.done(s.ok("PATCH", first+"?updateMask=displayName", fmt.Sprintf(`{"displayName":"%d"}`, n)))
		}
		ops := s.ok("GET", "/v1/projects/p1/locations/local/operations", "")["operations"].([]any)
		id := ops[0].(object)["name"].(string)
		id = id[strings.LastIndexByte(id, '/')+1:]
		victim, victimSecret := s.token("redis.viewer=projects/p1")
		names := map[string]string{"projects": "p1", "locations": "local", "instances": "first", "operations": id, "tokens": victim}
		auth := s.ok("GET", first+"/authString", "")["authString"].(string)
		hidden := map[string]string{"the AUTH string": auth, "the administrator's token": token, "a token": victimSecret, "a private key": "PRIVATE KEY"}
		for column, secret := range secrets {
			hidden["the token of "+column] = secret
		}
		for name, secret := range maps.Clone(hidden) {
			sum := sha256.Sum256([]byte(secret))
			hidden["the hash of "+name] = hex.EncodeToString(sum[:])
			hidden["the base64 of the hash of "+name] = base64.StdEncoding.EncodeToString(sum[:])
		}
		for _, r := range s.rpcs(names) {
			if strings.HasSuffix(r.method, "/DeleteInstance") {
				continue // it would end the test; its answer is an operation, as that of the others
			}
			out, err := s.overGRPC(r, secrets[c], time.Second) // some wait for what these nodes don't do
			seen := fmt.Sprint(err)
			if err == nil {
				raw, _ := proto.Marshal(out)
				text, _ := protojson.Marshal(out)
				seen = string(raw) + string(text)
			}
			mayRead := strings.HasSuffix(r.method, "/GetInstanceAuthString") && (c == "dbConnectionUser" || access.Role("roles/"+c).Has(access.InstancesGetAuthString))
			for name, secret := range hidden {
				if secret != "" && strings.Contains(seen, secret) && !(mayRead && name == "the AUTH string") {
					t.Errorf("%s by %s has %s: %s", r.method, c, name, seen)
				}
			}
			if mayRead && !strings.Contains(seen, auth) && err == nil {
				t.Errorf("%s by %s: %s; want the AUTH string", r.method, c, seen)
			}
		}
	}
	raw, _ := json.Marshal(s.calls.all())
	for column, secret := range secrets {
		if secret != "" && (strings.Contains(s.log.String(), secret) || strings.Contains(string(raw), secret)) {
			t.Errorf("the log, or the log of calls, has the token of %s", column)
		}
	}
}

// as calls REST with a token and returns the status and the answer.
func (s *server) as(secret, method, path, body string) (int, object) {
	s.t.Helper()
	return s.doAs("Bearer "+secret, method, path, body)
}

// ids are the last parts of the names in a list.
func ids(v object, list string) []string {
	var all []string
	items, _ := v[list].([]any)
	for _, i := range items {
		name := i.(object)["name"].(string)
		all = append(all, name[strings.LastIndexByte(name, '/')+1:])
	}
	slices.Sort(all)
	return all
}

// targets are the instances that operations are about.
func targets(v object) []string {
	var all []string
	items, _ := v["operations"].([]any)
	for _, i := range items {
		target := i.(object)["metadata"].(object)["target"].(string)
		all = append(all, target[strings.LastIndexByte(target, '/')+1:])
	}
	slices.Sort(all)
	return all
}

func TestListsHoldWhatTheCallerMaySee(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, name := range []string{"a", "b"} {
		s.create(name, basic)
	}
	for parent, name := range map[string]string{"projects/p1/locations/far": "c", "projects/p2/locations/local": "d"} {
		s.done(s.ok("POST", "/v1/"+parent+"/instances?instanceId="+name, basic))
	}
	const p1, p2 = "/v1/projects/p1", "/v1/projects/p2"
	for _, c := range []struct {
		binding, path, list string
		want                []string // nil: denied
	}{
		{"viewer=*", p1 + "/locations/-/instances", "instances", []string{"a", "b", "c"}},
		{"viewer=projects/p1", p1 + "/locations/-/instances", "instances", []string{"a", "b", "c"}},
		{"viewer=projects/p1", p2 + "/locations/-/instances", "instances", nil},
		{"viewer=projects/p1", p2 + "/locations/nowhere/instances", "instances", nil},
		{"viewer=projects/p1", "/v1/projects/p3/locations/-/instances", "instances", nil},
		{"viewer=projects/p1/locations/local", p1 + "/locations/-/instances", "instances", []string{"a", "b"}},
		{"viewer=projects/p1/locations/local", p1 + "/locations/local/instances", "instances", []string{"a", "b"}},
		{"viewer=projects/p1/locations/local", p1 + "/locations/far/instances", "instances", nil},
		{"viewer=projects/p1/locations/local/instances/b", p1 + "/locations/-/instances", "instances", []string{"b"}},
		{"viewer=projects/p1/locations/local/instances/b", p1 + "/locations/local/instances?pageSize=1", "instances", []string{"b"}},
		{"viewer=projects/p1/locations/local/instances/nobody", p1 + "/locations/local/instances", "instances", []string{}},
		{"viewer=projects/p1/locations/local/instances/b", p1 + "/locations", "locations", []string{"local"}},
		{"viewer=projects/p1/locations/far", p1 + "/locations", "locations", []string{"far"}},
		{"viewer=projects/p1", p1 + "/locations", "locations", []string{"far", "local"}},
		{"viewer=projects/p1", p2 + "/locations", "locations", nil},
		{"viewer=projects/p1", p1 + "/locations/-/operations", "targets", []string{"a", "b", "c"}},
		{"viewer=projects/p1/locations/local/instances/b", p1 + "/locations/-/operations", "targets", []string{"b"}},
		{"viewer=projects/p2", p1 + "/locations/-/operations", "targets", nil},
	} {
		_, secret := s.token(c.binding)
		code, v := s.as(secret, "GET", c.path, "")
		got := ids(v, c.list)
		if c.list == "targets" {
			got = targets(v)
		}
		if (code == http.StatusForbidden) != (c.want == nil) || !slices.Equal(got, c.want) || v["nextPageToken"] != nil {
			t.Errorf("%s lists %s: %d, %v %v; want %v", c.binding, c.path, code, got, v, c.want)
		}
	}
}

// What is forbidden and what is not there have the same answer, but for the name.
func TestWhatIsForbiddenLooksLikeWhatIsNotThere(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", withAuth)
	op := s.create("second", basic)["name"].(string)
	_, stranger := s.token("owner=projects/p2")
	_, neighbour := s.token("owner=projects/p1/locations/local/instances/first")
	there, absent := op, op[:len(op)-8]+"00000000"
	for _, c := range []struct {
		who, secret, verb, there, absent string
	}{
		{"another project", stranger, "GET", first, instances + "/nobody"},
		{"another project", stranger, "GET", first + "/authString", instances + "/nobody/authString"},
		{"another project", stranger, "DELETE", first, instances + "/nobody"},
		{"another project", stranger, "PATCH", first + "?updateMask=labels", instances + "/nobody?updateMask=labels"},
		{"another project", stranger, "GET", first + "/certificates", instances + "/nobody/certificates"},
		{"another project", stranger, "GET", "/v1/" + there, "/v1/" + absent},
		{"another project", stranger, "GET", "/v1/projects/p1/locations/local", "/v1/projects/p1/locations/nowhere"},
		{"another instance", neighbour, "GET", instances + "/second", instances + "/nobody"},
		{"another instance", neighbour, "GET", "/v1/" + there, "/v1/" + absent},
		{"another instance", neighbour, "POST", "/v1/" + there + ":cancel", "/v1/" + absent + ":cancel"},
		{"another instance", neighbour, "DELETE", "/v1/" + there, "/v1/" + absent},
	} {
		name := func(path string) string {
			path, _, _ = strings.Cut(strings.TrimPrefix(path, "/v1/"), "?")
			return strings.TrimSuffix(strings.TrimSuffix(path, "/authString"), ":cancel")
		}
		code, v := s.as(c.secret, c.verb, c.there, "{}")
		s.refused(403, "PERMISSION_DENIED", v, code, "(or it may not exist)")
		absentCode, w := s.as(c.secret, c.verb, c.absent, "{}")
		one, _ := json.Marshal(v)
		other, _ := json.Marshal(w)
		if code != absentCode || strings.ReplaceAll(string(one), name(c.there), "X") != strings.ReplaceAll(string(other), name(c.absent), "X") {
			t.Errorf("%s by %s:\n%s\nand of what is not there\n%s", c.there, c.who, one, other)
		}
	}
	// Who may in the place is told that it is not there.
	code, v := s.do("GET", instances+"/nobody", "")
	s.refused(404, "NOT_FOUND", v, code)
	if code, v := s.as(neighbour, "GET", first+"/authString", ""); code != http.StatusOK {
		t.Errorf("an owner of first: %d, %v", code, v)
	}
	if code, v = s.as(neighbour, "POST", instances+"?instanceId=third", basic); code != http.StatusForbidden {
		t.Errorf("an owner of first creates: %d, %v", code, v)
	}
}

// Over REST whoever may not is refused before the body is read, and before a query is looked at.
func TestWhoMayNotCannotMakeTheServerRead(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, viewer := s.token("viewer=projects/p1")
	for _, c := range [][2]string{{"PATCH", first + "?updateMask=x&bogus=y"}, {"POST", instances}, {"POST", first + ":rotateAuthString"}, {"POST", "/v1/tokens"}} {
		code, v := s.as(viewer, c[0], c[1], `{"not json`)
		s.refused(403, "PERMISSION_DENIED", v, code, "Permission 'redis.")
	}
}

// A name that the gate reads in another way than the method would let callers in where they may not.
func TestNamesThatLookLikeOthers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.done(s.ok("POST", "/v1/projects/p2/locations/local/instances?instanceId=first", withAuth))
	_, secret := s.token("owner=projects/p1")
	for _, path := range []string{
		"/v1/projects/p1%2F..%2Fp2/locations/local/instances/first", "/v1/projects/p2/locations/local/instances/first%2FdataPlane", "/v1/projects/p1/../p2/locations/local/instances/first",
		"/v1/projects/p2/locations/local/instances/first?name=projects/p1/locations/local/instances/first", "/v1/projects/P2/locations/local/instances/first",
		"/v1/projects/p1/locations/local%2Finstances%2Ffirst/instances/first", "//v1/projects/p2/locations/local/instances/first", "/v1/projects/*/locations/*/instances/first",
		"/v1/projects/-/locations/-/instances/first", "/v1/projects/p2/locations/-/instances",
	} {
		code, v := s.as(secret, "GET", path, "")
		if raw, _ := json.Marshal(v); code == http.StatusOK && strings.Contains(string(raw), "projects/p2/locations/local/instances/first") {
			t.Errorf("GET %s: %d, %s", path, code, raw)
		}
	}
	// The path names the resource, whatever the body says.
	code, v := s.as(secret, "PATCH", "/v1/projects/p2/locations/local/instances/first?updateMask=displayName", `{"name":"projects/p1/locations/local/instances/first","displayName":"mine"}`)
	s.refused(403, "PERMISSION_DENIED", v, code)
	code, v = s.as(secret, "PATCH", first+"?updateMask=displayName", `{"name":"projects/p2/locations/local/instances/first","displayName":"mine"}`)
	s.refused(404, "NOT_FOUND", v, code)
}

// Other ways to the same method: older and newer versions, another verb in a header, a call in a batch.
func TestThereIsNoOtherWayIn(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", withAuth)
	_, viewer := s.token("viewer=projects/p1")
	_, stranger := s.token("owner=projects/p2")
	for _, version := range []string{"/v1/", "/v1beta1/", "/v1alpha1/"} {
		path := strings.Replace(first, "/v1/", version, 1)
		for _, c := range []struct{ secret, verb, path string }{
			{stranger, "GET", path}, {stranger, "GET", path + "?fields=name"}, {viewer, "GET", path + "/authString"}, {viewer, "DELETE", path},
			{viewer, "PATCH", path + "?updateMask=displayName"}, {viewer, "POST", path + ":import"},
		} {
			code, v := s.as(c.secret, c.verb, c.path, "{}")
			s.refused(403, "PERMISSION_DENIED", v, code)
		}
	}
	code, v := s.doWith(http.Header{"Authorization": {"Bearer " + viewer}, "X-Http-Method-Override": {"DELETE"}}, "POST", first, "")
	s.refused(403, "PERMISSION_DENIED", v, code, "redis.instances.delete")

	batch := "--b\r\nContent-Type: application/http\r\n\r\nDELETE " + first + " HTTP/1.1\r\n\r\n" +
		"--b\r\nContent-Type: application/http\r\n\r\nGET " + first + "/authString HTTP/1.1\r\nAuthorization: Bearer " + stranger + "\r\n\r\n--b--\r\n"
	r, err := http.NewRequestWithContext(t.Context(), "POST", s.rest.URL+"/batch", strings.NewReader(batch))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Authorization": {"Bearer " + viewer}, "Content-Type": {"multipart/mixed; boundary=b"}}
	resp, err := s.rest.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || strings.Count(string(raw), "403 Forbidden") != 2 {
		t.Errorf("the batch's answers: %s, %v", raw, err)
	}
	s.ok("GET", first, "")
}

func TestSwitchingAuthNeedsMoreThanAnUpdate(t *testing.T) {
	t.Parallel()
	const v1, beta = "google.cloud.redis.v1.CloudRedis/", "google.cloud.redis.v1beta1.CloudRedis/"
	mask := func(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }
	for _, c := range []struct {
		method  string
		request proto.Message
		auth    bool
	}{
		{v1 + "UpdateInstance", &redispb.UpdateInstanceRequest{UpdateMask: mask("display_name", "auth_enabled")}, true},
		{v1 + "UpdateInstance", &redispb.UpdateInstanceRequest{UpdateMask: mask("authEnabled")}, true},
		{v1 + "UpdateInstance", &redispb.UpdateInstanceRequest{UpdateMask: mask("*")}, true},
		{v1 + "UpdateInstance", &redispb.UpdateInstanceRequest{UpdateMask: mask("labels"), Instance: &redispb.Instance{AuthEnabled: true}}, false},
		{v1 + "UpdateInstance", &redispb.UpdateInstanceRequest{}, false},
		{beta + "UpdateInstance", &betapb.UpdateInstanceRequest{UpdateMask: mask("authEnabled")}, true},
		{v1 + "CreateInstance", &redispb.CreateInstanceRequest{Instance: &redispb.Instance{AuthEnabled: true}}, true},
		{v1 + "CreateInstance", &redispb.CreateInstanceRequest{}, false},
		{beta + "CreateInstance", &betapb.CreateInstanceRequest{Instance: &betapb.Instance{AuthEnabled: true}}, true},
	} {
		got := api.PermissionsOf(c.method, c.request)
		if len(got) == 0 || slices.Contains(got, access.InstancesUpdateAuth) != c.auth {
			t.Errorf("%s of %v needs %v", c.method, c.request, got)
		}
	}
}
