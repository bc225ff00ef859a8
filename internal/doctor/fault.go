package doctor

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/sealane/sealane/internal/pki"
)

// The faults, one function each, in the order of the steps. A sentence says what is wrong; a fix says what to do, with a
// command in backquotes where one exists. docs/doctor.md lists them, and a test keeps it true.

// Fault is something that is wrong.
type Fault struct {
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
	Fix      string `json:"fix"`
}

// saveBundle is what brings the CA bundle of the instance that is meant, or that the certificate names.
func (x *exam) saveBundle(why string) string {
	file := "ca.pem"
	if x.CAFile != "" {
		file = ShellWord(x.CAFile)
	}
	name := x.instanceName()
	fix := fmt.Sprintf("%s: `sealane ca bundle %s > %s`", why, name, file)
	if name == anyName {
		fix += ", or for a Redis that is not Sealane's, from whoever runs it"
	}
	return fix
}

// anyName stands for the name of an instance that is not known.
const anyName = "NAME"

// instanceName is what a command calls the instance: the name and the flags that it needs.
func (x *exam) instanceName() string {
	if x.Instance != nil {
		return x.Instance.ID + x.Instance.Flags
	}
	if x.seen.state != nil {
		if i := identityOf(x.seen.state.PeerCertificates[0]); i != "" {
			return argumentsFor(i)
		}
	}
	return anyName
}

// argumentsFor names an instance to a command by its identity.
func argumentsFor(identity string) string {
	m := identityPattern.FindStringSubmatch(identity)
	args := m[3]
	if m[1] != "local" {
		args += " --project " + m[1]
	}
	if m[2] != "local" {
		args += " --region " + m[2]
	}
	return args
}

// again is the command line for one more examination, of host.
func (x *exam) again(host string) string {
	ca := ""
	if x.CAFile != "" {
		ca = " --ca " + ShellWord(x.CAFile)
	}
	return "sealane doctor " + net.JoinHostPort(host, x.Port) + ca
}

func (x *exam) instanceNotReady() Fault {
	problem := ""
	if p := x.Instance.Problem; p != "" {
		problem = ": " + printable(p)
	}
	return Fault{"instance-not-ready",
		fmt.Sprintf("instance %s is %s%s", x.Instance.ID, printable(x.Instance.State), problem),
		fmt.Sprintf("wait until `sealane instances describe %s` says READY; the log of `sealane serve` has the details", x.instanceName())}
}

// Trust.

func (x *exam) caFileMissing() Fault {
	return Fault{"ca-file-missing",
		fmt.Sprintf("the CA file %s does not exist", x.trustName()),
		x.saveBundle("save the bundle there")}
}

func (x *exam) caFileUnreadable(err error) Fault {
	return Fault{"ca-file-unreadable",
		fmt.Sprintf("the CA file %s can't be read: %v", x.trustName(), underlying(err)),
		fmt.Sprintf("name a file with --ca that you may read: `ls -ld %s` shows what it is", ShellWord(x.CAFile))}
}

func (x *exam) caFileEmpty() Fault {
	return Fault{"ca-file-empty",
		fmt.Sprintf("the CA file %s is empty", x.trustName()),
		x.saveBundle("save the bundle again, and see that the command succeeds")}
}

func (x *exam) caFileNotPEM(what string) Fault {
	return Fault{"ca-file-not-pem",
		fmt.Sprintf("the CA file %s is no bundle of CA certificates: it holds %s", x.trustName(), what),
		x.saveBundle("save the bundle again")}
}

// caFileMarked and caFileUTF16 are for what editors for Windows, and Windows PowerShell's >, make of a file.
func (x *exam) caFileMarked() Fault {
	return Fault{"ca-file-encoding",
		fmt.Sprintf("the CA file %s has a byte order mark before a certificate, which OpenSSL ignores; other TLS libraries, Go's for instance, don't find the certificate", x.trustName()),
		x.saveAsText(`sed 's/\xEF\xBB\xBF//'`)}
}

func (x *exam) caFileUTF16() Fault {
	return Fault{"ca-file-encoding",
		fmt.Sprintf("the CA file %s is in UTF-16, in which no client finds a certificate", x.trustName()), x.saveAsText("iconv -f UTF-16 -t UTF-8")}
}

