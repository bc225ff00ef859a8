package diagnosis

import (
	"maps"
	"slices"
)

// A row of the table has the texts of one Kind. They are templates (text/template) over facts: Subject and Details. A sentence says
// what is wrong; a fix says what to do, with a command in backquotes where one exists. docs/doctor.md and docs/sidecar.md list them,
// and tests keep those pages true.
type row struct {
	code     string // what doctor calls it; "": as the Kind is called
	sentence string
	fix      string  // "": doctor never says it
	sidecar  variant // no code: the sidecar never says it
}

// variant is what the sidecar says otherwise. Its code is always its own, because the metric sealane_sidecar_problem and alerts are
// made of it.
type variant struct{ code, sentence, fix string }

// texts is the table.
var texts = joined(clientTexts, networkTexts, protocolTexts, certificateTexts, redisTexts)

func joined(tables ...map[Kind]row) map[Kind]row {
	all := make(map[Kind]row)
	for _, t := range tables {
		maps.Copy(all, t)
	}
	return all
}

// SidecarCodes are the codes that the sidecar can say by this table.
func SidecarCodes() []string {
	codes := make(map[string]bool)
	for _, r := range texts {
		if r.sidecar.code != "" {
			codes[r.sidecar.code] = true
		}
	}
	return slices.Sorted(maps.Keys(codes))
}

// Parts that several rows have in common.
const (
	// saveBundle follows the reason to fetch the CA bundle anew.
	saveBundle = ": `sealane ca bundle {{.InstanceArgs}} > {{if .CAFile}}{{shell .CAFile}}{{else}}ca.pem{{end}}`" +
		"{{if eq .InstanceArgs \"NAME\"}}, or for a Redis that is not Sealane's, from whoever runs it{{end}}"
	loadPresent = "save the present bundle, and have the clients load it" + saveBundle
	renew       = "{{if .OurServer}}`sealane serve` renews it as long as it runs: start it, or look into its log" +
		"{{else}}renew it on the server, and have the server load it{{end}}"
	setClock     = "`sudo timedatectl set-ntp true`"
	givePort     = "give the port of the Redis: `sealane instances list` shows the ports of Sealane's instances"
	whoHasPort   = "`ss -ltnp sport = :{{.Port}}`"
	serverLog    = "the server's log of this moment says why"
	ofThisServer = "{{if .ForSidecar}} of {{.At}}{{end}}" // doctor looks at one server alone

	// The sidecar's: what it does by itself, and the command that says more.
	goesOn    = "; the sidecar goes on trying"
	everyStep = "{{if .DoctorCommand}}; `{{.DoctorCommand}}` shows every step{{end}}"
	newBundle = "put the present bundle there (Sealane: `sealane ca bundle NAME`); it is loaded by itself" + everyStep
	reissue   = "have it issued anew" + everyStep
)

