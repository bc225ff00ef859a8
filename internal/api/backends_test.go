package api_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/backend"
)

const (
	backendInstances = "/v1/projects/p1/locations/local/backendInstances"
	aBackend         = first + "/backend"
	backendPassword  = "correct-horse"
)

// A backend is created, shown and changed over REST; its password is never shown, and neither is it logged.
func TestBackendOverREST(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	op := s.ok("POST", backendInstances, `{"instanceId":"first","instance":`+basic+`,"backend":{"address":"rediss://app@redis.example.com","password":"`+backendPassword+`"}}`)
	s.done(op)
	want := object{
		"name": "projects/p1/locations/local/instances/first/backend", "address": "redis.example.com:6379", "tls": true, "user": "app", "hasPassword": true,
	}
	if got := s.ok("GET", aBackend, ""); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v; want %v", got, want)
	}
	if got := s.givenBackend(); got == nil || got.Password != backendPassword || got.User != "app" || !got.TLS {
		t.Errorf("the node has %v", got)
	}
	// What a client read it may send back; only the mask counts, and a field that is named and absent becomes empty.
	got := s.ok("PATCH", aBackend+"?updateMask=address,plaintext,user,password", `{"address":"redis://10.0.0.5:6380","plaintext":true,"password":"`+backendPassword+`","hasPassword":false,"engine":"x","name":"projects/p1/locations/local/instances/other/backend"}`)
	want = object{"name": want["name"], "address": "10.0.0.5:6380", "plaintext": true, "hasPassword": true}
	if fmt.Sprint(got) != fmt.Sprint(want) || s.givenBackend().Password != backendPassword {
		t.Errorf("got %v; want %v", got, want)
	}
	s.ok("PATCH", aBackend+"?updateMask=password", `{}`)
	if got := s.ok("GET", aBackend, ""); got["hasPassword"] != nil || s.givenBackend().Password != "" {
		t.Errorf("got %v, the node has %v", got, s.givenBackend())
	}
	if text := s.log.String(); strings.Contains(text, backendPassword) {
		t.Errorf("the password is in the log:\n%s", text)
	}
}

// What is wrong is said by the names of the fields, and never with a password.
func TestBackendsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.create("own", basic)
	for _, tc := range []struct {
		method, path, body string
		code               int
		words              string
	}{
		{"POST", backendInstances, `{"instanceId":"first","instance":` + basic + `}`, 400, "backend.address"},
		{"POST", backendInstances, `{"instanceId":"first","instance":` + basic + `,"backend":{"address":"redis://:secret@h"}}`, 400, "backend.address: it has a password in it"},
		{"POST", backendInstances, `{"instanceId":"first","instance":` + basic + `,"backend":{"address":"10.0.0.5"}}`, 400, "backend.plaintext"},
		{"POST", backendInstances, `{"instanceId":"first","instance":` + strings.Replace(basic, "{", `{"redisVersion":"REDIS_7_0",`, 1) + `,"backend":{"address":"unix:/x"}}`, 400, "redis_version: the instance has a backend"},
		{"POST", backendInstances, `{"instanceId":"own","instance":` + basic + `,"backend":{"address":"unix:/x"}}`, 409, "already exists"},
		{"GET", "/v1/projects/p1/locations/local/instances/own/backend", "", 404, "has no backend"},
		{"PATCH", "/v1/projects/p1/locations/local/instances/own/backend?updateMask=user", `{}`, 404, "has no backend"},
		{"PATCH", aBackend + "?updateMask=user", `{}`, 404, "was not found"},
		{"PATCH", aBackend, `{}`, 400, "update_mask: is empty"},
		{"PATCH", aBackend + "?updateMask=engine", `{}`, 400, `"engine" cannot be updated`},
	} {
		code, body := s.do(tc.method, tc.path, tc.body)
		text := fmt.Sprint(body)
		if code != tc.code || !strings.Contains(text, tc.words) || strings.Contains(text, "secret") {
			t.Errorf("%s %s %s:\n got %d %s\nwant %d %s", tc.method, tc.path, tc.body, code, text, tc.code, tc.words)
		}
	}
}

// givenBackend is what the node was given.
func (s *server) givenBackend() (b *backend.Server) {
	s.nodes.set(func(n *nodes) { b = n.given.Backend })
	return b
}

func TestBackendOverGRPC(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.done(s.ok("POST", backendInstances, `{"instanceId":"first","instance":`+basic+`,"backend":{"address":"unix:/run/redis.sock"}}`))
	backends, ctx := sealanepb.NewBackendsClient(s.grpc), authorized(t)
	name := strings.TrimPrefix(aBackend, "/v1/")
	got, err := backends.UpdateBackend(ctx, &sealanepb.UpdateBackendRequest{
		Backend: &sealanepb.Backend{Name: name, Password: backendPassword}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"password"}},
	})
	if err != nil || !got.GetHasPassword() || got.GetPassword() != "" || got.GetAddress() != "unix:/run/redis.sock" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := backends.GetBackend(ctx, &sealanepb.GetBackendRequest{Name: strings.TrimSuffix(name, "/backend")}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("%v", err)
	}
}
