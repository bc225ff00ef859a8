package backend

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/resp"
)

// Fault is why clients can't be served by a server, and what to do about it. Neither text has the password.
type Fault struct {
	Kind     diagnosis.Kind
	Sentence string
	Fix      string
}

func (f *Fault) Error() string { return f.Sentence + "; " + f.Fix }

// Lasting says that the fault won't go away by itself within a minute, as far as can be told.
func (f *Fault) Lasting() bool {
	switch f.Kind {
	case diagnosis.Loading, diagnosis.MaxClients, diagnosis.Busy, diagnosis.MasterDown, diagnosis.EngineAway, diagnosis.NoReply, diagnosis.PortSilent,
		diagnosis.DNSDown, diagnosis.ClosedAfterHandshake:
		return false
	}
	return true
}

// Hint is what to do.
func (f *Fault) Hint() string { return f.Fix }

// Hints name the flags of `sealane instances create` and `update`.
const (
	fixAddress  = "correct the address (--backend), or start the Redis there"
	fixTLS      = "give the CA that signed its certificate (--backend-ca-file)"
	fixPassword = "give the present one: --backend-user, --backend-password-file"
)

// unreachable is for a connection that can't be made.
func (s Server) unreachable(err error) *Fault {
	at := "the backend " + diagnosis.Printable(s.Address)
	if p, ok := errors.AsType[*plaintextError](err); ok {
		return &Fault{diagnosis.Unreachable, at + ": " + p.Error(), "use TLS (--backend-tls), or say --backend-plaintext if the way is safe otherwise"}
	}
	if path := s.path(); path != "" {
		return s.socketFault(path, err)
	}
	if errors.As(err, new(*net.DNSError)) {
		k, d := diagnosis.Lookup(err)
		return &Fault{k, at + " can't be found: " + d.Why, "correct the name in --backend, or the DNS of this machine"}
	}
	k, d := diagnosis.Connect(s.host(), err)
	switch k {
	case diagnosis.PortClosed:
		return &Fault{k, at + " refuses connections: nothing listens there", fixAddress}
	case diagnosis.PortSilent:
		return &Fault{k, at + " does not answer", "see whether it runs and whether a firewall is in the way: " + fixAddress}
	}
	return &Fault{k, at + " can't be reached: " + d.Why, fixAddress}
}

