package access

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Scope is a place: everything (the zero value), a project, a location of it, or an instance there. A binding is in force at its
// scope and everywhere below; a request is about the scope that it names.
type Scope struct{ Project, Location, Instance string }

// Service is the service whose full resource names this API uses.
const Service = "redis.googleapis.com"

// fullPrefix begins a full resource name.
const fullPrefix = "//" + Service + "/"

// ParseScope reads "*", projects/P, projects/P/locations/L or projects/P/locations/L/instances/I, with or without the
// //redis.googleapis.com/ of a full resource name. It checks the form of the whole, and of the names no more than that nothing in
// them can be taken for something else.
func ParseScope(s string) (Scope, error) {
	if s == "*" {
		return Scope{}, nil
	}
	parts := strings.Split(strings.TrimPrefix(s, fullPrefix), "/")
	var scope Scope
	fields := []struct {
		collection string
		into       *string
	}{{"projects", &scope.Project}, {"locations", &scope.Location}, {"instances", &scope.Instance}}
	if len(parts)%2 != 0 || len(parts) > 2*len(fields) {
		return Scope{}, scopeError(s)
	}
	for i := 0; i < len(parts); i += 2 {
		f := fields[i/2]
		if parts[i] != f.collection || !isName(parts[i+1]) {
			return Scope{}, scopeError(s)
		}
		*f.into = parts[i+1]
	}
	return scope, nil
}

func scopeError(s string) error {
	return fmt.Errorf("%q is not a scope: want *, projects/PROJECT, projects/PROJECT/locations/LOCATION or projects/PROJECT/locations/LOCATION/instances/INSTANCE", s)
}

// isName refuses what would be a wildcard elsewhere, or what could not be told from another scope in a log.
func isName(s string) bool {
	if s == "" || s == "-" || len(s) > 200 {
		return false
	}
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-._:", c)) {
			return false
		}
	}
	return true
}

// String is what ParseScope reads.
func (s Scope) String() string {
	if s.Project == "" {
		return "*"
	}
	text := "projects/" + s.Project
	if s.Location != "" {
		text += "/locations/" + s.Location
	}
	if s.Instance != "" {
		text += "/instances/" + s.Instance
	}
	return text
}

// Contains says whether other is s or below it.
func (s Scope) Contains(other Scope) bool {
	return (s.Project == "" || s.Project == other.Project) &&
		(s.Location == "" || s.Location == other.Location) &&
		(s.Instance == "" || s.Instance == other.Instance)
}

// Binding gives a role at a scope.
type Binding struct {
	Role  Role
	Scope Scope
}

// Principal is who calls.
type Principal struct {
	ID       string // of the token; AdminID for the administrator's
	Name     string // the token's description, for people
	Bindings []Binding
	Expires  time.Time // when the token does; zero: never
}

// AdminID is the id of the administrator's token, which is in a file and not in the records.
const AdminID = "admin"

// Administrator is whoever has the administrator's token: the owner of everything.
var Administrator = Principal{ID: AdminID, Name: "administrator", Bindings: []Binding{{Role: Owner}}}

// May says whether the principal has the permission for all of a scope.
func (p Principal) May(permission Permission, at Scope) bool {
	for _, b := range p.Bindings {
		if b.Scope.Contains(at) && b.Role.Has(permission) {
			return true
		}
	}
	return false
}

// MayWithin says whether the principal has the permission for a scope or for something below it. Who may is shown a list, of
// what May allows.
func (p Principal) MayWithin(permission Permission, at Scope) bool {
	for _, b := range p.Bindings {
		if (b.Scope.Contains(at) || at.Contains(b.Scope)) && b.Role.Has(permission) {
			return true
		}
	}
	return false
}

// Lacks returns the first permission of a binding that the principal doesn't have itself, "" if it has all of them.
func (p Principal) Lacks(b Binding) Permission {
	for _, permission := range Permissions {
		if b.Role.Has(permission) && !p.May(permission, b.Scope) {
			return permission
		}
	}
	return ""
}

type callerKey struct{}

// WithCaller returns a context of a call by the principal.
func WithCaller(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, callerKey{}, p)
}

// Caller is who calls; nobody, who may do nothing, outside of a call.
func Caller(ctx context.Context) Principal {
	p, _ := ctx.Value(callerKey{}).(Principal)
	return p
}
