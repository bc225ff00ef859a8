package access_test

import (
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/sealane/sealane/internal/access"
)

// What the managed service's roles have, and what Sealane's own permissions add.
func TestRolesHaveTheManagedServicesPermissions(t *testing.T) {
	t.Parallel()
	reads := func(p access.Permission) bool {
		return (strings.HasSuffix(string(p), ".get") || strings.HasSuffix(string(p), ".list")) && !strings.HasPrefix(string(p), "redis.tokens.")
	}
	notAnEditors := []access.Permission{access.InstancesCreate, access.InstancesDelete, access.CertificatesCompromise, access.BackendsUpdate}
	for _, p := range access.Permissions {
		aboutTokens := strings.HasPrefix(string(p), "redis.tokens.")
		for role, want := range map[access.Role]bool{
			access.Owner: true, access.RedisAdmin: true, access.Editor: !aboutTokens,
			access.RedisEditor: !aboutTokens && !slices.Contains(notAnEditors, p),
			access.Viewer:      reads(p), access.RedisViewer: reads(p),
			access.DBConnectionUser: slices.Contains([]access.Permission{"redis.instances.get", "redis.instances.getAuthString", "redis.certificates.get", "redis.dataPlanes.get", "redis.transitEncryptions.get"}, p),
			"roles/gardener":        false, "": false,
		} {
			if got := role.Has(p); got != want {
				t.Errorf("%s has %s: %t, want %t", role, p, got, want)
			}
		}
	}
	for _, p := range []access.Permission{"", "redis.instances", "redis.instances.peek", "redis.clusters.get", "get"} {
		if access.Owner.Has(p) || access.Viewer.Has(p) {
			t.Errorf("a role has %q, which is no permission", p)
		}
	}
	if !slices.IsSorted(access.Permissions) {
		t.Error("the permissions are not ordered by name")
	}
	if got := access.RolesWith(access.TokensCreate); !slices.Equal(got, []access.Role{access.RedisAdmin, access.Owner}) {
		t.Errorf("roles with redis.tokens.create: %v", got)
	}
}

