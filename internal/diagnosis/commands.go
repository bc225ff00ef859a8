package diagnosis

import (
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/sealane/sealane/internal/pki"
)

// This file is about the command lines that texts and `sealane connect` print for people to paste.

// ShellWord quotes s where a POSIX shell would not take it as the word that it is.
func ShellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@=+,") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// ArgumentsFor is how a command names the instance that has an identity. It is AnyInstance for what is no identity of Sealane's.
func ArgumentsFor(identity string) string {
	project, region, id, ok := pki.ParseIdentity(identity)
	if !ok {
		return AnyInstance
	}
	return id + ParentFlags(project, region)
}

// ParentFlags are the flags that a command needs besides an instance's name, "" where project and region are the usual ones.
func ParentFlags(project, region string) string {
	flags := ""
	if project != "local" {
		flags += " --project " + project
	}
	if region != "local" {
		flags += " --region " + region
	}
	return flags
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
