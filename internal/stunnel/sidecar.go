package stunnel

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// What an option becomes is decided here: a field of the sidecar's configuration, or a remark, which is a comment in it. The remarks
// stand where the option's field would: before the field that follows, or after the last one. No option switches verification off.

// defaultListen is where the sidecar listens unless it is told otherwise.
const defaultListen = "127.0.0.1:6379"

// ErrNoClient says that there is no service that a sidecar could take the place of.
var ErrNoClient = errors.New("no service in it has client = yes")

// ToSidecar returns the configuration of a sidecar (docs/sidecar.md) that does what the file does, with a remark for what it does
// otherwise. It is for a person to read before it is used: what stunnel did not verify has no CA in it, and a sidecar does not start
// without one. The path is where the file was read, for the first remark.
func ToSidecar(f File, path string) ([]byte, error) {
	services := f.Services
	if len(services) == 0 { // stunnel's inetd mode: one service, without a section
		services = []Service{{Name: "stunnel"}}
	}
	names := make(map[string]bool)
	var links mapping // of one key
	links.remark("From %q. Read the remarks, then: sealane sidecar --config FILE", path)
	for _, o := range f.Global {
		if text, ok := processOptions[o.Name]; ok {
			links.remark("%s = %q (line %d): %s", o.Name, o.Value, o.Line, text)
		}
	}
	list := &yaml.Node{Kind: yaml.SequenceNode}
	var remarks []string // for the next link
	for _, s := range services {
		all := slices.Concat(f.Global, s.Options)
		if !isYes(Get(all, "client")) {
			remarks = append(remarks, comment("service %q (line %d) is a server's (no client = yes): left out", s.Name, s.Line))
			continue
		}
		l := link(uniqueName(s.Name, names), all)
		l.HeadComment, remarks = strings.Join(remarks, "\n"), nil
		list.Content = append(list.Content, l)
	}
	if len(list.Content) == 0 {
		return nil, ErrNoClient
	}
	links.set("links", list)
	links.remarks = remarks
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(links.node()); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	return out.Bytes(), nil
}

// mapping is a mapping of YAML's while it is written.
type mapping struct {
	content []*yaml.Node
	remarks []string // since the last field
}

// remark adds a comment before the next field, or at the end.
func (m *mapping) remark(format string, args ...any) {
	m.remarks = append(m.remarks, comment(format, args...))
}

// comment leaves nothing that would end a comment of YAML's, or that a terminal obeys.
func comment(format string, args ...any) string {
	return "# " + strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, fmt.Sprintf(format, args...))
}

func (m *mapping) set(field string, value *yaml.Node) {
	key := &yaml.Node{Kind: yaml.ScalarNode, Value: field, HeadComment: strings.Join(m.remarks, "\n")}
	m.content, m.remarks = append(m.content, key, value), nil
}

// text sets a field to a string.
func (m *mapping) text(field, value string) { m.set(field, scalar(value)) }

// required leaves a field empty that a person must fill in.
func (m *mapping) required(field, format string, args ...any) {
	value := scalar("")
	value.LineComment = comment("REQUIRED: "+format, args...)
	m.set(field, value)
}

// scalar is quoted, so that YAML reads it as a string whatever it is.
func scalar(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Style: yaml.DoubleQuotedStyle}
}

func (m *mapping) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Content: m.content}
	if len(m.remarks) > 0 {
		m.content[len(m.content)-2].FootComment = strings.Join(m.remarks, "\n")
	}
	return n
}

func isYes(v string) bool { return strings.EqualFold(v, "yes") }

// link is a service as a link of the sidecar's.
func link(name string, o []Option) *yaml.Node {
	var l mapping
	l.text("name", name)
	l.listen(Get(o, "accept"))
	l.address(o)
	l.trust(o)
	l.certificateName(o)
	l.clientCertificate(o)
	l.others(o)
	return l.node()
}

