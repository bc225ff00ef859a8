package sidecarconfig

import (
	"regexp"
	"slices"
	"strings"
)

// A variable that is misspelt must not be taken for one that isn't there. One that begins with SEALANE_SIDECAR_ and is no field is an
// error, as an unknown field of the file is. One that is a field's name without SIDECAR_, or looks like a slip of the keyboard, is a
// warning, because it may be there for something else.

// getenv is the value of a field's variable; an empty one is the same as none.
func (r *reader) getenv(f field) string { return r.lookup(EnvName(f.name)) }

func (r *reader) lookup(name string) string {
	value := ""
	for _, v := range r.Environ { // the last one counts, as for exec
		if n, text, _ := strings.Cut(v, "="); n == name {
			value = text
		}
	}
	return value
}

func (r *reader) readEnv() {
	for _, f := range fields {
		if text := r.getenv(f); text != "" {
			r.set(f, EnvName(f.name), text)
		}
	}
	for _, v := range r.Environ {
		name, value, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, envPrefix) && !isField(name) && !isOfKubernetes(name, value) {
			problem := name + ": the sidecar has no such variable"
			if meant := nearest(name); meant != "" {
				problem += ": is " + meant + " meant?"
			}
			r.problems = append(r.problems, problem)
		}
	}
}

func isField(variable string) bool {
	return slices.ContainsFunc(fields, func(f field) bool { return EnvName(f.name) == variable })
}

// ofKubernetes are the names of the variables by which Kubernetes tells every pod of the services in its namespace: one called
// sealane-sidecar has SEALANE_SIDECAR_SERVICE_HOST, SEALANE_SIDECAR_PORT_6379_TCP_ADDR and so on.
var ofKubernetes = regexp.MustCompile(`_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

func isOfKubernetes(name, value string) bool {
	return ofKubernetes.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

// ofOthers are variables of other commands that are called like a field.
var ofOthers = []string{"SEALANE_AUTH"}

// strays are the variables that may have been meant for the sidecar.
func (r *reader) strays() []Stray {
	var used []string // by the configuration itself
	for _, l := range r.config.Links {
		for _, value := range []string{l.Auth, l.Cert, l.Key} {
			if name, ok := strings.CutPrefix(value, "env:"); ok {
				used = append(used, name)
			}
		}
	}
	var strays []Stray
	for _, v := range r.Environ {
		name, value, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "SEALANE") || strings.HasPrefix(name, envPrefix) || slices.Contains(used, name) || slices.Contains(ofOthers, name) {
			continue
		}
		meant := envPrefix + strings.TrimPrefix(name, "SEALANE_")
		if !isField(meant) {
			meant = nearest(name)
		}
		if meant != "" && !isOfKubernetes(name, value) {
			strays = append(strays, Stray{name, meant})
		}
	}
	return strays
}

// nearest is the variable that another name may be a slip for; "" if there is none.
func nearest(name string) string {
	for _, f := range fields {
		if isSlip(name, envPrefix, strings.ToUpper(f.name)) {
			return EnvName(f.name)
		}
	}
	return ""
}

// isSlip says whether a name is nearly the prefix and the word, by one letter, or by two of a word that is long enough.
func isSlip(name, prefix, word string) bool {
	d := distance(name, prefix+word)
	return d == 1 || d == 2 && len(word) > 4
}

// distance is how many letters must be put in, left out or replaced to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
