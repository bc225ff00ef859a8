package main

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/sealane/sealane/internal/stunnel"
)

// printStunnel prints the configuration of a sidecar that does what a configuration of stunnel does, with a remark for what it
// does otherwise. It is for a person to read before it is used; what was not verified will be.
func printStunnel(e *env, path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Size() > stunnel.MaxSize {
		err = &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it has %d bytes", info.Size())}
	}
	var raw []byte
	if err == nil {
		raw, err = os.ReadFile(path)
	}
	if err != nil {
		return withHint(fmt.Errorf("--from-stunnel: %w", err), "name stunnel's configuration, such as /etc/stunnel/redis.conf")
	}
	f, err := stunnel.Parse(raw)
	if err != nil {
		return withHint(fmt.Errorf("--from-stunnel %s: %w", path, err), "name stunnel's configuration, such as /etc/stunnel/redis.conf")
	}
	text, err := fromStunnel(f, path)
	if err != nil {
		return withHint(fmt.Errorf("--from-stunnel %s: %w", path, err), "the sidecar takes the place of services with client = yes; for the server's side see `sealane serve`")
	}
	_, err = fmt.Fprint(e.out, text)
	return err
}

// importer writes the configuration.
type importer struct {
	strings.Builder
	names map[string]bool
}

func (w *importer) remark(indent, format string, args ...any) {
	fmt.Fprintf(w, "%s# %s\n", indent, inComment(fmt.Sprintf(format, args...)))
}

// inComment leaves nothing that would end a comment of YAML's, or that a terminal obeys.
func inComment(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, s)
}

// fromStunnel is the whole conversion.
func fromStunnel(f stunnel.File, path string) (string, error) {
	w := &importer{names: make(map[string]bool)}
	w.remark("", "From %q. Read the remarks, then: sealane sidecar --config FILE", path)
	for _, o := range f.Global {
		if text, ok := processOptions[o.Name]; ok {
			w.remark("", "%s = %q (line %d): %s", o.Name, o.Value, o.Line, text)
		}
	}
	services := f.Services
	if len(services) == 0 { // stunnel's inetd mode: one service, without a section
		services = []stunnel.Service{{Name: "stunnel"}}
	}
	w.WriteString("links:\n")
	n := 0
	for _, s := range services {
		all := slices.Concat(f.Global, s.Options)
		if !isYes(stunnel.Get(all, "client")) {
			w.remark("  ", "service %q (line %d) is a server's (no client = yes): left out", s.Name, s.Line)
			continue
		}
		n++
		w.link(s.Name, all)
	}
	if n == 0 {
		return "", fmt.Errorf("no service in it has client = yes")
	}
	return w.String(), nil
}

func isYes(v string) bool { return strings.EqualFold(v, "yes") }

const indent = "    "

