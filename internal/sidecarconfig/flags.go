package sidecarconfig

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// withFlag are the fields that people type; each has a flag of the same name. The rest is for the file and the environment.
var withFlag = []struct{ field, usage string }{
	{"instance", "`NAME` of an instance of Sealane's"},
	{"address", "`HOST:PORT` of any other Redis with TLS"},
	{"ca", "PEM `FILE` of the CAs that may have signed its certificate; read again when it changes"},
	{"auth", "password for clients that have not logged in: auto (of the instance), none, file:`PATH`, env:NAME (default auto with --instance, else none)"},
	{"listen", "`HOST:PORT` or unix:PATH (default " + defaultListen + ")"},
	{"ops", "address of /livez, /readyz, /metrics and /debug/pprof, or none (default " + DefaultOps + ")"},
}

// AddFlags adds the flags, and hidden ones for the flags of before, so that all that are given are told at once.
func AddFlags(s *pflag.FlagSet) {
	for _, f := range withFlag {
		s.String(f.field, "", f.usage)
	}
	for _, f := range fields {
		if hasFlag(f.name) {
			continue
		}
		name := flagName(f.name)
		s.String(name, "", "")
		s.MarkHidden(name)
		if f.name == "verify_name" || f.name == "allow_quit" || f.name == "allow_non_loopback" { // they took no value
			s.Lookup(name).NoOptDefVal = "true"
		}
	}
	s.String(authFile, "", "")
	s.MarkHidden(authFile)
}

// authFile was --auth file:PATH in other words.
const authFile = "auth-file"

func flagName(field string) string { return strings.ReplaceAll(field, "_", "-") }

func hasFlag(field string) bool {
	for _, f := range withFlag {
		if f.field == field {
			return true
		}
	}
	return false
}

// Given are the flags that were given, by field.
func Given(s *pflag.FlagSet) map[string]string {
	given := make(map[string]string)
	s.Visit(func(f *pflag.Flag) {
		if hasFlag(f.Name) {
			given[f.Name] = f.Value.String()
		}
	})
	return given
}

// GoneFlags says which flags were given that are gone, and what to use in place of them; "" for none.
func GoneFlags(s *pflag.FlagSet) (problem, hint string) {
	var gone, inFile, inEnv, hints []string
	for _, f := range fields {
		if name := flagName(f.name); !hasFlag(f.name) && s.Changed(name) {
			gone, inFile, inEnv = append(gone, "--"+name), append(inFile, f.name), append(inEnv, EnvName(f.name))
		}
	}
	if len(gone) > 0 {
		hints = append(hints, fmt.Sprintf("set %s in the file of --config, or %s in the environment", and(inFile), and(inEnv)))
	}
	if s.Changed(authFile) {
		gone, hints = append(gone, "--"+authFile), append(hints, "give --auth file:FILE in place of --auth-file FILE")
	}
	switch len(gone) {
	case 0:
		return "", ""
	case 1:
		problem = gone[0] + " is no flag any more"
	default:
		problem = and(gone) + " are no flags any more"
	}
	return problem, strings.Join(append(hints, "docs/sidecar.md lists every field"), "; ")
}

func and(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
