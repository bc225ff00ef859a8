// Package doctor finds out what is wrong with a connection to a Redis, from the client's side.
//
// Guaranteed: every step ends by its deadline, and all of them are in the report, with a reason; the first that is wrong
// has one sentence and what to do about it. The password is sent only over a connection that is verified in full (or,
// where the instance is known to have no encryption, over plain TCP), and is in no report, also when a server repeats it.
// What a server says is shown only as printable text of bounded length.
//
// Not guaranteed: that a server which answers differently the next time is described as it is then. Servers see some twenty
// short connections, one of them with a name that is not theirs.
package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Config says what to examine, and with what.
type Config struct {
	// Host and Port are what a client would dial; Host is what it would look for in the certificate.
	Host, Port string
	// CAFile is the PEM file that the client trusts. "": the instance's bundle, or without an instance what this machine
	// trusts.
	CAFile string
	// Auth is the password, "" for none. AuthFrom says where it comes from, for sentences.
	Auth, AuthFrom string
	// ClientCertificate is what a server is shown that asks for one; nil: there is none.
	ClientCertificate *tls.Certificate
	// Instance is what the API says of the instance that is meant; nil where only an address is known.
	Instance *Instance
	// Timeout bounds each step; 0 means 5 seconds.
	Timeout time.Duration
	// Now is the clock that certificates are held against; nil means time.Now.
	Now func() time.Time
	// Resolver finds addresses of names; nil means this machine's.
	Resolver *net.Resolver
}

// Instance is one of Sealane's.
type Instance struct {
	ID    string
	Flags string // that a command needs besides the name, such as " --project web"
	State string // as the API says it, READY when all is well
	// Problem is what keeps it from being READY, "" if that is not known.
	Problem   string
	Encrypted bool
	Identity  string // the URI that its certificate carries
	Bundle    []byte // PEM: all CAs that clients should trust
	// Date is the server's clock at the time Here of this machine's, to the second; zero: not known.
	Date, Here time.Time
}

// FromAPI is where the password of an instance comes from when the client gave none.
const FromAPI = "from the API"

// Result is how a step, or all of them, came out.
type Result string

const (
	OK      Result = "ok"
	Warn    Result = "warn" // works today
	Fail    Result = "FAIL"
	Skipped Result = "skipped"
)

// Step is one thing that was looked at.
type Step struct {
	Name   string `json:"name"`
	Result Result `json:"result"`
	Detail string `json:"detail"` // what was seen, or why it was not tried
	Fault  *Fault `json:"fault,omitempty"`
}

// Report is the outcome.
type Report struct {
	Target   string   `json:"target"`
	Instance string   `json:"instance,omitempty"`
	Result   Result   `json:"result"`          // OK, Warn or Fail
	Fault    *Fault   `json:"fault,omitempty"` // the first that is wrong, or else the first warning
	Steps    []Step   `json:"steps"`
	Latency  *Latency `json:"latency,omitempty"`
}

// Examine goes through all steps.
func Examine(ctx context.Context, c Config) Report {
	x := &exam{Config: c}
	x.Timeout = cmp.Or(x.Timeout, 5*time.Second)
	if x.Now == nil {
		x.Now = time.Now
	}
	if x.Resolver == nil {
		x.Resolver = net.DefaultResolver
	}
	x.plain = c.Instance != nil && !c.Instance.Encrypted
	report := Report{Target: x.target(), Result: OK}
	if c.Instance != nil {
		report.Instance = c.Instance.ID
	}
	// A step that fails keeps those from being tried that need it; blame says which one is at the root of it.
	blame := map[string]string{}
	for _, s := range x.steps() {
		f := finding{result: Skipped}
		for _, need := range s.needs {
			if by := blame[need]; by != "" {
				blame[s.name] = by
				f.detail = "not tried: " + by + " failed"
				break
			}
		}
		if f.detail == "" {
			stepCtx, cancel := context.WithTimeout(ctx, x.Timeout)
			f = s.run(stepCtx)
			cancel()
		}
		if f.result == Fail {
			blame[s.name] = s.name
		}
		report.add(Step{s.name, f.result, f.detail, f.fault})
	}
	if x.session != nil {
		x.session.close()
	}
	report.Latency = x.latency
	return report
}

func (r *Report) add(s Step) {
	r.Steps = append(r.Steps, s)
	if s.Result == Fail && r.Result != Fail || s.Result == Warn && r.Result == OK {
		r.Result, r.Fault = s.Result, s.Fault
	}
}

// exam is one examination: what the steps so far have found.
type exam struct {
	Config
	plain bool // there is to be no encryption

	trusted   []*x509.Certificate // CAs that the client trusts
	roots     *x509.CertPool      // the same; nil: what this machine trusts
	addresses []netip.Addr
	at        netip.AddrPort // that accepts connections
	seen      look           // what answers there
	authed    bool           // the password was accepted
	answers   bool           // PING is answered, by PONG or for want of a password
	session   *session       // verified, from auth on
	greeting  reply          // its answer to the first PING
	latency   *Latency
}

type step struct {
	name  string
	needs []string // that must not have failed
	run   func(context.Context) finding
}

func (x *exam) steps() []step {
	verified := []string{"trust", "protocol", "chain", "names", "expiry"}
	steps := []step{
		{"trust", nil, x.encrypted(x.trustStep)},
		{"name", nil, x.nameStep},
		{"route", []string{"name"}, x.routeStep},
		{"port", []string{"route"}, x.portStep},
		{"answer", []string{"port"}, x.answerStep},
		{"protocol", []string{"answer"}, x.encrypted(x.protocolStep)},
		{"chain", []string{"protocol", "trust"}, x.encrypted(x.chainStep)},
		{"names", []string{"protocol"}, x.encrypted(x.namesStep)},
		{"expiry", []string{"protocol"}, x.encrypted(x.expiryStep)},
		{"verification", verified, x.encrypted(x.verificationStep)},
		{"rotation", []string{"chain", "names", "expiry"}, x.encrypted(x.rotationStep)},
		{"auth", append(verified, "answer", "verification"), x.authStep},
		{"ping", []string{"auth"}, x.pingStep},
		{"clock", nil, x.clockStep},
		{"latency", []string{"port"}, x.latencyStep},
	}
	if x.Instance != nil {
		steps = append([]step{{"instance", nil, x.instanceStep}}, steps...)
	}
	return steps
}

// encrypted leaves a step out where there is to be no encryption.
func (x *exam) encrypted(run func(context.Context) finding) func(context.Context) finding {
	if !x.plain {
		return run
	}
	return func(context.Context) finding { return skipped("instance %s has no encryption", x.Instance.ID) }
}

func (x *exam) target() string { return net.JoinHostPort(x.Host, x.Port) }

// finding is what a step found.
type finding struct {
	result Result
	detail string
	fault  *Fault
}

func ok(format string, args ...any) finding {
	return finding{result: OK, detail: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) finding {
	return finding{result: Skipped, detail: fmt.Sprintf(format, args...)}
}

func failed(f Fault, format string, args ...any) finding {
	return finding{result: Fail, detail: fmt.Sprintf(format, args...), fault: &f}
}

func warned(f Fault, format string, args ...any) finding {
	return finding{result: Warn, detail: fmt.Sprintf(format, args...), fault: &f}
}

func (x *exam) instanceStep(context.Context) finding {
	i := x.Instance
	if i.State == "READY" {
		return ok("%s is READY at %s", i.ID, x.target())
	}
	return warned(x.instanceNotReady(), "%s is %s", i.ID, printable(i.State))
}
