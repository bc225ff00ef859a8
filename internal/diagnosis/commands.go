package diagnosis

import (
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
)

// This file is about the command lines that texts and `sealane connect` print for people to paste.

// ShellWord quotes s where a POSIX shell would not take it as the word that it is.
func ShellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@=+,") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// identityPattern is what the identities of Sealane's instances look like: project, location, instance. Commands to paste are made of
// them, so that nothing in them may need quoting.
var identityPattern = regexp.MustCompile(`^spiffe://sealane/([a-z0-9][a-z0-9.:-]{1,126})/([a-z][a-z0-9-]{1,62})/([a-z][a-z0-9-]{0,39})$`)

// ArgumentsFor is how a command names the instance that has an identity. It is AnyInstance for what is no identity of Sealane's.
func ArgumentsFor(identity string) string {
	m := identityPattern.FindStringSubmatch(identity)
	if m == nil {
		return AnyInstance
	}
	args := m[3]
	if m[1] != "local" {
		args += " --project " + m[1]
	}
	if m[2] != "local" {
		args += " --region " + m[2]
	}
	return args
}

// subjectAltName is a host as `openssl req -addext subjectAltName=` wants it.
func subjectAltName(host string) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return "IP:" + host
	}
	return "DNS:" + host
}

// withSuffix is another name for what a file is converted to.
func withSuffix(file, suffix string) string {
	return strings.TrimSuffix(file, filepath.Ext(file)) + suffix + ".pem"
}
