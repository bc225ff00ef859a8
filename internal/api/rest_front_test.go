package api_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// raw calls REST as an HTTP client would, with headers as pairs, and leaves the answer as it comes.
func (s *server) raw(method, path, body string, headers ...string) (*http.Response, []byte) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.rest.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	for n := 0; n+1 < len(headers); n += 2 {
		r.Header.Set(headers[n], headers[n+1])
		if headers[n+1] == "" {
			r.Header.Del(headers[n])
		}
	}
	resp, err := s.rest.Client().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, raw
}

func parsed(t *testing.T, raw []byte) (v object) {
	t.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("not JSON: %q", raw)
	}
	return v
}

// A partial response has what was selected, and nothing else.
func TestFieldsSelect(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", `{"tier":"BASIC","memorySizeGb":1,"transitEncryptionMode":"SERVER_AUTHENTICATION","labels":{"a":"b","c":"d"},"redisConfigs":{"maxmemory-policy":"noeviction","timeout":"5"}}`)
	instance := "projects/p1/locations/local/instances/first"
	for _, c := range []struct{ path, fields, want string }{
		{"/first", "name,tier", `{"name":"` + instance + `","tier":"BASIC"}`},
		{"/first", "tier, memorySizeGb", `{"memorySizeGb":1,"tier":"BASIC"}`},
		{"/first", "memory_size_gb", `{"memorySizeGb":1}`},
		{"/first", "labels", `{"labels":{"a":"b","c":"d"}}`},
		{"/first", "labels/a", `{"labels":{"a":"b"}}`},
		{"/first", "labels.c", `{"labels":{"c":"d"}}`},
		{"/first", "labels(a,c)", `{"labels":{"a":"b","c":"d"}}`},
		{"/first", "redisConfigs/maxmemory-policy", `{"redisConfigs":{"maxmemory-policy":"noeviction"}}`},
		{"/first", "nodes/id", `{"nodes":[{"id":"node-0"}]}`},
		{"/first", "nodes(id),nodes/zone", `{"nodes":[{"id":"node-0","zone":"local-a"}]}`},
		{"/first", "nodes/*", `{"nodes":[{"id":"node-0","zone":"local-a"}]}`},
		{"/first", "nodes,nodes/id", `{"nodes":[{"id":"node-0","zone":"local-a"}]}`},
		{"/first", "persistenceConfig/persistenceMode", `{"persistenceConfig":{"persistenceMode":"DISABLED"}}`},
		{"/first", "satisfiesPzi,displayName", `{}`},
		{"", "instances(name,tier)", `{"instances":[{"name":"` + instance + `","tier":"BASIC"}]}`},
		{"", "instances/tier,nextPageToken", `{"instances":[{"tier":"BASIC"}]}`},
		{"", "*/tier", `{"instances":[{"tier":"BASIC"}]}`},
		{"/../operations", "operations(done,metadata/verb)", `{"operations":[{"done":true,"metadata":{"verb":"create"}}]}`},
		{"/../operations", "operations(metadata(verb,apiVersion),response/tier)", `{"operations":[{"metadata":{"apiVersion":"v1","verb":"create"},"response":{"tier":"BASIC"}}]}`},
	} {
		path := strings.Replace(instances+c.path, "/instances/..", "", 1)
		for _, form := range []string{"fields=", "$fields=", "X-Goog-FieldMask"} {
			query, header := "?prettyPrint=false&"+form+url.QueryEscape(c.fields), "X-Unused"
			if !strings.HasSuffix(form, "=") {
				query, header = "?$prettyPrint=false", form
			}
			resp, raw := s.raw("GET", path+query, "", header, c.fields)
			if got := strings.TrimSpace(string(raw)); resp.StatusCode != 200 || got != c.want {
				t.Errorf("%s%s of %s: %d, %s; want %s", form, c.fields, c.path, resp.StatusCode, got, c.want)
			}
		}
	}
	for fields, says := range map[string]string{
		"colour": "Invalid field selection colour", "name,colour": "colour", "nodes/colour": "colour", "tier/x": "tier/x", "createTime/seconds": "below Timestamp",
		"nodes(id": `at ""`, "nodes(id))": `)`, "(name)": `at "(name)"`, "name,": `at ""`, "a b": " b", "nodes(": `at ""`,
		strings.Repeat("labels(", 100): "at ", "labels/" + strings.Repeat("a/", 100) + "b": "at ", "%ff": "UTF-8",
	} {
		escaped := url.QueryEscape(fields)
		if fields == "%ff" {
			escaped = fields
		}
		code, v := s.do("GET", first+"?fields="+escaped, "")
		s.refused(400, "INVALID_ARGUMENT", v, code, says)
	}
	// A change with a bad selector is not made.
	code, v := s.do("PATCH", first+"?updateMask=displayName&fields=colour", `{"displayName":"changed"}`)
	s.refused(400, "INVALID_ARGUMENT", v, code, "colour")
	if got := s.ok("GET", first, "")["displayName"]; got != nil {
		t.Errorf("display name %v after a refused update", got)
	}
	// Errors are whole.
	code, v = s.do("GET", instances+"/none?fields=name", "")
	s.refused(404, "NOT_FOUND", v, code)
}

