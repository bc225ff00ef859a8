package e2e_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The calls of the Terraform provider's google_redis_instance work, in its order and with its spellings, and the answers have what
// its decoder needs. The provider treats an answer without the key "name" as synchronous, compares enums as strings, and expects
// authEnabled to be absent or a boolean.
func TestTerraformReplay(t *testing.T) {
	t.Parallel()
	for _, auth := range []bool{true, false} {
		t.Run(fmt.Sprintf("auth_enabled=%v", auth), func(t *testing.T) {
			t.Parallel()
			s := startServer(t, serverOptions{})
			tf := terraform{t, s}
			const parent = "projects/my-project/locations/us-central1"
			const name = parent + "/instances/memory-cache"

			body := map[string]any{
				"name": name, "displayName": "Terraform", "memorySizeGb": 1, "tier": "BASIC", "connectMode": "DIRECT_PEERING",
				"transitEncryptionMode": "SERVER_AUTHENTICATION", "redisVersion": "REDIS_7_0", "readReplicasMode": "READ_REPLICAS_DISABLED",
				"authorizedNetwork": "projects/my-project/global/networks/default",
				"redisConfigs":      map[string]string{"maxmemory-policy": "allkeys-lru"},
				"labels":            map[string]string{"goog-terraform-provisioned": "true", "team": "web"},
			}
			if auth {
				body["authEnabled"] = true
			}
			tf.operation("POST", "/v1/"+parent+"/instances?instanceId=memory-cache&alt=json", body)
			i := tf.call("GET", "/v1/"+name+"?alt=json", nil)
			tf.wantStrings(i, map[string]string{
				"name": name, "displayName": "Terraform", "tier": "BASIC", "connectMode": "DIRECT_PEERING", "transitEncryptionMode": "SERVER_AUTHENTICATION",
				"readReplicasMode": "READ_REPLICAS_DISABLED", "state": "READY", "redisVersion": "REDIS_7_0", "locationId": "us-central1-a",
				"currentLocationId": "us-central1-a", "authorizedNetwork": "projects/my-project/global/networks/default",
				"createTime": `^\d{4}-\d\d-\d\dT.*Z$`, "host": `^127\.`, "persistenceConfig.persistenceMode": "DISABLED",
				"labels.team": "web", "redisConfigs.maxmemory-policy": "allkeys-lru", "nodes.0.id": "node-0", "nodes.0.zone": "us-central1-a",
				"serverCaCerts.0.cert": `^-----BEGIN CERTIFICATE-----\n`, "serverCaCerts.0.createTime": `Z$`, "serverCaCerts.0.expireTime": `Z$`,
				"serverCaCerts.0.serialNumber": `^\d+$`, "serverCaCerts.0.sha1Fingerprint": `^[0-9a-f]{40}$`,
			})
			for key, want := range map[string]float64{"port": 6378, "memorySizeGb": 1} {
				if i[key] != want {
					t.Errorf("%s: got %v, want the number %v", key, i[key], want)
				}
			}
			switch got, there := i["authEnabled"]; {
			case auth && got != true:
				t.Errorf("authEnabled: got %v, want true", got)
			case !auth && there:
				t.Errorf("authEnabled: got %v, want that it is absent", got)
			}
			if auth {
				tf.wantStrings(tf.call("GET", "/v1/"+name+"/authString?alt=json", nil), map[string]string{"authString": `^[0-9a-f-]{36}$`})
			}

			tf.operation("PATCH", "/v1/"+name+"?updateMask=displayName%2Clabels&alt=json", map[string]any{
				"displayName": "Changed", "labels": map[string]string{"goog-terraform-provisioned": "true"},
			})
			i = tf.call("GET", "/v1/"+name+"?alt=json", nil)
			tf.wantStrings(i, map[string]string{"displayName": "Changed", "labels.goog-terraform-provisioned": "true", "redisConfigs.maxmemory-policy": "allkeys-lru"})
			if labels, _ := i["labels"].(map[string]any); len(labels) != 1 {
				t.Errorf("labels after the update: got %v, want one", labels)
			}

			tf.operation("DELETE", "/v1/"+name+"?alt=json", nil)
			gone := s.rest("GET", "/v1/"+name+"?alt=json", "")
			want := map[string]any{"error": map[string]any{
				"code": 404.0, "message": "Resource '" + name + "' was not found", "status": "NOT_FOUND",
			}}
			if got := gone.json(t); gone.code != 404 || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("get after the delete: got %d, %v, want %v", gone.code, got, want)
			}
		})
	}
}

