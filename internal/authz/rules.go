package authz

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sealane/sealane/internal/access"
)

// Effect is what a call does, as far as the log of calls is concerned.
type Effect int

const (
	Reads   Effect = iota // it is not entered
	Secret                // it reads a secret: it is entered, and a full disk doesn't stop it
	Changes               // it changes something: it is entered before it is made, or not made
	// Revokes is Changes, but what it takes away is taken away on a full disk too: a stolen token must not live on because of that.
	Revokes
)

// Rule is what the calls of a method need.
type Rule struct {
	Permission access.Permission
	// Field is the field of the request that names the resource, such as "instance.name", and Kind says what is named. "": none does, so
	// the method itself checks what the caller may.
	Field string
	Kind  Kind
	// Within lets everybody in who has the permission anywhere below the resource: the method itself shows, or does, no more than May
	// allows.
	Within bool
	Effect Effect
	// Also are further permissions on the same resource that the request's content needs.
	Also func(request proto.Message) []access.Permission
	// Everywhere is a further permission, which the caller must have for everything; "": none. It is for what reaches beyond a project.
	Everywhere access.Permission
	// ID is the field with the id of what a call makes in the resource; it is for the log of calls.
	ID string
}

// Kind is what kind of resource a request names.
type Kind int

const (
	Instance  Kind = iota // an instance, or what belongs to one, such as its data plane
	Location              // a location, or with "-" all of a project's
	Project               // a project
	Operation             // an operation
)

// text is a string field of a request, by a path such as "instance.name".
func text(request proto.Message, path string) string {
	m := request.ProtoReflect()
	parts := strings.Split(path, ".")
	for n, part := range parts {
		field := m.Descriptor().Fields().ByName(protoreflect.Name(part))
		if field == nil {
			return ""
		}
		if n == len(parts)-1 {
			return m.Get(field).String()
		}
		m = m.Get(field).Message()
	}
	return ""
}

// scopeOf is where the resource of that name is; not ok for what is not the name of one, which the method will refuse. It must not
// take for one instance what the method takes for another: it cuts the name at each slash, as the methods do.
func scopeOf(kind Kind, name string) (access.Scope, bool) {
	parts := strings.Split(name, "/")
	length := map[Kind]int{Instance: 6, Location: 4, Project: 2, Operation: 4}[kind]
	if len(parts) < length {
		return access.Scope{}, false
	}
	rest := parts[length:]
	switch kind {
	case Instance: // alone, or what belongs to it: …/instances/I/dataPlane
		if len(rest) > 1 {
			return access.Scope{}, false
		}
	case Operation:
		if len(rest) != 2 || rest[0] != "operations" {
			return access.Scope{}, false
		}
	default: // ListOperations takes …/operations too
		if len(rest) > 0 && !slices.Equal(rest, []string{"operations"}) {
			return access.Scope{}, false
		}
		if kind == Location && parts[3] == "-" {
			length = 2
			if parts[2] != "locations" {
				return access.Scope{}, false
			}
		}
	}
	scope, err := access.ParseScope(strings.Join(parts[:length], "/"))
	return scope, err == nil
}
