package api

import (
	"google.golang.org/protobuf/proto"

	"github.com/sealane/sealane/internal/access"
)

// MaxUnauthenticated is for tests.
const MaxUnauthenticated = maxUnauthenticated

// MixinRules are the paths of the services that are mixed in.
var MixinRules = mixinRules

// PermissionsOf are the permissions that a request needs, as far as the method's row in the table says; none for a method without one.
func PermissionsOf(method string, request proto.Message) []access.Permission {
	r, ok := rules[method]
	if !ok {
		return nil
	}
	permissions := []access.Permission{r.Permission}
	if r.Also != nil && request != nil {
		permissions = append(permissions, r.Also(request)...)
	}
	return permissions
}

// Methods are those that the table has rows for.
func Methods() []string {
	var methods []string
	for m := range rules {
		methods = append(methods, m)
	}
	return methods
}

// Unauthenticated is how many connections have not shown a valid token.
func (s *Server) Unauthenticated() int {
	s.unauthenticated.mu.Lock()
	defer s.unauthenticated.mu.Unlock()
	return s.unauthenticated.oldest.Len()
}