func TestSystemParameters(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", basic)
	for query, says := range map[string]string{
		"alt=bogus": `"alt": "bogus": want json`, "alt=proto": `"proto"`, "alt=media": `"media"`, "$alt=xml": `"$alt"`, "alt=json;enum-encoding=name": "enum-encoding=int",
		"prettyPrint=maybe": "want true or false", "callback=f": "JSONP is not offered", "$httpMethod=DELETE": "unknown system parameter", "colour=red": "Cannot find field",
	} {
		code, v := s.do("GET", first+"?"+query, "")
		s.refused(400, "INVALID_ARGUMENT", v, code, says)
		if field := at(v, "error.details.0.fieldViolations.0.field"); field != strings.Split(query, "=")[0] {
			t.Errorf("%s: field violation %v", query, field)
		}
	}
	for _, query := range []string{"alt=json", "$alt=json", "alt=", "key=k&quotaUser=q&$.xgafv=2&userIp=1.2.3.4&uploadType=&upload_protocol=&callback=", "prettyPrint=true"} {
		s.ok("GET", first+"?"+query, "")
	}
	pretty, compact := s.size(first), s.size(first+"?prettyPrint=false")
	if compact >= pretty {
		t.Errorf("%d bytes with prettyPrint=false, %d without", compact, pretty)
	}
}

func (s *server) size(path string) int {
	_, raw := s.raw("GET", path, "")
	return len(raw)
}

// A token in a URL ends in logs, so it is not taken, and the answer says where it belongs. It is never repeated.
func TestTokenInURL(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, name := range []string{"access_token", "oauth_token", "$oauth_token", "bearer_token"} {
		code, v := s.doAs("", "GET", first+"?"+name+"="+token, "")
		s.refused(401, "UNAUTHENTICATED", v, code, strings.TrimPrefix(name, "$")+": a token in a URL ends in logs", "authorization: Bearer TOKEN")
		code, also := s.do("GET", first+"?"+name+"="+token, "")
		s.refused(400, "INVALID_ARGUMENT", also, code, "a token in a URL ends in logs")
		if strings.Contains(text(v)+text(also)+s.log.String(), token) {
			t.Error("the token is repeated")
		}
	}
}

