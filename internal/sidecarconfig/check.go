package sidecarconfig

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/sealane/sealane/internal/ops"
	"github.com/sealane/sealane/internal/sidecar"
)

// check fills in the defaults that depend on other fields, and notes every problem; each names the field and the value.
func (r *reader) check() {
	c := r.config
	add := func(field, format string, args ...any) {
		r.problems = append(r.problems, r.name(-1, field)+": "+fmt.Sprintf(format, args...))
	}
	host, port, err := net.SplitHostPort(c.Ops)
	if n, portErr := strconv.ParseUint(port, 10, 16); c.Ops != NoOps && (err != nil || portErr != nil || n > 65535 || host == "") {
		add("ops", "%q: want HOST:PORT, such as %s, or none", c.Ops, DefaultOps)
	}
	if problem := ops.CheckReaders(c.Metrics); problem != "" {
		add("metrics", "%s", problem)
	}
	if c.Drain < 0 {
		add("drain", "%s: want 0 or more", c.Drain)
	}
	if c.DrainTimeout < 0 {
		add("drain_timeout", "%s: want 0 or more", c.DrainTimeout)
	}
	if len(c.Links) == 0 {
		r.problems = append(r.problems, "links: there is none")
	}
	names, listens := make(map[string]bool), make(map[string]bool)
	for i := range c.Links {
		l := &c.Links[i]
		add := func(field, format string, args ...any) {
			r.problems = append(r.problems, r.name(i, field)+": "+fmt.Sprintf(format, args...))
		}
		l.check(add)
		if names[l.Name] && l.Name != "" {
			add("name", "%q: another link is called so", l.Name)
		}
		if listens[l.Listen] && !strings.HasSuffix(l.Listen, ":0") {
			add("listen", "%q: another link listens there", l.Listen)
		}
		names[l.Name], listens[l.Listen] = true, true
	}
}

// resourceName is what a part of a resource's name may be, and a part of a file's. What there is the API knows.
var resourceName = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]{0,126}$`)

var linkName = regexp.MustCompile(`^[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]{0,250}$`)

func (l *Link) check(add func(field, format string, args ...any)) {
	if l.Listen == "" {
		l.Listen = defaultListen
	}
	l.checkListen(add)
	switch {
	case l.Instance == "" && l.Address == "":
		add("instance", "want the name of an instance, or address and ca for any other Redis")
	case l.Instance != "" && l.Address != "":
		add("address", "%q: does not go with instance", l.Address)
	case l.Instance != "":
		l.checkInstance(add)
	default:
		l.checkAddress(add)
	}
	if l.Name != "" && !linkName.MatchString(l.Name) {
		add("name", "%q: want letters, digits and . _ : -", l.Name)
	}
	if l.Name == "" {
		l.Name = l.Instance + l.Address
	}
	l.checkAuth(add)
	l.checkCert(add)
	if l.Warm == nil {
		l.Warm = Default().Links[0].Warm
	}
	if *l.Warm < 0 || *l.Warm > 1000 {
		add("warm", "%d: want 0 to 1000", *l.Warm)
	}
}

func (l *Link) checkListen(add func(field, format string, args ...any)) {
	var err error
	if l.listen, err = sidecar.ParseListen(l.Listen); err != nil {
		add("listen", "%v", err)
		return
	}
	l.listen.Anywhere = l.AllowNonLoopback
	if !l.listen.IsLoopback() && !l.AllowNonLoopback {
		add("listen", "%q is not a loopback address: clients' bytes and passwords would cross a network in the clear; allow_non_loopback (SEALANE_SIDECAR_ALLOW_NON_LOOPBACK) permits it", l.Listen)
	}
	if l.ListenMode == "" {
		return
	}
	mode, err := strconv.ParseUint(l.ListenMode, 8, 9)
	switch {
	case err != nil:
		add("listen_mode", "%q: want an octal mode, such as 0660", l.ListenMode)
	case l.listen.Path == "":
		add("listen_mode", "%q: goes with unix:PATH", l.ListenMode)
	default:
		l.listen.Mode = fs.FileMode(mode)
	}
}

func (l *Link) checkInstance(add func(field, format string, args ...any)) {
	for _, f := range []struct{ field, value string }{{"ca", l.CA}, {"server_name", l.ServerName}, {"server_identity", l.ServerIdentity}} {
		if f.value != "" {
			add(f.field, "%q: goes with address; of an instance the API tells it", f.value)
		}
	}
	if l.Project == "" {
		l.Project = defaultParent
	}
	if l.Region == "" {
		l.Region = defaultParent
	}
	for _, f := range []struct{ field, value string }{{"instance", l.Instance}, {"project", l.Project}, {"region", l.Region}} {
		if !resourceName.MatchString(f.value) {
			add(f.field, "%q: want lower-case letters, digits and hyphens", f.value)
		}
	}
}

func (l *Link) checkAddress(add func(field, format string, args ...any)) {
	host, port, err := net.SplitHostPort(l.Address)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n == 0 || host == "" || strings.ContainsAny(host, "/@") {
		add("address", "want HOST:PORT, such as redis.example.com:6378, and not a URL") // which may hold a password: it is not shown
		l.Address = ""
	} else if l.CA == "" {
		add("ca", "is missing: name the PEM file of the CAs that may have signed the certificate of %s", l.Address)
	}
	if l.ServerName != "" && l.ServerIdentity != "" {
		add("server_name", "%q: does not go with server_identity", l.ServerName)
	}
	if l.ServerIdentity != "" && !strings.Contains(l.ServerIdentity, "://") {
		add("server_identity", "%q: want a URI, such as spiffe://sealane/local/local/first", l.ServerIdentity)
	}
	for _, f := range []struct{ field, value string }{{"project", l.Project}, {"region", l.Region}} {
		if f.value != "" {
			add(f.field, "%q: goes with instance", f.value)
		}
	}
}

func (l *Link) checkAuth(add func(field, format string, args ...any)) {
	if l.Auth == "" {
		if l.Auth = "none"; l.Instance != "" {
			l.Auth = "auto"
		}
	}
	kind, value, _ := strings.Cut(l.Auth, ":")
	switch {
	case l.Auth == "none", l.Auth == "auto" && l.Instance != "":
		if l.User != "" {
			add("user", "%q: goes with a password from file: or env:", l.User)
		}
	case l.Auth == "auto":
		add("auth", "auto: goes with instance; want none, file:PATH or env:NAME")
	case kind == "file" && value != "":
	case kind == "env" && value != "":
		if os.Getenv(value) == "" {
			add("auth", "%q: the environment variable %s is not set, or empty", l.Auth, value)
		}
	default: // not shown: it may be the password itself
		add("auth", "want auto, none, file:PATH or env:NAME")
	}
}

func (l *Link) checkCert(add func(field, format string, args ...any)) {
	for _, f := range []struct{ field, value string }{{"cert", l.Cert}, {"key", l.Key}} {
		if name, ok := strings.CutPrefix(f.value, "env:"); ok && os.Getenv(name) == "" {
			add(f.field, "%q: the environment variable %s is not set, or empty", f.value, name)
		}
		if strings.Contains(f.value, "-----BEGIN") { // not shown: it may be the key itself
			add(f.field, "want the name of a PEM file, or env:NAME, and not what is in it")
		}
	}
	if l.Key != "" && l.Cert == "" {
		add("key", "goes with cert")
	}
	if l.Key == "" {
		l.Key = l.Cert
	}
}