// others remarks on the options that become no field, each value once.
func (m *mapping) others(o []Option) {
	said := make(map[string]bool)
	for _, x := range o {
		text, ok := serviceOptions[x.Name]
		_, process := processOptions[x.Name]
		switch {
		case strings.HasPrefix(x.Name, "sslversion") && handled[x.Name] && isOldTLS(x.Value):
			text = "unsafe: versions before TLS 1.2 are broken, and the sidecar has none of them"
		case handled[x.Name] || process:
			continue
		case !ok:
			text = "the sidecar has nothing like it"
		}
		if key := x.Name + "=" + x.Value; !said[key] {
			said[key] = true
			m.remark("%s = %q (line %d): %s", x.Name, x.Value, x.Line, text)
		}
	}
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9._:-]+`)

// uniqueName is a name that the sidecar takes, and that no other link has.
func uniqueName(name string, taken map[string]bool) string {
	name = strings.Trim(notInNames.ReplaceAllString(name, "-"), "-._:")
	name = name[:min(len(name), 200)]
	if name == "" {
		name = "link"
	}
	for base, n := name, 2; taken[name]; n++ {
		name = base + "-" + strconv.Itoa(n)
	}
	taken[name] = true
	return name
}

func (m *mapping) listen(accept string) {
	host, port := splitAccept(accept)
	switch {
	case accept == "":
		m.remark("there is no accept: stunnel was started by inetd, the sidecar listens by itself")
		m.text("listen", defaultListen)
	case strings.HasPrefix(accept, "/"):
		m.text("listen", "unix:"+accept)
		m.remark("stunnel's socket was open to whom the umask allowed; this one is this user's alone: listen_mode: \"0660\" opens it to the group")
	case isLoopback(host):
		m.text("listen", net.JoinHostPort(host, port))
	default:
		m.text("listen", "127.0.0.1:"+port)
		m.remark("unsafe: accept = %q let other machines in, in the clear; if they must: listen there, with allow_non_loopback: true", accept)
	}
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || host == "ip6-localhost" || err == nil && ip.IsLoopback()
}

// splitAccept reads [HOST:]PORT. Without a host stunnel listens everywhere.
func splitAccept(v string) (host, port string) {
	i := strings.LastIndexByte(v, ':')
	return strings.Trim(v[:max(i, 0)], "[]"), v[i+1:]
}

func (m *mapping) address(o []Option) {
	var all []string
	for _, x := range o {
		if x.Name == "connect" {
			all = append(all, x.Value)
		}
	}
	if len(all) == 0 || strings.HasPrefix(all[0], "/") {
		m.required("address", "HOST:PORT of the server; connect = %q is none", strings.Join(all, ", "))
		return
	}
	host, port := splitAccept(all[0])
	if host == "" {
		host = "localhost" // stunnel's default
	}
	m.text("address", net.JoinHostPort(host, port))
	if len(all) > 1 {
		m.remark("connect is there %d times, and stunnel took turns: the sidecar has one server per link, whose name may have several addresses", len(all))
	}
}

// trust says what verifies the server. What stunnel did not verify has no CA here, and the sidecar does not start without one.
func (m *mapping) trust(o []Option) {
	file, folder := Get(o, "cafile"), Get(o, "capath")
	level, err := strconv.Atoi(Get(o, "verify"))
	chain, peer := isYes(Get(o, "verifychain")), isYes(Get(o, "verifypeer"))
	if err == nil { // the older way to say it: 0 is nothing, and 4 is 3 without the chain
		chain, peer = chain && level > 0 || level == 2, peer && level > 0 || level >= 3
	}
	switch {
	case file != "":
		m.text("ca", file)
	case folder != "":
		m.required("ca", "one file with what was in CApath, such as: cat %s/*.pem > ca.pem", folder)
	default:
		m.required("ca", "the PEM file of the server's CA (Sealane: sealane ca bundle NAME > ca.pem)")
	}
	switch {
	case peer:
		m.remark("verifyPeer pinned the server's own certificate, which fails at its next rotation: name its CA in place of it")
	case err == nil && level == 1:
		m.remark("unsafe: verify = 1 accepted servers that show no certificate; the sidecar always verifies")
	case !chain:
		m.remark("unsafe: stunnel verified nothing here (no verifyChain), so that anybody in between could read and change all; the sidecar always verifies")
	}
}

func (m *mapping) certificateName(o []Option) {
	for _, name := range []string{"checkhost", "checkip"} {
		if v := Get(o, name); v != "" {
			m.text("server_name", v)
			return
		}
	}
	m.remark("stunnel did not look at the name in the certificate; the sidecar does: if it is not the host of address, give server_name or server_identity")
}

// clientCertificate goes on with what stunnel showed to the server. As in stunnel, a key without a file of its own is in the
// certificate's.
func (m *mapping) clientCertificate(o []Option) {
	cert, key := Get(o, "cert"), Get(o, "key")
	if cert == "" {
		return
	}
	m.text("cert", cert)
	if key != "" {
		m.text("key", key)
	}
	m.remark("the sidecar's user must be able to read the key, and no other user may: mode 0600, or 0640 for a group")
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