// A Standard instance, as the provider creates and changes it: masked fields count, and the computed ones are read back.
func TestTerraformReplayOfStandard(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	tf := terraform{t, s}
	const parent = "projects/my-project/locations/us-central1"
	const name = parent + "/instances/memory-cache"
	tf.operation("POST", "/v1/"+parent+"/instances?instanceId=memory-cache&alt=json", map[string]any{
		"name": name, "memorySizeGb": 5, "tier": "STANDARD_HA", "connectMode": "DIRECT_PEERING", "transitEncryptionMode": "SERVER_AUTHENTICATION",
		"locationId": "us-central1-a", "alternativeLocationId": "us-central1-f", "labels": map[string]string{"goog-terraform-provisioned": "true"},
	})
	i := tf.call("GET", "/v1/"+name+"?alt=json", nil)
	tf.wantStrings(i, map[string]string{"tier": "STANDARD_HA", "alternativeLocationId": "us-central1-f", "currentLocationId": "us-central1-a", "readReplicasMode": "READ_REPLICAS_DISABLED", "nodes.0.id": "node-0", "nodes.0.zone": "us-central1-a"})
	if i["replicaCount"] != 1.0 || i["readEndpoint"] != nil || len(i["nodes"].([]any)) != 2 {
		t.Errorf("after the create: %v", i)
	}
	// read_replicas_mode and secondary_ip_range were set; replica_count, which is computed, comes along without a mask.
	tf.operation("PATCH", "/v1/"+name+"?updateMask=readReplicasMode%2CsecondaryIpRange&alt=json", map[string]any{
		"memorySizeGb": 5, "replicaCount": 1, "readReplicasMode": "READ_REPLICAS_ENABLED", "secondaryIpRange": "auto",
	})
	i = tf.call("GET", "/v1/"+name+"?alt=json", nil)
	tf.wantStrings(i, map[string]string{"readReplicasMode": "READ_REPLICAS_ENABLED", "readEndpoint": `^127\.`, "secondaryIpRange": `^10\.83\.\d+\.\d+/28$`, "state": "READY"})
	if i["replicaCount"] != 2.0 || i["readEndpointPort"] != 6378.0 || len(i["nodes"].([]any)) != 3 {
		t.Errorf("with read replicas: %v", i)
	}
	tf.operation("PATCH", "/v1/"+name+"?updateMask=replicaCount%2CdisplayName&alt=json", map[string]any{"replicaCount": 1, "displayName": "fewer"})
	if i = tf.call("GET", "/v1/"+name+"?alt=json", nil); i["replicaCount"] != 1.0 || i["displayName"] != "fewer" || len(i["nodes"].([]any)) != 2 {
		t.Errorf("with fewer replicas: %v", i)
	}
	tf.operation("DELETE", "/v1/"+name+"?alt=json", nil)
}

type terraform struct {
	t *testing.T
	s *server
}

// call sends a request that must succeed.
func (tf terraform) call(method, path string, body map[string]any) map[string]any {
	tf.t.Helper()
	text := ""
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			tf.t.Fatal(err)
		}
		text = string(raw)
	}
	r := tf.s.rest(method, path, text)
	if r.code != 200 || !strings.HasPrefix(r.header.Get("Content-Type"), "application/json") {
		tf.t.Fatalf("%s %s: got %d, %s", method, path, r.code, r.body)
	}
	return r.json(tf.t)
}

// operation sends a request and polls the operation that it returns until that is done.
func (tf terraform) operation(method, path string, body map[string]any) {
	tf.t.Helper()
	began, polls := time.Now(), 0
	op := tf.call(method, path, body)
	eventually(tf.t, 30*time.Second, method+" "+path+" is done", func() bool {
		name, _ := op["name"].(string)
		done, isBool := op["done"].(bool)
		if !operationName.MatchString(name) || !isBool || op["metadata"] == nil {
			tf.t.Fatalf("%s %s: got %v, want an operation with name, done and metadata", method, path, op)
		}
		if !done {
			polls++
			op = tf.call("GET", "/v1/"+name+"?alt=json", nil)
		}
		return done
	})
	// The provider waits ten seconds before it polls. The answers wait for the operation, so that it needn't.
	tf.t.Logf("%s: done after %v and %d polls", method, time.Since(began).Round(time.Millisecond), polls)
	if polls > 2 {
		tf.t.Errorf("%s: done after %d polls: the answers don't wait for the operation", method, polls)
	}
	if op["error"] != nil {
		tf.t.Fatalf("%s %s: got %v", method, path, op)
	}
	verb := map[string]string{"POST": "create", "PATCH": "update", "DELETE": "delete"}[method]
	response := "type.googleapis.com/google.cloud.redis.v1.Instance"
	if method == "DELETE" {
		response = "type.googleapis.com/google.protobuf.Empty"
	}
	tf.wantStrings(op, map[string]string{
		"metadata.@type": "type.googleapis.com/google.cloud.redis.v1.OperationMetadata", "metadata.verb": verb, "metadata.apiVersion": "v1",
		"metadata.createTime": "Z$", "metadata.endTime": "Z$", "metadata.target": "/instances/memory-cache$", "response.@type": response,
	})
}

// wantStrings compares fields, which may be nested, with texts. A text that begins with ^ or ends with $ is a pattern.
func (tf terraform) wantStrings(v map[string]any, want map[string]string) {
	tf.t.Helper()
	for path, w := range want {
		var at any = v
		for rest := path; rest != ""; {
			var key string
			// Names with a hyphen or @ have no dot, so a dot is always a separator.
			key, rest, _ = strings.Cut(rest, ".")
			switch x := at.(type) {
			case map[string]any:
				at = x[key]
			case []any:
				at = x[0]
			default:
				at = nil
			}
		}
		got, ok := at.(string)
		match := got == w
		if strings.HasPrefix(w, "^") || strings.HasSuffix(w, "$") {
			match = regexp.MustCompile(w).MatchString(got)
		}
		if !ok || !match {
			tf.t.Errorf("%s: got %v, want the text %q", path, at, w)
		}
	}
}