var clientTexts = map[Kind]row{
	InstanceNotReady: {
		sentence: "instance {{.Instance}} is {{plain .State}}{{if .Problem}}: {{plain .Problem}}{{end}}",
		fix:      "wait until `sealane instances describe {{.InstanceArgs}}` says READY; the log of `sealane serve` has the details",
	},
	CAFileMissing: {
		sentence: "the CA file {{.TrustName}} does not exist",
		fix:      "save the bundle there" + saveBundle,
	},
	CAFileUnreadable: {
		sentence: "the CA file {{.TrustName}} can't be read: {{plain .Why}}",
		fix:      "name a file with --ca that you may read: `ls -ld {{shell .CAFile}}` shows what it is",
	},
	CAFileEmpty: {
		sentence: "the CA file {{.TrustName}} is empty",
		fix:      "save the bundle again, and see that the command succeeds" + saveBundle,
		sidecar:  variant{"bundle", "{{.TrustName}} can't be used: it is empty", newBundle},
	},
	CAFileNotPEM: {
		sentence: "the CA file {{.TrustName}} is no bundle of CA certificates: it holds no certificate in PEM",
		fix:      "save the bundle again" + saveBundle,
		sidecar:  variant{"bundle", "{{.TrustName}} can't be used: it holds no certificate in PEM", newBundle},
	},
	CAFileOtherBlock: {
		code:     "ca-file-not-pem",
		sentence: "the CA file {{.TrustName}} is no bundle of CA certificates: it holds a {{plain .Said}} where certificates belong",
		fix:      "save the bundle again" + saveBundle,
		sidecar:  variant{"bundle", "{{.TrustName}} can't be used: it holds a {{plain .Said}} where certificates belong", newBundle},
	},
	CAFileMarked: {
		code:     "ca-file-encoding",
		sentence: "the CA file {{.TrustName}} has a byte order mark before a certificate, which OpenSSL ignores; other TLS libraries, Go's for instance, don't find the certificate",
		fix:      `save it as plain text, and use the outcome: ` + "`" + `sed 's/\xEF\xBB\xBF//' {{shell .CAFile}} > {{renamed .CAFile "-plain"}}` + "`",
	},
	CAFileUTF16: {
		code:     "ca-file-encoding",
		sentence: "the CA file {{.TrustName}} is in UTF-16, in which no client finds a certificate",
		fix:      "save it as plain text, and use the outcome: `iconv -f UTF-16 -t UTF-8 {{shell .CAFile}} > {{renamed .CAFile \"-plain\"}}`",
		sidecar:  variant{"bundle", "{{.TrustName}} can't be used: it is in UTF-16, as Windows PowerShell's > writes it: save it as plain text, in UTF-8", newBundle},
	},
	CAFileDER: {
		sentence: "the CA file {{.TrustName}} is in DER, and clients want PEM",
		fix:      "convert it, and use the outcome: `openssl x509 -inform DER -in {{shell .CAFile}} -out {{renamed .CAFile \"-in-pem\"}}`",
		sidecar:  variant{"bundle", "{{.TrustName}} can't be used: it is in DER, and not in PEM: convert it with `openssl x509 -inform DER -in FILE -out ca.pem`", newBundle},
	},
	CAFileDamaged: {
		sentence: "a certificate in the CA file {{.TrustName}} is damaged or cut off",
		fix:      "save the bundle again" + saveBundle,
		sidecar:  variant{"bundle", "{{.TrustName}} can't be used: a certificate in it is damaged or cut off", newBundle},
	},
	CAFileNoCA: {
		sentence: "the CA file {{.TrustName}} holds the certificate of a server, {{ca .Cert}}, in place of its CA's",
		fix:      "save the bundle of the CA" + saveBundle,
	},
	CAExpired: {
		sentence: "the CA {{ca .Cert}} in {{.TrustName}} expired on {{date .Cert.NotAfter}}",
		fix:      loadPresent,
		sidecar:  variant{code: "expired", fix: newBundle},
	},
	CANextMissing: {
		sentence: "{{.TrustName}} lacks the next CA, {{ca .Cert}}: clients that have only this file will fail once its own CA has ended",
		fix:      loadPresent,
	},
	ClockWrong: {
		sentence: "{{.Clock}}, so that a valid certificate seems {{if .Now.After .Cert.NotAfter}}expired{{else}}not valid yet{{end}}",
		fix:      "set this machine's clock: " + setClock,
	},
	ClockSkew: {
		sentence: "{{.Clock}}: certificates that are new or about to end will not verify",
		fix:      "set the clock that is wrong; for this machine's: " + setClock,
	},
	NotVerified: {
		sentence: "this program accepts the certificate with {{plain .Why}}, so that nothing it says of verification holds",
		fix:      "don't use this build, and report it: `sealane version`",
	},
	NoDescriptors: {
		sentence: "the sidecar has no free file descriptor: its limit of open files is {{plain .Why}}",
		sidecar:  variant{code: "descriptors", fix: "raise it and start again (systemd: LimitNOFILE=, shell: `ulimit -n`, Docker: --ulimit nofile=), or have clients keep fewer connections: each needs up to two"},
	},
	NoDescriptorsOnMachine: {
		sentence: "this machine has no free file descriptor for anybody",
		sidecar:  variant{code: "descriptors", fix: "raise it: `sysctl fs.file-max`; `cat /proc/sys/fs/file-nr` shows how many there are"},
	},
}