// Python's client sends a long GET as a POST.
func TestMethodOverride(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", basic)
	const form = "application/x-www-form-urlencoded"
	resp, raw := s.raw("POST", instances, "pageSize=1&fields=instances%2Ftier&filler=", "X-HTTP-Method-Override", "GET", "Content-Type", form)
	if resp.StatusCode != 400 || !strings.Contains(string(raw), "filler") {
		t.Errorf("a form as the query: %d, %s; want that its parameters are read", resp.StatusCode, raw)
	}
	resp, raw = s.raw("POST", instances, "pageSize=1&fields=instances%2Ftier", "X-HTTP-Method-Override", "get", "Content-Type", form)
	if resp.StatusCode != 200 || text(parsed(t, raw)) != `{"instances":[{"tier":"BASIC"}]}` {
		t.Errorf("list: %d, %s", resp.StatusCode, raw)
	}
	resp, raw = s.raw("POST", first+"?updateMask=displayName", `{"displayName":"overridden"}`, "X-HTTP-Method-Override", "PATCH")
	if resp.StatusCode != 200 || s.ok("GET", first, "")["displayName"] != "overridden" {
		t.Errorf("update: %d, %s", resp.StatusCode, raw)
	}
	for method, override := range map[string]string{"POST": "TRACE", "GET": "DELETE", "DELETE": "GET"} {
		resp, raw = s.raw(method, first, "", "X-HTTP-Method-Override", override)
		s.refused(400, "INVALID_ARGUMENT", parsed(t, raw), resp.StatusCode, "x-http-method-override", override)
	}
	// Nobody without a token makes the server read the form.
	resp, raw = s.raw("POST", instances, "pageSize=1", "X-HTTP-Method-Override", "GET", "Content-Type", form, "Authorization", "")
	s.refused(401, "UNAUTHENTICATED", parsed(t, raw), resp.StatusCode)
	resp, raw = s.raw("DELETE", first, "")
	if resp.StatusCode != 200 {
		t.Errorf("delete: %d, %s", resp.StatusCode, raw)
	}
}

func packed(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

func TestCompressedBodies(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const create = instances + "?instanceId=first"
	resp, raw := s.raw("POST", create, packed(basic), "Content-Encoding", "gzip")
	if resp.StatusCode != 200 {
		t.Fatalf("create: %d, %s", resp.StatusCode, raw)
	}
	// A megabyte of spaces takes a kilobyte when it is packed; ten thousand of them would fit in a request.
	for _, c := range []struct {
		body, encoding, says string
		code                 int
	}{
		{packed(`{"displayName":"` + strings.Repeat("a", 8<<20) + `"}`), "gzip", "larger than 1048576 bytes", 413},
		{packed(basic)[:20], "gzip", "read the request's body", 400},
		{basic, "gzip", "read the request's body", 400},
		{basic, "br", `content-encoding: "br": want gzip`, 400},
	} {
		resp, raw := s.raw("POST", create, c.body, "Content-Encoding", c.encoding)
		s.refused(c.code, "INVALID_ARGUMENT", parsed(t, raw), resp.StatusCode, c.says)
	}
	for n := range 20 {
		s.create(fmt.Sprintf("more-%d", n), basic)
	}
	plain := s.size(instances)
	resp, raw = s.raw("GET", instances, "", "Accept-Encoding", "gzip, deflate")
	if resp.Header.Get("Content-Encoding") != "gzip" || len(raw) > plain/4 {
		t.Errorf("a list: %q, %d bytes; want gzip, and less than %d", resp.Header.Get("Content-Encoding"), len(raw), plain/4)
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if whole, err := io.ReadAll(unpacked); err != nil || len(whole) != plain {
		t.Errorf("unpacked: %d bytes, %v; want %d", len(whole), err, plain)
	}
	for _, accept := range []string{"identity", "gzip;q=0", "br", "gzip;q=0.0"} {
		if resp, _ := s.raw("GET", instances, "", "Accept-Encoding", accept); resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("accept-encoding %q is answered with %q", accept, resp.Header.Get("Content-Encoding"))
		}
	}
	// A small answer isn't worth it; an AUTH string's length must tell nothing about it.
	if resp, _ := s.raw("GET", first+"/authString", "", "Accept-Encoding", "gzip"); resp.Header.Get("Content-Encoding") != "" {
		t.Error("an AUTH string is compressed")
	}
}

// Pages from this machine may call the API; they need the token like everybody. Pages from elsewhere may not.
func TestBrowsers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for origin, allowed := range map[string]bool{
		"http://localhost:3000": true, "http://127.0.0.1:7378": true, "https://127.83.0.1": true, "http://[::1]:80": true,
		"https://evil.example": false, "http://localhost.evil.example": false, "http://127.0.0.1.evil.example": false, "null": false, "http://10.0.0.1": false,
	} {
		resp, raw := s.raw("OPTIONS", instances, "", "Authorization", "", "Origin", origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization")
		got := resp.Header.Get("Access-Control-Allow-Origin")
		if resp.StatusCode != 204 || len(raw) != 0 || (got == origin) != allowed || !allowed && got != "" || resp.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("preflight of %s: %d, %v", origin, resp.StatusCode, resp.Header)
		}
		if allowed && !strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "authorization") {
			t.Errorf("preflight of %s: headers %q", origin, resp.Header.Get("Access-Control-Allow-Headers"))
		}
		resp, _ = s.raw("GET", instances, "", "Authorization", "", "Origin", origin)
		if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != 401 || (got == origin) != allowed || !strings.Contains(strings.Join(resp.Header.Values("Vary"), ","), "Origin") {
			t.Errorf("call of %s without a token: %d, %v", origin, resp.StatusCode, resp.Header)
		}
	}
}