func (s Server) socketFault(path string, err error) *Fault {
	at := "the backend's socket " + diagnosis.Printable(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Fault{diagnosis.Unreachable, at + " does not exist", "start the Redis, with `unixsocket` in its configuration, or correct the path (--backend)"}
	case errors.Is(err, fs.ErrPermission):
		return &Fault{diagnosis.Unreachable, at + " may not be opened by the user that runs `sealane serve`", "set `unixsocketperm 770` there and put the user into the group of that Redis"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Fault{diagnosis.PortClosed, at + " is there, but nothing listens on it", "start the Redis"}
	}
	return &Fault{diagnosis.Unreachable, at + " can't be opened: " + diagnosis.Reason(err), "correct the path (--backend)"}
}

// fault words what a server that was reached does, or says.
func (s Server) fault(k diagnosis.Kind, d diagnosis.Details) *Fault {
	at := "the backend " + diagnosis.Printable(s.Address)
	said := diagnosis.Quote(s.WithoutPassword(d.Said))
	f := &Fault{Kind: k}
	switch k {
	case diagnosis.PlaintextRedis:
		f.Sentence, f.Fix = at+" speaks Redis without TLS", "leave TLS out (redis:// in place of rediss://, --backend-tls=false), or give the port where it has TLS"
	case diagnosis.HTTP, diagnosis.HTTPOverTLS:
		f.Sentence, f.Fix = at+" is a web server, and no Redis", "give the port of the Redis (--backend)"
	case diagnosis.NotRedis, diagnosis.OtherProtocol:
		f.Sentence, f.Fix = at+" is no Redis: it says "+said, "give the port of the Redis (--backend)"
	case diagnosis.PortWantsTLS:
		f.Sentence, f.Fix = at+" wants TLS", "use TLS: rediss://, or --backend-tls"
	case diagnosis.Silent, diagnosis.ClosedAtOnce:
		f.Sentence, f.Fix = at+" does not answer a TLS handshake", "see whether it has TLS at this port; without it, leave TLS out (--backend-tls=false)"
	case diagnosis.ClientCertRequired, diagnosis.ClientCertRefused:
		f.Sentence, f.Fix = at+" wants a client certificate, and Sealane has none for backends", "set `tls-auth-clients no` (or optional) there"
	case diagnosis.CAUnknown, diagnosis.CAReplaced, diagnosis.SelfSigned, diagnosis.IntermediateMissing, diagnosis.WrongServerCA:
		f.Sentence, f.Fix = at+" shows a certificate that is not trusted: "+d.Why, fixTLS
	case diagnosis.NameMismatch, diagnosis.NoNames:
		f.Sentence = fmt.Sprintf("%s shows a certificate that is not for %s but for %s", at, diagnosis.Quote(s.name()), diagnosis.Few(append(d.Names, "nobody")[:max(1, len(d.Names))]))
		f.Fix = "give a name that it is for: --backend-server-name, or in --backend"
	case diagnosis.Expired, diagnosis.NotYetValid, diagnosis.CAExpired, diagnosis.IntermediateExpired:
		f.Sentence, f.Fix = at+" shows a certificate that is not valid now: "+d.Why, "renew it there, and check this machine's clock"
	case diagnosis.AuthMissing:
		f.Sentence, f.Fix = at+" wants a password", fixPassword
	case diagnosis.AuthWrong:
		return s.refusedLogin(at, d.Said, said)
	case diagnosis.Loading:
		f.Sentence, f.Fix = at+" is loading its data", "wait"
	case diagnosis.MaxClients:
		f.Sentence, f.Fix = at+" has no room for one more client", "raise maxclients there, or close connections that nobody uses"
	case diagnosis.Busy:
		f.Sentence, f.Fix = at+" has been running a script for too long", "end it there: SCRIPT KILL or FUNCTION KILL"
	case diagnosis.MasterDown:
		f.Sentence, f.Fix = at+" is a replica that has lost its master", "mend its replication, or give the master's address (--backend)"
	case diagnosis.ProtectedMode:
		f.Sentence, f.Fix = at+" is in protected mode", "set a password there (requirepass, or an ACL user), and give it: --backend-password-file"
	case diagnosis.EngineAway:
		f.Sentence, f.Fix = at+" is a proxy whose own engine is away", "wait, or see what is wrong there"
	case diagnosis.NoReply, diagnosis.ClosedAfterHandshake:
		f.Sentence, f.Fix = fmt.Sprintf("%s does not answer %s: %s", at, d.Command, d.Why), "see whether it is a Redis, and whether it hangs; if it wants TLS: rediss://, or --backend-tls"
	case diagnosis.PingRefused:
		f.Sentence, f.Fix = at+" answers PING with "+said, "do what it says there"
	default:
		f.Sentence, f.Fix = fmt.Sprintf("%s can't be used: %s", at, diagnosis.Printable(s.WithoutPassword(d.Why))), fixAddress
	}
	return f
}

// refusedLogin is about an AUTH that failed. said is quoted.
func (s Server) refusedLogin(at, words, said string) *Fault {
	f := &Fault{diagnosis.AuthWrong, at + " refuses the password: " + said, fixPassword}
	switch {
	case s.User != "" && (strings.Contains(words, "wrong number of arguments") || strings.Contains(words, "syntax error")):
		f.Sentence, f.Fix = at+" has no ACL users, as before Redis 6.0", "leave --backend-user out: it wants a password alone"
	case strings.Contains(words, "no password is set"), strings.Contains(words, "without any password configured"):
		f.Kind, f.Sentence = diagnosis.AuthUnneeded, at+" has no password"
		f.Fix = "take it out (--backend-password-file /dev/null), or set one there (requirepass)"
	case strings.Contains(words, "unknown command"):
		f.Sentence, f.Fix = at+" does not know AUTH", "see whether AUTH is renamed there (rename-command): Sealane needs it"
	}
	return f
}

// replyFault is for a request that was refused, or not answered.
func (s Server) replyFault(command string, err error) *Fault {
	if refused, ok := errors.AsType[resp.ReplyError](err); ok {
		k, d := diagnosis.Reply(string(refused), command == "AUTH")
		if diagnosis.WantsTLS([]byte("-" + string(refused))) {
			k = diagnosis.PortWantsTLS
		}
		return s.fault(k, d)
	}
	received := []byte(nil)
	if missing, ok := errors.AsType[*resp.ReadError](err); ok {
		received = missing.Received
	}
	switch p := diagnosis.Sniff(received); {
	case p.IsHTTP():
		return s.fault(diagnosis.HTTP, diagnosis.Details{})
	case p == diagnosis.TLSAlert, p == diagnosis.TLSRecord:
		return s.fault(diagnosis.PortWantsTLS, diagnosis.Details{})
	case p == diagnosis.Unknown:
		return s.fault(diagnosis.NotRedis, diagnosis.Details{Said: string(received)})
	}
	return s.fault(diagnosis.Unanswered(command, err))
}

// handshakeFault is for a TLS handshake that failed. first are the first bytes of the server.
func (s Server) handshakeFault(err error, first []byte) *Fault {
	verification, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok || len(verification.UnverifiedCertificates) == 0 {
		return s.fault(diagnosis.Handshake{Err: err, First: first}.Explain())
	}
	chain := diagnosis.Chain{Served: verification.UnverifiedCertificates, Now: time.Now()}
	if bundle, _, _ := diagnosis.ParseBundle([]byte(s.CA)); s.CA != "" {
		chain.Trusted = bundle.Certs
	}
	k, d := chain.Explain(verification.Err)
	if k == "" || d.Why == "" {
		d.Why = strings.TrimPrefix(diagnosis.Printable(verification.Err.Error()), "x509: ")
	}
	if k == "" {
		k = diagnosis.CertificateUnfit
	}
	return s.fault(k, d)
}
