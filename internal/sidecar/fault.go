package sidecar

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"
	"time"

	"github.com/sealane/sealane/internal/wire"
)

// Fault is something that is wrong with a link: a code from a closed set, one sentence, and what to do about it.
type Fault struct {
	Code, Sentence, Fix string
}

func (f *Fault) Error() string { return f.Sentence }

// The codes, by what the fault is about. docs/sidecar.md lists them.
const (
	codeSource = "source" // whoever tells where the server is and what to trust does not
	codeBundle = "bundle" // what it tells can't be used

	codeDNS         = "dns"
	codeRefused     = "refused"
	codeTimeout     = "timeout"
	codeUnreachable = "unreachable"
	codeSilent      = "silent"
	codePlaintext   = "plaintext"
	codeOther       = "not-tls"
	codeHandshake   = "handshake"
	codeClosed      = "closed"
	codeClientCert  = "client-cert-required"

	codeClientRefused = "client-cert-refused"
	codeClientPair    = "client-cert" // the sidecar's own files of it can't be used

	codeUnknownCA   = "ca-unknown"
	codeExpired     = "expired"
	codeNotYetValid = "not-yet-valid"
	codeName        = "name-mismatch"
	codeIdentity    = "wrong-server"
	codeUnfit       = "certificate-unfit"

	codeAuth       = "auth"
	codeNoRoom     = "max-clients"
	codeNoReply    = "engine-away"
	codeDenied     = "protected-mode"
	codeLoading    = "loading"
	codeBusy       = "busy"
	codeMasterDown = "master-down"
	codeError      = "server-error"

	codeDescriptors = "descriptors" // this process, or machine, has no more of them

	codeNoWrites   = "misconf"
	codePermission = "no-permission"
)

// Codes are all of them.
var Codes = []string{
	codeSource, codeBundle, codeDNS, codeRefused, codeTimeout, codeUnreachable, codeSilent, codePlaintext, codeOther, codeHandshake,
	codeClosed, codeClientCert, codeUnknownCA, codeExpired, codeNotYetValid, codeName, codeIdentity, codeUnfit, codeAuth, codeNoRoom,
	codeNoReply, codeDenied, codeLoading, codeBusy, codeMasterDown, codeError, codeNoWrites, codePermission,
	codeClientRefused, codeClientPair, codeDescriptors,
}

// topic is what a fault is about: at most one fault of each is shown at a time.
type topic int

const (
	ofSource     topic = iota // the link goes on with what it has
	ofBundle                  // likewise
	ofConnection              // no connection can be made
	ofServer                  // connections can be made, and the server has something against serving clients
	ofProcess                 // this process can't do its part
	ofLimits                  // clients are served, but the server refuses some of what they may ask
	topics
)

func (f *Fault) topic() topic {
	switch f.Code {
	case codeSource, codeClientPair:
		return ofSource
	case codeBundle:
		return ofBundle
	case codeAuth, codeNoRoom, codeNoReply, codeDenied, codeLoading, codeBusy, codeMasterDown, codeError:
		return ofServer
	case codeDescriptors:
		return ofProcess
	case codeNoWrites, codePermission:
		return ofLimits
	}
	return ofConnection
}

// mayBeTrust says that newer information about the server may help.
func (f *Fault) mayBeTrust() bool {
	switch f.Code {
	case codeUnknownCA, codeExpired, codeNotYetValid, codeName, codeIdentity, codeUnfit, codeAuth:
		return true
	}
	return false
}

// isFar says that no byte came from the server.
func (f *Fault) isFar() bool {
	switch f.Code {
	case codeDNS, codeRefused, codeTimeout, codeUnreachable:
		return true
	}
	return false
}

const byItself = "; the sidecar goes on trying"

func (t *trust) dnsFault(err error) *Fault {
	if f := descriptorFault(err); f != nil {
		return f
	}
	why := "no answer"
	if d, ok := errors.AsType[*net.DNSError](err); ok && !d.IsTimeout {
		why = d.Err
	}
	return &Fault{codeDNS, fmt.Sprintf("the address of %q can't be found: %s", t.host, short(why)),
		fmt.Sprintf("correct the name, or mend the DNS: `getent hosts %s`", t.host) + byItself}
}