var networkTexts = map[Kind]row{
	NameTrailingDot: {
		sentence: "the name {{quote .Host}} ends in a dot: a client that puts it into SNI as it is (RFC 6066 does not allow the dot) is refused with decode_error by Sealane's ports, though Redis's own TLS takes it",
		fix:      "leave the dot out of the host name that clients are given: `{{.Retry}}`",
	},
	NameUnknown: {
		sentence: "the name {{quote .Host}} does not exist",
		fix:      "correct it, or add it to the DNS or to /etc/hosts: `getent hosts {{shell .Host}}` shows what this machine knows",
		sidecar:  variant{code: "dns", fix: "correct it, or add it to the DNS or to /etc/hosts: `getent hosts {{shell .Host}}` shows what this machine knows" + goesOn},
	},
	DNSDown: {
		sentence: "the name servers don't tell the address of {{quote .Host}}: {{plain .Why}}",
		fix:      "check the name servers in /etc/resolv.conf and the way to them: `cat /etc/resolv.conf`",
		sidecar:  variant{code: "dns", fix: "check the name servers in /etc/resolv.conf and the way to them: `getent hosts {{shell .Host}}`" + goesOn},
	},
	Unreachable: {
		sentence: "this machine can't reach {{.Address}}: {{plain .Why}}",
		fix:      "bring up the network, VPN or route that leads there, or open the firewall that rejects it: `ip route get {{.Address}}`",
		sidecar:  variant{code: "unreachable", fix: "bring up the network, VPN or route that leads there, or open the firewall that rejects it: `ip route get {{.Address}}`" + goesOn},
	},
	PortClosed: {
		sentence: "nothing listens on port {{.Port}} of {{.Address}}: the connection is refused",
		fix: "{{if .Instance}}`sealane instances describe {{.InstanceArgs}}` shows the instance's state and what keeps its gateway from running" +
			"{{else if loopback .Address}}start the server, or correct the port (`ss -ltn` shows the open ones); a server on another machine is not reached by a loopback address" +
			"{{else}}start the server there, or correct the port: Sealane's is 6378, or what `sealane instances list` shows{{end}}",
		sidecar: variant{code: "refused", fix: "start the server, or correct the address" + goesOn},
	},
	PortSilent: {
		sentence: "{{.Address}} does not react to a connection to port {{.Port}}{{if .Timeout}} within {{.Timeout}}{{end}}",
		fix:      "let TCP port {{.Port}} through the firewalls and security groups on the way, and see that the host is up and not overloaded",
		sidecar:  variant{code: "timeout", fix: "let TCP port {{.Port}} through the firewalls and security groups on the way, and see that the host is up and not overloaded" + goesOn},
	},
	PortPartly: {
		sentence: "not all addresses of {{quote .Host}} accept connections ({{few .Refused}}): clients that try those first are slow or fail",
		fix:      "have the server listen on all of them, or take the others out of the DNS and /etc/hosts: `getent ahosts {{shell .Host}}`",
	},
}