// batch sends calls in one request and returns the answers with their Content-IDs.
func (s *server) batch(path string, calls ...string) (ids []string, answers []*http.Response, bodies []string) {
	s.t.Helper()
	var body strings.Builder
	for n, call := range calls {
		fmt.Fprintf(&body, "--===============7330845974216740156==\r\nContent-Type: application/http\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <b29c5de2-0db4 + %d>\r\n\r\n%s\r\n", n+1, call)
	}
	body.WriteString("--===============7330845974216740156==--\r\n")
	resp, raw := s.raw("POST", path, body.String(), "Content-Type", `multipart/mixed; boundary="===============7330845974216740156=="`)
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" || resp.StatusCode != 200 {
		s.t.Fatalf("batch: %d, %q, %s", resp.StatusCode, kind, raw)
	}
	for parts := multipart.NewReader(bytes.NewReader(raw), params["boundary"]); ; {
		part, err := parts.NextPart()
		if err == io.EOF {
			return ids, answers, bodies
		}
		if err != nil {
			s.t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(part), nil)
		if err != nil {
			s.t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		ids, answers, bodies = append(ids, part.Header.Get("Content-ID")), append(answers, answer), append(bodies, string(text))
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, path := range []string{"/batch", "/batch/redis/v1"} {
		id := strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "-")
		ids, answers, bodies := s.batch(path,
			"POST "+instances+"?instanceId="+id+" HTTP/1.1\r\nContent-Type: application/json\r\nHost: redis.googleapis.com\r\n\r\n"+basic,
			"GET "+instances+"?fields=instances/tier HTTP/1.1\r\naccept: application/json\r\n\r\n",
			"GET "+instances+"/none\n\n",
			"GET "+instances+" HTTP/1.1\r\nAuthorization: Bearer nope\r\n\r\n",
		)
		if fmt.Sprint(ids) != "[<response-b29c5de2-0db4 + 1> <response-b29c5de2-0db4 + 2> <response-b29c5de2-0db4 + 3> <response-b29c5de2-0db4 + 4>]" {
			t.Errorf("content ids: %v", ids)
		}
		for n, want := range []int{200, 200, 404, 401} {
			if answers[n].StatusCode != want {
				t.Errorf("call %d: %d, %s; want %d", n+1, answers[n].StatusCode, bodies[n], want)
			}
		}
		if !strings.Contains(bodies[1], "BASIC") || strings.Contains(bodies[1], "name") {
			t.Errorf("list: %s", bodies[1])
		}
	}
	// Parts that can't be read are refused before any of them is served.
	for body, says := range map[string]string{
		"--b\r\nContent-Type: application/http\r\n\r\nDELETE " + instances + "/batch\r\n\r\n--b\r\n\r\nnonsense\r\n--b--": "call 2 of the batch: \"nonsense\" is not the first line of a request",
		"--b\r\n\r\nPOST /batch HTTP/1.1\r\n\r\n--b--":                                                                    "a batch in a batch",
		"--b\r\n\r\nGET http://%zz HTTP/1.1\r\n\r\n--b--":                                                                 "call 1 of the batch",
		"no parts": "call 1 of the batch",
		strings.Repeat("--b\r\n\r\nGET "+instances+" HTTP/1.1\r\n\r\n", maxBatch+1) + "--b--": "more than 100 calls",
	} {
		resp, raw := s.raw("POST", "/batch", body, "Content-Type", "multipart/mixed; boundary=b")
		s.refused(400, "INVALID_ARGUMENT", parsed(t, raw), resp.StatusCode, says)
	}
	s.ok("GET", instances+"/batch", "")
	resp, raw := s.raw("POST", "/batch", "", "Content-Type", "application/json")
	s.refused(400, "INVALID_ARGUMENT", parsed(t, raw), resp.StatusCode, "multipart/mixed")
	resp, raw = s.raw("GET", "/batch", "")
	s.refused(405, "UNIMPLEMENTED", parsed(t, raw), resp.StatusCode)
	resp, raw = s.raw("POST", "/batch", "--b", "Content-Type", "multipart/mixed; boundary=b", "Authorization", "")
	s.refused(401, "UNAUTHENTICATED", parsed(t, raw), resp.StatusCode)
}