func (w *importer) link(name string, o []stunnel.Option) {
	fmt.Fprintf(w, "  - name: %s\n", quoteYAML(w.unique(name)))
	w.accept(stunnel.Get(o, "accept"))
	w.connect(o)
	w.trust(o)
	w.certificateName(o)
	w.clientCertificate(o)
	said := make(map[string]bool)
	for _, x := range o {
		text, ok := serviceOptions[x.Name]
		_, process := processOptions[x.Name]
		switch {
		case x.Name == "sslversion" && isOldTLS(x.Value), x.Name == "sslversionmin" && isOldTLS(x.Value), x.Name == "sslversionmax" && isOldTLS(x.Value):
			text, ok = "unsafe: versions before TLS 1.2 are broken, and the sidecar has none of them", true
		case handled[x.Name] || process:
			continue
		case !ok:
			text = "the sidecar has nothing like it"
		}
		if key := x.Name + "=" + x.Value; !said[key] {
			said[key] = true
			w.remark(indent, "%s = %q (line %d): %s", x.Name, x.Value, x.Line, text)
		}
	}
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9._:-]+`)

// unique is a name that the sidecar takes.
func (w *importer) unique(name string) string {
	name = strings.Trim(notInNames.ReplaceAllString(name, "-"), "-._:")
	name = name[:min(len(name), 200)]
	if name == "" {
		name = "link"
	}
	for base, n := name, 2; w.names[name]; n++ {
		name = base + "-" + strconv.Itoa(n)
	}
	w.names[name] = true
	return name
}

func (w *importer) accept(v string) {
	host, port := splitAccept(v)
	switch {
	case v == "":
		w.remark(indent, "there is no accept: stunnel was started by inetd, the sidecar listens by itself")
		fmt.Fprintf(w, "%slisten: %s\n", indent, quoteYAML(defaultListen))
	case strings.HasPrefix(v, "/"):
		fmt.Fprintf(w, "%slisten: %s\n", indent, quoteYAML("unix:"+v))
		w.remark(indent, "stunnel's socket was open to whom the umask allowed; this one is this user's alone: listen_mode: \"0660\" opens it to the group")
	case isLoopback(host) || host == "ip6-localhost":
		fmt.Fprintf(w, "%slisten: %s\n", indent, quoteYAML(net.JoinHostPort(host, port)))
	default:
		fmt.Fprintf(w, "%slisten: %s\n", indent, quoteYAML("127.0.0.1:"+port))
		w.remark(indent, "unsafe: accept = %q let other machines in, in the clear; if they must: listen there, with allow_non_loopback: true", v)
	}
}

// splitAccept reads [HOST:]PORT. Without a host stunnel listens everywhere.
func splitAccept(v string) (host, port string) {
	i := strings.LastIndexByte(v, ':')
	return strings.Trim(v[:max(i, 0)], "[]"), v[i+1:]
}

func (w *importer) connect(o []stunnel.Option) {
	var all []string
	for _, x := range o {
		if x.Name == "connect" {
			all = append(all, x.Value)
		}
	}
	if len(all) == 0 || strings.HasPrefix(all[0], "/") {
		fmt.Fprintf(w, "%saddress: \"\" # REQUIRED: HOST:PORT of the server; connect = %q is none\n", indent, strings.Join(all, ", "))
		return
	}
	host, port := splitAccept(all[0])
	if host == "" {
		host = "localhost" // stunnel's default
	}
	fmt.Fprintf(w, "%saddress: %s\n", indent, quoteYAML(net.JoinHostPort(host, port)))
	if len(all) > 1 {
		w.remark(indent, "connect is there %d times, and stunnel took turns: the sidecar has one server per link, whose name may have several addresses", len(all))
	}
}

// trust says what verifies the server. What stunnel did not verify has no CA here, and the sidecar does not start without one.
func (w *importer) trust(o []stunnel.Option) {
	file, folder := stunnel.Get(o, "cafile"), stunnel.Get(o, "capath")
	level, err := strconv.Atoi(stunnel.Get(o, "verify"))
	chain, peer := isYes(stunnel.Get(o, "verifychain")), isYes(stunnel.Get(o, "verifypeer"))
	if err == nil { // the older way to say it: 0 is nothing, and 4 is 3 without the chain
		chain, peer = chain && level > 0 || level == 2, peer && level > 0 || level >= 3
	}
	switch {
	case file != "":
		fmt.Fprintf(w, "%sca: %s\n", indent, quoteYAML(file))
	case folder != "":
		fmt.Fprintf(w, "%sca: \"\" # REQUIRED: one file with what was in CApath, such as: cat %s/*.pem > ca.pem\n", indent, inComment(folder))
	default:
		fmt.Fprintf(w, "%sca: \"\" # REQUIRED: the PEM file of the server's CA (Sealane: sealane ca bundle NAME > ca.pem)\n", indent)
	}
	switch {
	case peer:
		w.remark(indent, "verifyPeer pinned the server's own certificate, which fails at its next rotation: name its CA in place of it")
	case err == nil && level == 1:
		w.remark(indent, "unsafe: verify = 1 accepted servers that show no certificate; the sidecar always verifies")
	case !chain:
		w.remark(indent, "unsafe: stunnel verified nothing here (no verifyChain), so that anybody in between could read and change all; the sidecar always verifies")
	}
}

func (w *importer) certificateName(o []stunnel.Option) {
	for _, name := range []string{"checkhost", "checkip"} {
		if v := stunnel.Get(o, name); v != "" {
			fmt.Fprintf(w, "%sserver_name: %s\n", indent, quoteYAML(v))
			return
		}
	}
	w.remark(indent, "stunnel did not look at the name in the certificate; the sidecar does: if it is not the host of address, give server_name or server_identity")
}

// clientCertificate goes on with what stunnel showed to the server. Its key, too, is in the same file where no other is named.
func (w *importer) clientCertificate(o []stunnel.Option) {
	cert, key := stunnel.Get(o, "cert"), stunnel.Get(o, "key")
	if cert == "" {
		return
	}
	fmt.Fprintf(w, "%scert: %s\n", indent, quoteYAML(cert))
	if key != "" {
		fmt.Fprintf(w, "%skey: %s\n", indent, quoteYAML(key))
	}
	w.remark(indent, "the sidecar's user must be able to read the key, and no other user may: mode 0600, or 0640 for a group")
}

func isOldTLS(v string) bool {
	return !strings.EqualFold(v, "TLSv1.2") && !strings.EqualFold(v, "TLSv1.3") && !strings.EqualFold(v, "all")
}

// handled are the options that the conversion reads.
var handled = map[string]bool{
	"client": true, "accept": true, "connect": true, "cafile": true, "capath": true, "verify": true, "verifychain": true, "verifypeer": true,
	"checkhost": true, "checkip": true, "cert": true, "key": true, "sslversion": true, "sslversionmin": true, "sslversionmax": true,
}

// processOptions are about stunnel's process.
var processOptions = map[string]string{
	"pid":         "not needed: the sidecar stays in the foreground, for a service manager",
	"foreground":  "the sidecar is always in the foreground",
	"output":      "the log is on standard error, for the service manager",
	"log":         "the log is on standard error, for the service manager",
	"debug":       "the sidecar says each problem once; /metrics counts the rest",
	"syslog":      "the log is on standard error, for the service manager",
	"setuid":      "the service manager sets the user (systemd: User=)",
	"setgid":      "the service manager sets the group (systemd: Group=)",
	"chroot":      "the service manager confines it: see packaging/systemd/sealane-sidecar.service",
	"fips":        "Go's FIPS 140-3 module: GODEBUG=fips140=on in the environment",
	"include":     "files in it were not read: convert each",
	"service":     "the service manager has the name",
	"compression": "there is none, and it would be unsafe",
	"engine":      "there are no OpenSSL engines",
	"provider":    "there are no OpenSSL providers",
	"rndfile":     "the kernel gives randomness",
	"rndbytes":    "the kernel gives randomness",
}

// serviceOptions are about a service.
var serviceOptions = map[string]string{
	"delay":               "always so: names are looked up for every connection",
	"retry":               "always so: a server that is away is tried again, with backoff, and clients move to it",
	"reset":               "not needed",
	"failover":            "the addresses of one name are tried one after the other",
	"sni":                 "the host of address is sent",
	"options":             "TLS 1.2 and 1.3 only, without compression or renegotiation, whatever is said here",
	"ciphers":             "AEAD suites with ECDHE only",
	"ciphersuites":        "all of TLS 1.3",
	"curve":               "X25519MLKEM768, X25519, P-256, P-384, P-521",
	"curves":              "X25519MLKEM768, X25519, P-256, P-384, P-521",
	"timeoutidle":         "idle clients are never cut",
	"timeoutbusy":         "a server that is silent is found out by keep-alive",
	"timeoutclose":        "fixed at a few seconds",
	"timeoutconnect":      "fixed at 5 seconds, then the next attempt",
	"timeoutocsp":         "there is no OCSP",
	"ocsp":                "there is no OCSP; Sealane's certificates live for months, and CAs are replaced",
	"ocspaia":             "there is no OCSP; Sealane's certificates live for months, and CAs are replaced",
	"crlfile":             "there are no CRLs; take a CA out of the bundle in place of it",
	"crlpath":             "there are no CRLs; take a CA out of the bundle in place of it",
	"sessioncachesize":    "sessions are resumed by themselves",
	"sessioncachetimeout": "sessions are resumed by themselves",
	"sessionresume":       "sessions are resumed by themselves",
	"socket":              "TCP_NODELAY and keep-alive are set",
	"libwrap":             "firewalls do that; the sidecar listens on loopback",
	"transparent":         "not possible from a client's machine",
	"renegotiation":       "there is none",
	"protocol":            "the sidecar speaks Redis only",
	"psksecrets":          "pre-shared keys are not supported: use certificates",
	"pskidentity":         "pre-shared keys are not supported: use certificates",
}

// quoteYAML writes a string so that YAML reads it as it is.
func quoteYAML(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r >= 0x7f:
			fmt.Fprintf(&b, "\\U%08X", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