// dialFault is for a TCP connection that can't be made.
func (t *trust) dialFault(at string, err error) *Fault {
	if f := descriptorFault(err); f != nil {
		return f
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Fault{codeRefused, "nothing listens at " + at + ": the connection is refused", "start the server, or correct the address" + byItself}
	case isTimeout(err):
		return &Fault{codeTimeout, at + " does not react", "let TCP through the firewalls on the way, and see that the host is up" + byItself}
	}
	return &Fault{codeUnreachable, at + " can't be reached: " + reason(err), "bring up the network, VPN or route that leads there" + byItself}
}

// handshakeFault is for what comes after that.
func (t *trust) handshakeFault(at string, end handshakeEnd) *Fault {
	err, heard := end.err, end.heard
	if f := descriptorFault(err); f != nil {
		return f
	}
	if f := t.certificateFault(at, err); f != nil {
		return f
	}
	var record tls.RecordHeaderError
	alert, _ := alertOf(err)
	switch {
	case errors.As(err, &record) || len(heard) > 0 && heard[0] != 0x16 && heard[0] != 0x15:
		if isRedis(heard) {
			return t.plaintextFault(at)
		}
		return &Fault{codeOther, fmt.Sprintf("what answers at %s speaks no TLS: it says %s", at, short(string(heard))), "give the TLS port of the Redis" + t.examine()}
	case alert == alertCertificateRequired, end.asked && t.shows == nil && (alert == alertHandshakeFailure || isAboutClientCertificate(alert)):
		return t.clientCertFault(at) // in TLS 1.2 the alert is a general one
	case end.asked && t.shows == nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)):
		return t.clientCertFault(at) // a reset may destroy the alert, also before all of the handshake is written
	case end.asked && isAboutClientCertificate(alert):
		return t.clientCertRefused(at, err)
	case isTimeout(err) && len(heard) == 0:
		return &Fault{codeSilent, at + " accepts connections and never says anything", "see what has that port: it hangs, or it is a proxy whose own server is away" + byItself}
	case len(heard) == 0 && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return &Fault{codeClosed, at + " accepts connections and closes them at once", "the server's log says why: it is full, has a list of allowed clients, or is being restarted" + byItself}
	}
	return &Fault{codeHandshake, "the TLS handshake with " + at + " fails: " + reason(err), "the server's log of this moment says why" + t.examine()}
}

func (t *trust) clientCertFault(at string) *Fault {
	if t.shows != nil {
		return t.clientCertRefused(at, nil)
	}
	return &Fault{codeClientCert, at + " wants a certificate from its clients, and the sidecar has none",
		"give it one (--cert FILE --key FILE), or have the server not ask: in redis.conf, `tls-auth-clients no`; Sealane's ports ask for none"}
}

// clientCertRefused is for a server that was shown a client certificate and is not content with it.
func (t *trust) clientCertRefused(at string, err error) *Fault {
	leaf := t.shows.Leaf
	what := fmt.Sprintf("%s refuses the client certificate of %s", at, short(leaf.Subject.CommonName))
	if _, text := alertOf(err); text != "" {
		what += ": " + text
	}
	if now := t.now(); now.After(leaf.NotAfter) {
		return &Fault{codeClientRefused, fmt.Sprintf("%s; it expired on %s", what, date(leaf.NotAfter)), "renew it; the files are read again by themselves"}
	} else if now.Before(leaf.NotBefore) {
		return &Fault{codeClientRefused, fmt.Sprintf("%s; it is valid from %s, and this machine's clock says %s", what, date(leaf.NotBefore), date(now)), "correct the clocks, or have it issued anew"}
	}
	return &Fault{codeClientRefused, fmt.Sprintf("%s; it was signed by %s", what, short(leaf.Issuer.CommonName)),
		"take one whose CA is in the server's tls-ca-cert-file, and which is for clients (extended key usage clientAuth); the files are read again by themselves"}
}