func (x *exam) saveAsText(convert string) string {
	plain := strings.TrimSuffix(x.CAFile, filepath.Ext(x.CAFile)) + "-plain.pem"
	return fmt.Sprintf("save it as plain text, and use the outcome: `%s %s > %s`", convert, ShellWord(x.CAFile), ShellWord(plain))
}

func (x *exam) caFileDER() Fault {
	converted := strings.TrimSuffix(x.CAFile, filepath.Ext(x.CAFile)) + "-in-pem.pem"
	return Fault{"ca-file-der",
		fmt.Sprintf("the CA file %s is in DER, and clients want PEM", x.trustName()),
		fmt.Sprintf("convert it, and use the outcome: `openssl x509 -inform DER -in %s -out %s`", ShellWord(x.CAFile), ShellWord(converted))}
}

func (x *exam) caFileDamaged() Fault {
	return Fault{"ca-file-damaged",
		fmt.Sprintf("a certificate in the CA file %s is damaged or cut off", x.trustName()),
		x.saveBundle("save the bundle again")}
}

func (x *exam) caFileNoCA(leaf *x509.Certificate) Fault {
	return Fault{"ca-file-no-ca",
		fmt.Sprintf("the CA file %s holds the certificate of a server, %s, in place of its CA's", x.trustName(), caName(leaf)),
		x.saveBundle("save the bundle of the CA")}
}

func (x *exam) caExpired(ca *x509.Certificate) Fault {
	return Fault{"ca-expired",
		fmt.Sprintf("the CA %s in %s expired on %s", caName(ca), x.trustName(), date(ca.NotAfter)),
		x.saveBundle("save the present bundle, and have the clients load it")}
}

func (x *exam) caNextMissing(ca *x509.Certificate) Fault {
	return Fault{"ca-next-missing",
		fmt.Sprintf("%s lacks the next CA, %s: clients that have only this file will fail once its own CA has ended", x.trustName(), caName(ca)),
		x.saveBundle("save the present bundle, and have the clients load it")}
}

// Name, route, port.

func (x *exam) nameTrailingDot() Fault {
	plain := strings.TrimRight(x.Host, ".")
	return Fault{"name-trailing-dot",
		fmt.Sprintf("the name %s ends in a dot: a client that puts it into SNI as it is (RFC 6066 does not allow the dot) is refused with decode_error by Sealane's ports, though Redis's own TLS takes it", quoted(x.Host)),
		fmt.Sprintf("leave the dot out of the host name that clients are given: `%s`", x.again(plain))}
}

func (x *exam) nameUnknown() Fault {
	return Fault{"name-unknown",
		fmt.Sprintf("the name %s does not exist", quoted(x.Host)),
		fmt.Sprintf("correct it, or add it to the DNS or to /etc/hosts: `getent hosts %s` shows what this machine knows", ShellWord(x.Host))}
}

func (x *exam) dnsDown(why string) Fault {
	return Fault{"dns-down",
		fmt.Sprintf("the name servers don't tell the address of %s: %s", quoted(x.Host), why),
		"check the name servers in /etc/resolv.conf and the way to them: `cat /etc/resolv.conf`"}
}

func (x *exam) unreachable(a netip.Addr, why string) Fault {
	return Fault{"unreachable",
		fmt.Sprintf("this machine can't reach %s: %s", a, why),
		fmt.Sprintf("bring up the network, VPN or route that leads there, or open the firewall that rejects it: `ip route get %s`", a)}
}

func (x *exam) portClosed(a netip.Addr) Fault {
	f := Fault{"port-closed", fmt.Sprintf("nothing listens on port %s of %s: the connection is refused", x.Port, a), ""}
	switch {
	case x.Instance != nil:
		f.Fix = fmt.Sprintf("`sealane instances describe %s` shows the instance's state and what keeps its gateway from running", x.instanceName())
	case a.IsLoopback():
		f.Fix = "start the server, or correct the port (`ss -ltn` shows the open ones); a server on another machine is not reached by a loopback address"
	default:
		f.Fix = "start the server there, or correct the port: Sealane's is 6378, or what `sealane instances list` shows"
	}
	return f
}