var protocolTexts = map[Kind]row{
	PlaintextRedis: {
		sentence: "the Redis at {{.At}} has no TLS on this port",
		fix:      "give clients its TLS port (Sealane's is 6378), or switch TLS on there (tls-port in redis.conf)",
		sidecar:  variant{code: "plaintext", fix: "give its TLS port (Sealane's is 6378), or switch TLS on there (tls-port in redis.conf)"},
	},
	HTTP: {
		sentence: "{{.At}} is a web server, not a Redis",
		fix:      givePort,
		sidecar:  variant{code: "not-tls", fix: givePort + everyStep},
	},
	HTTPOverTLS: {
		sentence: "{{.At}} speaks HTTP inside TLS: it is a web server or an HTTP proxy, not a Redis",
		fix:      "give the port of the Redis, or have the proxy pass TCP on instead of HTTP: `sealane instances list` shows the ports of Sealane's instances",
		sidecar:  variant{code: "not-tls", fix: "give the port of the Redis, or have the proxy pass TCP on instead of HTTP" + everyStep},
	},
	Silent: {
		sentence: "{{.At}} accepts connections and never says anything",
		fix:      "see what has the port there (" + whoHasPort + "): it hangs, or it is a proxy whose own server is away",
		sidecar:  variant{code: "silent", fix: "see what has the port there (" + whoHasPort + "): it hangs, or it is a proxy whose own server is away" + goesOn},
	},
	ClosedAtOnce: {
		sentence: "{{.At}} accepts connections and closes them at once",
		fix:      "see what has the port there (" + whoHasPort + ") and its log: a Redis that has reached maxclients, a proxy without a server behind it, or a list of allowed clients",
		sidecar:  variant{code: "closed", fix: "the server's log says why: it is full, has a list of allowed clients, or is being restarted" + goesOn},
	},
	OtherProtocol: {
		sentence: "{{.At}} speaks neither TLS nor Redis: it says {{quote .Said}}",
		fix:      givePort,
		sidecar:  variant{code: "not-tls", fix: givePort + everyStep},
	},
	PortWantsTLS: {
		sentence: "{{.At}} wants TLS, although instance {{.Instance}} has no encryption",
		fix:      "another server has that port: " + whoHasPort + " shows which one",
	},
	TLSTooOld: {
		sentence: "{{.At}} speaks {{.Version}} at most, and clients of today want TLS 1.2 or 1.3",
		fix:      "update the server or its TLS library, or allow newer versions: in redis.conf, `tls-protocols \"TLSv1.2 TLSv1.3\"`",
	},
	NoSharedCipher: {
		sentence: "{{.At}} refuses every cipher suite and key exchange of today's clients{{if .Suite}}, and takes only such as {{.Suite}}{{end}}",
		fix:      "allow ECDHE with AES-GCM there: in redis.conf, `tls-ciphers \"ECDHE+AESGCM:ECDHE+CHACHA20\"`; a server without a certificate fails likewise",
	},
	ClientCertRequired: {
		sentence: "{{.At}} wants a certificate from its clients",
		fix:      "give the clients one (redis-cli, and here: --cert and --key), or have the server not ask: in redis.conf, `tls-auth-clients no`; Sealane's ports ask for none",
		sidecar:  variant{code: "client-cert-required", fix: "give the sidecar one (cert and key of its configuration), or have the server not ask: in redis.conf, `tls-auth-clients no`; Sealane's ports ask for none"},
	},
	ClientCertRefused: {
		sentence: "{{.At}} refuses the client certificate of {{cn .ClientCert}}{{if .Alert}}: {{plain .Alert}}{{end}}; " +
			"{{if .Now.After .ClientCert.NotAfter}}it expired on {{date .ClientCert.NotAfter}}" +
			"{{else if .Now.Before .ClientCert.NotBefore}}it is valid from {{date .ClientCert.NotBefore}}, and this machine's clock says {{date .Now}}" +
			"{{else}}it was signed by {{signer .ClientCert}}{{end}}",
		fix: "take one whose CA is in the server's tls-ca-cert-file, which has not expired, and which is for clients (extended key usage clientAuth)",
		sidecar: variant{code: "client-cert-refused", fix: "{{if .Now.After .ClientCert.NotAfter}}renew it; the files are read again by themselves" +
			"{{else if .Now.Before .ClientCert.NotBefore}}correct the clocks, or have it issued anew" +
			"{{else}}take one whose CA is in the server's tls-ca-cert-file, and which is for clients (extended key usage clientAuth); the files are read again by themselves{{end}}"},
	},
	HelloTooBig: {
		sentence: "{{.At}}, or a firewall before it, chokes on a ClientHello of more than one packet, as post-quantum key exchange makes it",
		fix:      "update what inspects TLS on the way; until then, for clients in Go: `export GODEBUG=tlsmlkem=0,tlssecpmlkem=0`",
	},
	SNIRefused: {
		sentence: "the server at {{.At}} knows no host {{quote .Host}}",
		fix:      "connect by a name that it serves, or add this one to it (a proxy's list of SNI hosts)",
		sidecar:  variant{code: "handshake", fix: "connect by a name that it serves, or add this one to it (a proxy's list of SNI hosts)" + everyStep},
	},
	HandshakeFailed: {
		sentence: "the TLS handshake with {{.At}} fails: {{plain .Why}}",
		fix:      serverLog + "; what it does: `openssl s_client -connect {{.At}} </dev/null`",
		sidecar:  variant{code: "handshake", fix: serverLog + everyStep},
	},
}