func (t *trust) plaintextFault(at string) *Fault {
	return &Fault{codePlaintext, "the Redis at " + at + " has no TLS on this port", "give its TLS port (Sealane's is 6378), or switch TLS on there (tls-port in redis.conf)"}
}

// certificateFault is nil when the certificate was not the reason.
func (t *trust) certificateFault(at string, err error) *Fault {
	renew := "renew it on the server; one of Sealane's is renewed as long as `sealane serve` runs"
	if f, ok := errors.AsType[*identityError](err); ok {
		return &Fault{codeIdentity, fmt.Sprintf("what answers at %s is not %s: its certificate names %s", at, f.want, f.got),
			"see who answers there (addresses, DNS, tunnels), or correct server_identity" + t.examine()}
	}
	if f, ok := errors.AsType[x509.HostnameError](err); ok {
		return &Fault{codeName, fmt.Sprintf("the certificate of %s is not for %q but for %s", at, f.Host, namesOf(f.Certificate)),
			"connect by one of its names, say which one it has (--server-name), or have this one added to it"}
	}
	if f, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		signer := "an unknown CA"
		if f.Cert != nil {
			signer = short(f.Cert.Issuer.CommonName)
		}
		return &Fault{codeUnknownCA, fmt.Sprintf("the certificate of %s was signed by %s, which is not in %s", at, signer, t.from), t.newBundle()}
	}
	f, ok := errors.AsType[x509.CertificateInvalidError](err)
	if !ok {
		if errors.As(err, new(x509.ConstraintViolationError)) || errors.As(err, new(x509.UnhandledCriticalExtension)) || errors.As(err, new(x509.InsecureAlgorithmError)) {
			return &Fault{codeUnfit, "the certificate of " + at + " can't be used: " + short(err.Error()), "have it issued anew" + t.examine()}
		}
		return nil
	}
	now := t.now()
	switch {
	case f.Reason != x509.Expired:
		return &Fault{codeUnfit, "the certificate of " + at + " can't be used: " + short(f.Error()), "have it issued anew" + t.examine()}
	case now.Before(f.Cert.NotBefore):
		return &Fault{codeNotYetValid, fmt.Sprintf("the certificate of %s is valid from %s, and this machine's clock says %s", at, date(f.Cert.NotBefore), date(now)),
			"set this machine's clock: `sudo timedatectl set-ntp true`; if it is right, that of the machine that issues certificates is ahead"}
	case f.Cert.IsCA:
		return &Fault{codeExpired, fmt.Sprintf("the CA of %s expired on %s, and this machine's clock says %s", at, date(f.Cert.NotAfter), date(now)), t.newBundle()}
	}
	return &Fault{codeExpired, fmt.Sprintf("the certificate of %s expired on %s, and this machine's clock says %s", at, date(f.Cert.NotAfter), date(now)), renew}
}

// newBundle is what to do about a CA that is missing.
func (t *trust) newBundle() string {
	return "put the present bundle there (Sealane: `sealane ca bundle NAME`); it is loaded by itself" + t.examine()
}

// examine names the command that says more.
func (t *trust) examine() string {
	if t.doctor == "" {
		return ""
	}
	return "; `" + t.doctor + "` shows every step"
}