func (x *exam) portSilent(a netip.Addr) Fault {
	return Fault{"port-silent",
		fmt.Sprintf("%s does not react to a connection to port %s within %s", a, x.Port, x.Timeout),
		fmt.Sprintf("let TCP port %s through the firewalls and security groups on the way, and see that the host is up and not overloaded", x.Port)}
}

func (x *exam) portPartly(refused []string) Fault {
	return Fault{"port-partly",
		fmt.Sprintf("not all addresses of %s accept connections (%s): clients that try those first are slow or fail", quoted(x.Host), few(refused)),
		fmt.Sprintf("have the server listen on all of them, or take the others out of the DNS and /etc/hosts: `getent ahosts %s`", ShellWord(x.Host))}
}

// What answers.

func (x *exam) plaintextRedis() Fault {
	return Fault{"plaintext-redis",
		fmt.Sprintf("the Redis at %s has no TLS on this port", x.target()),
		"give clients its TLS port (Sealane's is 6378), or switch TLS on there (tls-port in redis.conf)"}
}

func (x *exam) http() Fault {
	return Fault{"http",
		fmt.Sprintf("%s is a web server, not a Redis", x.target()),
		"give the port of the Redis: `sealane instances list` shows the ports of Sealane's instances"}
}

func (x *exam) httpOverTLS() Fault {
	return Fault{"http-over-tls",
		fmt.Sprintf("%s speaks HTTP inside TLS: it is a web server or an HTTP proxy, not a Redis", x.target()),
		"give the port of the Redis, or have the proxy pass TCP on instead of HTTP: `sealane instances list` shows the ports of Sealane's instances"}
}

func (x *exam) silent() Fault {
	return Fault{"silent",
		fmt.Sprintf("%s accepts connections and never says anything", x.target()),
		fmt.Sprintf("see what has the port there (`ss -ltnp sport = :%s`): it hangs, or it is a proxy whose own server is away", x.Port)}
}

func (x *exam) closedAtOnce() Fault {
	return Fault{"closed-at-once",
		fmt.Sprintf("%s accepts connections and closes them at once", x.target()),
		fmt.Sprintf("see what has the port there (`ss -ltnp sport = :%s`) and its log: a Redis that has reached maxclients, a proxy without a server behind it, or a list of allowed clients", x.Port)}
}

func (x *exam) otherProtocol(said string) Fault {
	return Fault{"other-protocol",
		fmt.Sprintf("%s speaks neither TLS nor Redis: it says %s", x.target(), quoted(said)),
		"give the port of the Redis: `sealane instances list` shows the ports of Sealane's instances"}
}

func (x *exam) wantsTLS() Fault {
	return Fault{"wants-tls",
		fmt.Sprintf("%s wants TLS, although instance %s has no encryption", x.target(), x.Instance.ID),
		fmt.Sprintf("another server has that port: `ss -ltnp sport = :%s` shows which one", x.Port)}
}

// The handshake.

func (x *exam) tlsTooOld(version string) Fault {
	return Fault{"tls-too-old",
		fmt.Sprintf("%s speaks %s at most, and clients of today want TLS 1.2 or 1.3", x.target(), version),
		"update the server or its TLS library, or allow newer versions: in redis.conf, `tls-protocols \"TLSv1.2 TLSv1.3\"`"}
}

func (x *exam) noSharedCipher(suite string) Fault {
	f := Fault{"no-shared-cipher",
		fmt.Sprintf("%s refuses every cipher suite and key exchange of today's clients", x.target()),
		"allow ECDHE with AES-GCM there: in redis.conf, `tls-ciphers \"ECDHE+AESGCM:ECDHE+CHACHA20\"`; a server without a certificate fails likewise"}
	if suite != "" {
		f.Sentence += ", and takes only such as " + suite
	}
	return f
}