// maxBatch is as documented.
const maxBatch = 100

func TestWrongFieldsAreAllNamed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	code, v := s.do("POST", instances+"?instanceId=a", `{"tier":"GOLD","memorySizeGb":"x","colour":1,"persistenceConfig":{"mode":"RDB","rdbSnapshotPeriod":"NEVER"},
		"maintenancePolicy":{"weeklyMaintenanceWindow":[{"day":"MONDAY"},{"dai":"MONDAY"}]},"labels":{"a":1},"createTime":"now"}`)
	s.refused(400, "INVALID_ARGUMENT", v, code)
	want := map[string]string{
		"instance":                    `Invalid JSON payload received. Unknown name "colour" at 'instance': Cannot find field.`,
		"instance.tier":               `Invalid value at 'instance.tier' (type.googleapis.com/google.cloud.redis.v1.Instance.Tier), "GOLD"`,
		"instance.memory_size_gb":     `Invalid value at 'instance.memory_size_gb' (TYPE_INT32), "x"`,
		"instance.persistence_config": `Invalid JSON payload received. Unknown name "mode" at 'instance.persistence_config': Cannot find field.`,
		"instance.persistence_config.rdb_snapshot_period":          `Invalid value at 'instance.persistence_config.rdb_snapshot_period' (type.googleapis.com/google.cloud.redis.v1.PersistenceConfig.SnapshotPeriod), "NEVER"`,
		"instance.maintenance_policy.weekly_maintenance_window[1]": `Invalid JSON payload received. Unknown name "dai" at 'instance.maintenance_policy.weekly_maintenance_window[1]': Cannot find field.`,
		"instance.labels":      `Invalid value at 'instance.labels' (Map), {"a":1}`,
		"instance.create_time": `Invalid value at 'instance.create_time' (type.googleapis.com/google.protobuf.Timestamp), "now"`,
	}
	got := at(v, "error.details.0.fieldViolations").([]any)
	message := at(v, "error.message").(string)
	for _, violation := range got {
		field, description := at(violation, "field").(string), at(violation, "description").(string)
		if want[field] != description || !strings.Contains(message, description) {
			t.Errorf("%s: %q; want %q", field, description, want[field])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d violations; want %d", len(got), len(want))
	}
}

func TestFilterOfOperations(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("first", basic)
	s.create("second", basic)
	s.ok("PATCH", first+"?updateMask=displayName", `{"displayName":"x"}`)
	for filter, want := range map[string]int{
		"": 3, "done=true": 3, "done=false": 0, "verb=create": 2, "metadata.verb=update": 1, "metadata.target:first": 2, "metadata.target:first AND verb=create": 1,
		"NOT metadata.target:first": 1, `metadata.createTime>"2020-01-01T00:00:00Z"`: 3, "error:*": -1, "api_version=v1": 3, "first": 2,
	} {
		code, v := s.do("GET", "/v1/projects/p1/locations/local/operations?filter="+url.QueryEscape(filter), "")
		all, _ := v["operations"].([]any)
		if want >= 0 && (code != 200 || len(all) != want) || want < 0 && code != 400 {
			t.Errorf("%s: %d, %d operations; want %d", filter, code, len(all), want)
		}
	}
}