// replyFault is for an error with which the server, once it is known to be the right one, answers the sidecar's AUTH (toLogin) or
// its PING. It is nil when the error is none for clients.
func (t *trust) replyFault(at, reply string, toLogin bool) *Fault {
	words := strings.TrimPrefix(reply, "-")
	says := at + " answers " + short(words)
	code, _, _ := strings.Cut(words, " ")
	switch {
	case strings.HasPrefix(words, wire.MaxClients):
		return &Fault{codeNoRoom, at + " has no room for one more client", "close connections that nobody uses there, or raise its limit" + byItself}
	case strings.HasPrefix(words, wire.EngineUnavailable):
		return &Fault{codeNoReply, "Sealane answers at " + at + ", but the engine behind it does not", "wait: it is being restarted" + byItself}
	case code == "DENIED":
		return &Fault{codeDenied, says, "on the server: set a password (requirepass, or ACL users), or name its addresses in `bind` and set `protected-mode no`" + byItself}
	case code == "LOADING":
		return &Fault{codeLoading, says, "wait until it has loaded its data" + byItself}
	case code == "BUSY":
		return &Fault{codeBusy, says, "end the script there: `redis-cli SCRIPT KILL` or `FUNCTION KILL`" + byItself}
	case code == "MASTERDOWN":
		return &Fault{codeMasterDown, says, "mend this replica's link to its master (`redis-cli INFO replication` there), or give the master's address" + byItself}
	case toLogin:
		return &Fault{codeAuth, at + " refuses the password: " + short(words), "give the present one; it is read again by itself" + t.examine()}
	case t.ClientsLogIn && (code == "NOAUTH" || code == "NOPERM"):
		return nil // what a client may do depends on who it logs in as
	case code == "NOAUTH":
		return &Fault{codeAuth, at + " wants a password, and the sidecar has none", "give it one (--auth), or let clients log in themselves (--auth none)"}
	case code == "NOPERM":
		return &Fault{codePermission, says, "if clients send PING, let their user do so there: `ACL SETUSER NAME +ping`"}
	case code == "MISCONF":
		return &Fault{codeNoWrites, says, "make room for its snapshots or mend what keeps them from being written; its log says which. Reads are served meanwhile" + byItself}
	}
	return &Fault{codeError, says, "the server's log of this moment may say why" + byItself}
}

// short makes one line of bounded length out of what came from elsewhere: a terminal obeys control characters.
func short(s string) string { return fmt.Sprintf("%.160q", strings.TrimSpace(s)) }

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func isTimeout(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// reason is the last part of a network error: what the system said.
func reason(err error) string {
	if isTimeout(err) {
		return "no answer"
	}
	if _, text := alertOf(err); text != "" {
		return "the server ends it with the alert " + short(text)
	}
	if errors.Is(err, io.EOF) {
		return "the server closes the connection"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return short(err.Error())
}

// isAboutClientCertificate says that a server sends this alert to a client because of the client's certificate, or its absence.
func isAboutClientCertificate(alert uint64) bool {
	return alert >= alertBadCertificate && alert <= alertCertificateUnknown || alert == alertUnknownCA || alert == alertAccessDenied || alert == alertCertificateRequired
}

const (
	// RFC 8446, section 6.2. Between these two are unsupported_certificate, certificate_revoked and certificate_expired.
	alertHandshakeFailure      = 40
	alertBadCertificate        = 42
	alertCertificateUnknown    = 46
	alertUnknownCA             = 48
	alertAccessDenied          = 49
	alertCertificateRequired   = 116
	alertNoApplicationProtocol = 120 // RFC 7301
)

// alertOf is the alert that the server sent, 0 for none. crypto/tls keeps the type of its alerts to itself.
func alertOf(err error) (number uint64, text string) {
	e, ok := errors.AsType[*net.OpError](err)
	if !ok || e.Op != "remote error" {
		return 0, ""
	}
	if v := reflect.ValueOf(e.Err); v.Kind() == reflect.Uint8 {
		number = v.Uint()
	}
	return number, strings.TrimPrefix(e.Err.Error(), "tls: ")
}

// isRedis is true of what only a Redis says first.
func isRedis(b []byte) bool {
	s := string(b)
	for _, p := range []string{"+PONG", "-ERR", "-NOAUTH", "-DENIED", "-LOADING"} {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// namesOf are the names in a certificate, bounded.
func namesOf(c *x509.Certificate) string {
	var all []string
	for _, n := range c.DNSNames {
		all = append(all, short(n))
	}
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	switch {
	case len(all) == 0:
		return "no name at all"
	case len(all) > 6:
		all = append(all[:6], "others")
	}
	return strings.Join(all, ", ")
}

// SourceFault is what a Source returns that knows what to do about its failure.
func SourceFault(sentence, fix string) *Fault { return &Fault{codeSource, sentence, fix} }