// clientCertRequired is for a server that asked for a client certificate and then ended the connection.
func (x *exam) clientCertRequired() Fault {
	if c := x.ClientCertificate; c != nil {
		return Fault{"client-cert-refused",
			fmt.Sprintf("%s refuses the client certificate of %s, which was signed by %s", x.target(), quoted(c.Leaf.Subject.CommonName), quoted(c.Leaf.Issuer.CommonName)),
			"take one whose CA is in the server's tls-ca-cert-file, which has not expired, and which is for clients (extended key usage clientAuth)"}
	}
	return Fault{"client-cert-required",
		fmt.Sprintf("%s wants a certificate from its clients", x.target()),
		"give the clients one (redis-cli, and here: --cert and --key), or have the server not ask: in redis.conf, `tls-auth-clients no`; Sealane's ports ask for none"}
}

func (x *exam) helloTooBig() Fault {
	return Fault{"hello-too-big",
		fmt.Sprintf("%s, or a firewall before it, chokes on a ClientHello of more than one packet, as post-quantum key exchange makes it", x.target()),
		"update what inspects TLS on the way; until then, for clients in Go: `export GODEBUG=tlsmlkem=0,tlssecpmlkem=0`"}
}

func (x *exam) sniRefused() Fault {
	return Fault{"sni-refused",
		fmt.Sprintf("the server at %s knows no host %s", x.target(), quoted(x.Host)),
		"connect by a name that it serves, or add this one to it (a proxy's list of SNI hosts)"}
}

func (x *exam) handshakeFailed(why string) Fault {
	return Fault{"handshake-failed",
		fmt.Sprintf("the TLS handshake with %s fails: %s", x.target(), why),
		fmt.Sprintf("the server's log of this moment says why; what it does: `openssl s_client -connect %s </dev/null`", x.target())}
}

// The certificate.

func (x *exam) caUnknown(top *x509.Certificate) Fault {
	f := Fault{"ca-unknown",
		fmt.Sprintf("the certificate was signed by %s, which is not in %s", issuerName(top), x.trustName()),
		x.saveBundle("save the right bundle, and have the clients load it")}
	if i := identityOf(x.seen.state.PeerCertificates[0]); i != "" {
		f.Sentence += "; it names " + i
	}
	if x.CAFile == "" {
		f.Fix = x.saveBundle("give the clients the CA bundle") + fmt.Sprintf("; then `%s --ca ca.pem`", x.again(x.Host))
	}
	return f
}

func (x *exam) caReplaced(top, ca *x509.Certificate) Fault {
	return Fault{"ca-replaced",
		fmt.Sprintf("the certificate was signed by a CA that is called %s but has another key than the one in %s: it was made anew",
			quoted(subject(ca.Subject.CommonName, ca.Subject.String())), x.trustName()),
		x.saveBundle(fmt.Sprintf("save the present bundle, with the key %s in place of %s, and have the clients load it",
			shortKey(top.AuthorityKeyId), shortKey(ca.SubjectKeyId)))}
}

func (x *exam) intermediateMissing(top *x509.Certificate) Fault {
	return Fault{"intermediate-missing",
		fmt.Sprintf("the server does not send the intermediate CA %s that signed its certificate, so that it does not lead to %s", issuerName(top), x.trustName()),
		fmt.Sprintf("append the intermediate's certificate to the server's own (tls-cert-file in redis.conf); what is sent: `openssl s_client -showcerts -connect %s </dev/null`", x.target())}
}

func (x *exam) selfSigned(leaf *x509.Certificate) Fault {
	return Fault{"self-signed",
		fmt.Sprintf("the certificate %s is signed by itself, and is not in %s", caName(leaf), x.trustName()),
		"if it is the right one, copy it from the server by a way that you trust and name it with --ca; if not, find out who answers there"}
}

func (x *exam) wrongServer(identity string) Fault {
	what := "no CA of the instance signed its certificate"
	fix := fmt.Sprintf("see who answers there (`ss -ltnp sport = :%s`, DNS, tunnels): `sealane instances describe %s` shows where the instance is", x.Port, x.instanceName())
	if identity != "" {
		what = "its certificate names " + identity
		fix = fmt.Sprintf("connect to the right address (`sealane instances describe %s`), or mean the other instance: `sealane doctor %s`", x.instanceName(), argumentsFor(identity))
	}
	return Fault{"wrong-server", fmt.Sprintf("what answers at %s is not instance %s: %s", x.target(), x.Instance.ID, what), fix}
}

