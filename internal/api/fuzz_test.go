package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// Whatever is sent over REST, the server answers with JSON, and what is wrong is the sender's fault.
func FuzzREST(f *testing.F) {
	s := newServer(f)
	for _, seed := range [][4]string{
		{"GET", instances, "pageSize=1&pageToken=YQ", ""},
		{"GET", first, "$alt=json;enum-encoding=int", ""},
		{"GET", first + "/authString", "", ""},
		{"POST", instances, "instanceId=first", basic},
		{"POST", instances, "instance_id=b", `{"tier":1,"labels":{"a":"b"},"redisConfigs":{"timeout":"1"},"tags":{},"createTime":"2001-01-01T00:00:00Z"}`},
		{"PATCH", first, "updateMask=displayName,labels", `{"displayName":"é","labels":{"a":"b"}}`},
		{"PATCH", strings.Replace(first, "v1", "v1beta1", 1), "updateMask=redisConfig", `{"satisfiesPzi":true}`},
		{"POST", first + ":upgrade", "", `{"redisVersion":"REDIS_7_0"}`},
		{"POST", first + ":failover", "", `{"dataProtectionMode":1}`},
		{"GET", first + "/dataPlane", "$alt=json;enum-encoding=int", ""},
		{"PATCH", first + "/dataPlane", "updateMask=dataPath", `{"dataPath":"MULTIPLEXED","clients":1,"accepted":"2"}`},
		{"GET", first, "fields=name,labels(a),nodes/id&prettyPrint=false&alt=json", ""},
		{"PATCH", first, "updateMask=redisConfigs.timeout&updateMask=persistenceConfig.persistenceMode", `{"redisConfigs":{"timeout":"5"},"persistenceConfig":{"persistenceMode":2}}`},
		{"POST", first + ":rescheduleMaintenance", "", `{"rescheduleType":"SPECIFIC_TIME","scheduleTime":"2030-01-01T00:00:00Z"}`},
		{"POST", "/v1alpha1/projects/p1/locations/local/instances", "instanceId=c", `{"colour":1,"nodes":[{"x":1},2],"createTime":"x","labels":[]}`},
		{"GET", "/v1/projects/p1/locations/local/clusters", "", ""},
		{"DELETE", first, "", ""},
		{"GET", "/v1/projects/p1/locations/-/operations", "filter=done%3Dtrue%20AND%20target:x", ""},
		{"POST", "/v1/projects/p1/locations/local/operations/o:cancel", "", "{}"},
		{"GET", "/v1beta1/projects/example.com:p1/locations/local", "", ""},
		{"GET", "/v1/projects/%ff/locations/%2f/instances/%25", "parent=%ff&name[a]=b&.=&instance.labels[x]=y", "\xff"},
		{"PATCH", strings.Replace(first, "p1", "%ff", 1), "updateMask=%ff&instance.memorySizeGb=1", `{"name":1e999}`},
	} {
		f.Add(seed[0], seed[1], seed[2], []byte(seed[3]))
	}
	f.Fuzz(func(t *testing.T, method, path, query string, body []byte) {
		u, err := url.ParseRequestURI(path)
		if err != nil || u.Host != "" {
			t.Skip()
		}
		u.RawQuery = query
		r, err := http.NewRequest(method, "http://sealane"+u.RequestURI(), strings.NewReader(string(body)))
		if err != nil {
			t.Skip()
		}
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		s.api.REST.ServeHTTP(w, r)
		var v struct {
			Error *struct {
				Code   int
				Status string
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
			t.Fatalf("%d, not JSON: %q", w.Code, w.Body)
		}
		if w.Code >= 500 || w.Code == http.StatusUnauthorized && !strings.Contains(query, "token") {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
		if (w.Code == http.StatusOK) != (v.Error == nil) || v.Error != nil && (v.Error.Code != w.Code || v.Error.Status == "") {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
	})
}