func TestRolesAreReadWithAndWithoutTheirPrefix(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]access.Role{"redis.viewer": access.RedisViewer, "roles/redis.viewer": access.RedisViewer, "owner": access.Owner} {
		if got, ok := access.ParseRole(text); !ok || got != want {
			t.Errorf("%q: %q, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "roles/", "Owner", "roles/roles/owner", "redis.viewer "} {
		if got, ok := access.ParseRole(text); ok {
			t.Errorf("%q is %q, want no role", text, got)
		}
	}
}

func scope(t *testing.T, text string) access.Scope {
	t.Helper()
	s, err := access.ParseScope(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestARoleHoldsAtItsScopeAndBelow(t *testing.T) {
	t.Parallel()
	const project, place, instance = "projects/p1", "projects/p1/locations/l1", "projects/p1/locations/l1/instances/i1"
	for _, c := range []struct {
		bound, at   string
		may, within bool
	}{
		{"*", "*", true, true},
		{"*", instance, true, true},
		{project, project, true, true},
		{project, "//redis.googleapis.com/" + instance, true, true},
		{project, "projects/p2", false, false},
		{project, "projects/p11", false, false},
		{project, "*", false, true},
		{place, project, false, true},
		{place, place, true, true},
		{place, "projects/p1/locations/l2", false, false},
		{place, "projects/p1/locations/l2/instances/i1", false, false},
		{instance, instance, true, true},
		{instance, place, false, true},
		{instance, "projects/p1/locations/l1/instances/i2", false, false},
		{instance, "projects/p2/locations/l1/instances/i1", false, false},
	} {
		p := access.Principal{Bindings: []access.Binding{{Role: access.Viewer, Scope: scope(t, c.bound)}}}
		if got := p.May(access.InstancesGet, scope(t, c.at)); got != c.may {
			t.Errorf("a viewer of %s may at %s: %t", c.bound, c.at, got)
		}
		if got := p.MayWithin(access.InstancesGet, scope(t, c.at)); got != c.within {
			t.Errorf("a viewer of %s may within %s: %t", c.bound, c.at, got)
		}
		if p.May(access.InstancesUpdate, scope(t, c.at)) || p.MayWithin(access.InstancesUpdate, scope(t, c.at)) {
			t.Errorf("a viewer of %s may update at %s", c.bound, c.at)
		}
	}
	if nobody := (access.Principal{}); nobody.May(access.InstancesGet, scope(t, instance)) || nobody.MayWithin(access.InstancesGet, access.Scope{}) {
		t.Error("nobody may")
	}
}

func TestNobodyGivesWhatTheyLack(t *testing.T) {
	t.Parallel()
	maker := access.Principal{Bindings: []access.Binding{
		{Role: access.RedisAdmin, Scope: scope(t, "projects/p1")}, {Role: access.RedisViewer, Scope: scope(t, "projects/p2")},
	}}
	for _, c := range []struct {
		role  access.Role
		scope string
		lacks bool
	}{
		{access.Owner, "projects/p1", false},
		{access.RedisViewer, "projects/p1/locations/l1/instances/i1", false},
		{access.RedisViewer, "projects/p2/locations/l1", false},
		{access.RedisEditor, "projects/p2", true},
		{access.RedisViewer, "projects/p3", true},
		{access.RedisViewer, "*", true},
	} {
		if got := maker.Lacks(access.Binding{Role: c.role, Scope: scope(t, c.scope)}); (got != "") != c.lacks {
			t.Errorf("%s at %s: lacks %q", c.role, c.scope, got)
		}
	}
}

func TestBearerTokensAreReadAsInRFC6750(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"Bearer abc": "abc", "bearer abc": "abc", "BEARER   abc ": "abc", "  Bearer abc": "abc",
		"": "", "Bearer": "", "Bearer ": "", "Bearerabc": "", "Basic abc": "", "abc": "", "Bearer a b": "", "Bearer a\tb": "",
		"Bearer " + strings.Repeat("a", 5000): "",
	} {
		if got, ok := access.Bearer(header); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t; want %q", header, got, ok, want)
		}
	}
}

func FuzzBearer(f *testing.F) {
	for _, seed := range []string{"Bearer sealane_0123456789ab_x", "bearer  x ", "Basic eDp5", "Bearer a b", "Bearer \x00", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		token, ok := access.Bearer(header)
		if ok != (token != "") || len(token) > len(header) || strings.ContainsAny(token, " \t\r\n") {
			t.Errorf("%q: %q, %t", header, token, ok)
		}
		if ok {
			if again, ok := access.Bearer("Bearer " + token); again != token || !ok {
				t.Errorf("%q, and written anew %q", token, again)
			}
		}
	})
}

// A scope has one text, which is read back, and nothing in it can pass for a wildcard or another scope.
func FuzzScope(f *testing.F) {
	for _, seed := range []string{
		"*", "projects/p", "projects/p/locations/l", "projects/p/locations/l/instances/i", "//redis.googleapis.com/projects/example.com:p",
		"projects/-", "projects/*", "projects/p/", "projects//locations/l", "projects/p/instances/i", "locations/l", "projects/p/locations/l/instances/i/x/y", "projects/\xff",
	} {
		f.Add(seed, "projects/p/locations/l")
	}
	f.Fuzz(func(t *testing.T, text, other string) {
		s, err := access.ParseScope(text)
		if err != nil {
			if s != (access.Scope{}) {
				t.Errorf("%q: %v with the scope %v", text, err, s)
			}
			return
		}
		if again, err := access.ParseScope(s.String()); err != nil || again != s {
			t.Errorf("%q is read as %q, and that as %q, %v", text, s, again, err)
		}
		if s == (access.Scope{}) && text != "*" {
			t.Errorf("%q is everything", text)
		}
		if strings.ContainsFunc(s.String(), func(c rune) bool { return unicode.IsSpace(c) || c == unicode.ReplacementChar }) {
			t.Errorf("%q", s)
		}
		o, err := access.ParseScope(other)
		if err != nil {
			return
		}
		// One contains the other when its text begins the other's, up to a slash.
		if want := s.String() == "*" || (o.String()+"/") == (s.String()+"/") || strings.HasPrefix(o.String(), s.String()+"/"); s.Contains(o) != want {
			t.Errorf("%q contains %q: %t", s, o, s.Contains(o))
		}
	})
}
