package authz_test

import (
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/authz"
)

const instance = "projects/p/locations/l/instances/i"

func TestTheScopeThatARequestNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind       authz.Kind
		name, want string // "": none
	}{
		{authz.Instance, instance, instance},
		{authz.Instance, instance + "/dataPlane", instance},
		{authz.Instance, instance + "/a/b", ""},
		{authz.Instance, "projects/p/locations/l/instances", ""},
		{authz.Instance, "projects/p/locations/-/instances/i", ""},
		{authz.Instance, "projects//locations/l/instances/i", ""},
		{authz.Instance, "//redis.googleapis.com/" + instance, ""},
		{authz.Instance, "", ""},
		{authz.Instance, "/////", ""},
		{authz.Location, "projects/p/locations/l", "projects/p/locations/l"},
		{authz.Location, "projects/p/locations/-", "projects/p"},
		{authz.Location, "projects/p/zones/-", ""},
		{authz.Location, "projects/p/locations/l/operations", "projects/p/locations/l"},
		{authz.Location, "projects/-/locations/-", ""},
		{authz.Location, instance, ""},
		{authz.Project, "projects/p", "projects/p"},
		{authz.Project, "projects/p/locations/l", ""},
		{authz.Project, "projects/-", ""},
		{authz.Operation, "projects/p/locations/l/operations/o", "projects/p/locations/l"},
		{authz.Operation, "projects/p/locations/-/operations/o", ""},
		{authz.Operation, "projects/p/locations/l/instances/o", ""},
		{authz.Operation, "projects/p/locations/l/operations", ""},
	} {
		got, ok := authz.ScopeOf(c.kind, c.name)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("kind %d, %q: %q, %t; want %q", c.kind, c.name, got, ok, c.want)
		}
	}
}

// Whatever a name is, its scope is what it begins with, and never everything.
func FuzzScopeOf(f *testing.F) {
	for _, seed := range []string{instance, instance + "/dataPlane", "projects/p/locations/-", "projects/p", "projects/p/locations/l/operations/o", "a/b/c/d/e/f", "projects/p/locations/l/instances/i\x00"} {
		for kind := range 4 {
			f.Add(kind, seed)
		}
	}
	f.Fuzz(func(t *testing.T, kind int, name string) {
		if kind < 0 || kind > 3 {
			t.Skip()
		}
		scope, ok := authz.ScopeOf(authz.Kind(kind), name)
		if ok && (scope == (access.Scope{}) || !strings.HasPrefix(name+"/", scope.String()+"/")) {
			t.Errorf("kind %d, %q: %q", kind, name, scope)
		}
	})
}