func (x *exam) certificateUnfit(why string) Fault {
	return Fault{"certificate-unfit",
		"the certificate can't be used: " + why,
		fmt.Sprintf("have the server's certificate issued anew; what it holds: `openssl s_client -connect %s </dev/null | openssl x509 -noout -text`", x.target())}
}

func (x *exam) nameMismatch(leaf *x509.Certificate) Fault {
	names := namesOf(leaf)
	return Fault{"name-mismatch",
		fmt.Sprintf("the certificate is for %s, not for %s", few(names), quoted(x.Host)),
		fmt.Sprintf("connect by one of its names (`%s`), or have the name added (Sealane: addresses.dns_names of the server's configuration)",
			x.again(strings.Replace(names[0], "*.", "www.", 1)))}
}

func (x *exam) noNames(leaf *x509.Certificate) Fault {
	return Fault{"no-names",
		fmt.Sprintf("the certificate %s has no subject alternative names, and clients no longer look at the common name", caName(leaf)),
		fmt.Sprintf("issue it anew with the name that clients dial (for openssl req: -addext subjectAltName=%s)", x.sanFor())}
}

// sanFor is the host as OpenSSL wants it.
func (x *exam) sanFor() string {
	if _, err := netip.ParseAddr(x.Host); err == nil {
		return "IP:" + x.Host
	}
	return "DNS:" + x.Host
}

// renewal is who makes a new certificate.
func (x *exam) renewal() string {
	if x.Instance != nil || identityOf(x.seen.state.PeerCertificates[0]) != "" {
		return "`sealane serve` renews it as long as it runs: start it, or look into its log"
	}
	return "renew it on the server, and have the server load it"
}

func (x *exam) expired(leaf *x509.Certificate) Fault {
	return Fault{"expired",
		fmt.Sprintf("the certificate expired on %s, %s ago", date(leaf.NotAfter), span(x.Now().Sub(leaf.NotAfter))),
		x.renewal()}
}

const setClock = "`sudo timedatectl set-ntp true`"

func (x *exam) notYetValid(leaf *x509.Certificate) Fault {
	return Fault{"not-yet-valid",
		fmt.Sprintf("the certificate is valid from %s, and this machine's clock says %s", date(leaf.NotBefore), date(x.Now())),
		"set this machine's clock: " + setClock + "; if it is right, that of the machine that issues certificates is ahead"}
}

func (x *exam) clockWrong(r reading, leaf *x509.Certificate) Fault {
	state := "not valid yet"
	if x.Now().After(leaf.NotAfter) {
		state = "expired"
	}
	return Fault{"clock-wrong",
		fmt.Sprintf("%s, so that a valid certificate seems %s", r, state),
		"set this machine's clock: " + setClock}
}

func (x *exam) expiresSoon(c *x509.Certificate) Fault {
	if c.IsCA {
		return Fault{"expires-soon",
			fmt.Sprintf("the CA %s, which the certificate leads to, expires on %s, in %s", caName(c), date(c.NotAfter), span(c.NotAfter.Sub(x.Now()))),
			x.saveBundle("have the clients load a bundle with the next CA before that day")}
	}
	return Fault{"expires-soon",
		fmt.Sprintf("the certificate %s expires on %s, in %s", caName(c), date(c.NotAfter), span(c.NotAfter.Sub(x.Now()))),
		x.renewal()}
}

func (x *exam) clockSkew(r reading) Fault {
	return Fault{"clock-skew",
		r.String() + ": certificates that are new or about to end will not verify",
		"set the clock that is wrong; for this machine's: " + setClock}
}

func (x *exam) expiredExtra(c *x509.Certificate) Fault {
	return Fault{"expired-extra",
		fmt.Sprintf("the server also sends %s, which expired on %s: some TLS libraries fail on it", caName(c), date(c.NotAfter)),
		"take it out of the chain that the server sends"}
}

