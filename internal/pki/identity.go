package pki

import (
	"fmt"
	"regexp"
)

// identityPattern is the form of a URI that Identity has made. It is strict, because commands for people to paste are made of its parts.
// A domain-scoped project has a colon, which a path segment may hold (RFC 3986, 3.3).
var identityPattern = regexp.MustCompile(`^spiffe://sealane/([a-z0-9][a-z0-9.:-]{1,126})/([a-z][a-z0-9-]{1,62})/([a-z][a-z0-9-]{0,39})$`)

// Identity is the URI that an instance's certificate carries: its SPIFFE ID. It never changes, and secrets are sealed under it.
func Identity(project, location, id string) string {
	return fmt.Sprintf("spiffe://sealane/%s/%s/%s", project, location, id)
}

// ParseIdentity reads what Identity has made; ok is false of any other URI.
func ParseIdentity(uri string) (project, location, id string, ok bool) {
	m := identityPattern.FindStringSubmatch(uri)
	if m == nil {
		return "", "", "", false
	}
	return m[1], m[2], m[3], true
}