func (x *exam) nameConstraints(ca *x509.Certificate) Fault {
	return Fault{"name-constraints",
		fmt.Sprintf("the CA %s has name constraints: this program verifies what it signs, but %s", caName(ca), pki.ConstraintsCost),
		fmt.Sprintf("where such clients are to connect, move to a CA without, with the usual overlap: `sealane ca rotate %s --ca-name-constraints=false`", x.instanceName())}
}

func (x *exam) nextChainRefused(next *x509.Certificate, l later, err error) Fault {
	return Fault{"next-chain-refused",
		fmt.Sprintf("the certificate that will be served, by %s, %s, does not verify with %s: %s", issuerName(next), l.when, x.trustName(), printable(err.Error())),
		x.saveBundle("save the present bundle, and have the clients load it")}
}

func (x *exam) notVerified(what string) Fault {
	return Fault{"not-verified",
		"this program accepts the certificate with " + what + ", so that nothing it says of verification holds",
		"don't use this build, and report it: `sealane version`"}
}

// Redis.

func (x *exam) authMissing() Fault {
	return Fault{"auth-missing",
		fmt.Sprintf("%s wants a password, and none was given", x.target()),
		fmt.Sprintf("give it: `SEALANE_AUTH=\"$(sealane instances get-auth-string %s)\" %s`, or --auth-file FILE", x.instanceName(), x.again(x.Host))}
}

func (x *exam) authWrong() Fault {
	if x.AuthFrom == FromAPI {
		return Fault{"auth-wrong",
			fmt.Sprintf("%s refuses the password that the API shows for instance %s", x.target(), x.Instance.ID),
			"try again in a moment, when a change of the password may have reached the engine; if it lasts, the log of `sealane serve` says why"}
	}
	return Fault{"auth-wrong",
		fmt.Sprintf("%s refuses the password (%s)", x.target(), x.AuthFrom),
		fmt.Sprintf("use the present one, which is another after AUTH was off: `sealane instances get-auth-string %s`", x.instanceName())}
}

func (x *exam) authUnneeded() Fault {
	return Fault{"auth-unneeded",
		fmt.Sprintf("%s has no password, and refuses clients that send one (%s)", x.target(), x.AuthFrom),
		"take the password out of the clients, or switch AUTH on at the server"}
}

func (x *exam) maxClients() Fault {
	return Fault{"max-clients",
		fmt.Sprintf("%s has no room for one more client", x.target()),
		"close connections that nobody uses (CLIENT LIST shows them, `timeout` closes them), pool them in the clients, or raise the limit: a larger instance, or maxclients"}
}

func (x *exam) loading() Fault {
	return Fault{"loading",
		fmt.Sprintf("the engine behind %s is loading its data", x.target()),
		"wait, and have clients retry with backoff; INFO persistence shows how long it will take (loading_eta_seconds)"}
}

func (x *exam) engineAway() Fault {
	return Fault{"engine-away",
		fmt.Sprintf("Sealane answers at %s, but the engine behind it does not: it is being restarted", x.target()),
		fmt.Sprintf("wait, and have clients retry with backoff; if it lasts: `sealane instances describe %s`", x.instanceName())}
}

func (x *exam) pingRefused(said string) Fault {
	return Fault{"ping-refused",
		fmt.Sprintf("%s refuses PING: %s", x.target(), quoted(said)),
		"do what the server says there; its log has more"}
}

func (x *exam) notRedis(said string) Fault {
	return Fault{"not-redis",
		fmt.Sprintf("what answers inside TLS at %s is no Redis: it says %s", x.target(), quoted(said)),
		"give the port of the Redis: `sealane instances list` shows the ports of Sealane's instances"}
}

func (x *exam) noReply(command string) Fault {
	return Fault{"no-reply",
		fmt.Sprintf("%s finishes the handshake, but does not answer %s within %s", x.target(), command, x.Timeout),
		"see whether the engine hangs (a slow script or command: SLOWLOG GET), or a proxy waits for a server that is away"}
}

func (x *exam) closedAfterHandshake() Fault {
	return Fault{"closed-after-handshake",
		fmt.Sprintf("%s finishes the handshake and then closes the connection", x.target()),
		"the server's log of this moment says why: a proxy without a server behind it, or a list of allowed clients"}
}
