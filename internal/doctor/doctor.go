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
	"net"
	"net/netip"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
)

// Config says what to examine, and with what.
type Config struct {
	// Host and Port are what a client would dial; Host is what it would look for in the certificate.
	Host, Port string
	// CAFile is the PEM file that the client trusts. "": the instance's bundle, or without an instance what this machine
	// trusts.
	CAFile string
	// Password is what a client would log in with. The zero value means that it has none.
	Password Password
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
	Name   string           `json:"name"`
	Result Result           `json:"result"`
	Detail string           `json:"detail"` // what was seen, or why it was not tried
	Fault  *diagnosis.Fault `json:"fault,omitempty"`
}

// Report is the outcome.
type Report struct {
	Target   string           `json:"target"`
	Instance string           `json:"instance,omitempty"`
	Result   Result           `json:"result"`          // OK, Warn or Fail
	Fault    *diagnosis.Fault `json:"fault,omitempty"` // the first that is wrong, or else the first warning
	Steps    []Step           `json:"steps"`
	Latency  *Latency         `json:"latency,omitempty"`
}

// Diagnose goes through all steps.
func Diagnose(ctx context.Context, c Config) Report {
	d := newDiagnoser(c)
	report := Report{Target: d.target(), Result: OK}
	if c.Instance != nil {
		report.Instance = c.Instance.ID
	}
	// A step that fails keeps those from being tried that need it. blame says which one is at the root of it.
	blame := map[string]string{}
	for _, s := range d.steps() {
		f := finding{result: Skipped}
		for _, need := range s.needs {
			if by := blame[need]; by != "" {
				blame[s.name] = by
				f.detail = "not tried: " + by + " failed"
				break
			}
		}
		if f.detail == "" {
			stepCtx, cancel := context.WithTimeout(ctx, d.config.Timeout)
			f = s.run(stepCtx)
			cancel()
		}
		if f.result == Fail {
			blame[s.name] = s.name
		}
		report.add(Step{s.name, f.result, f.detail, f.fault})
	}
	if d.session != nil {
		d.session.close()
	}
	report.Latency = d.latency
	return report
}

func (r *Report) add(s Step) {
	r.Steps = append(r.Steps, s)
	if s.Result == Fail && r.Result != Fail || s.Result == Warn && r.Result == OK {
		r.Result, r.Fault = s.Result, s.Fault
	}
}

// diagnoser has what the steps have found so far. Each step is a method of its own file's subject, in the order of steps.
type diagnoser struct {
	config Config
	dialer *dialer

	trusted   []*x509.Certificate // CAs that the client trusts; nil: those of this machine
	roots     *x509.CertPool      // the same
	addresses []netip.Addr
	handshake handshake // with whoever answers, verified by nobody
	session   *session  // the first connection that is verified, from auth on
	greeting  reply     // of the session to its first PING
	loggedIn  bool      // the password was accepted
	answers   bool      // PING is answered, by PONG or for want of a password
	latency   *Latency
}

func newDiagnoser(c Config) *diagnoser {
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	d := &diagnoser{config: c, dialer: &dialer{host: c.Host, clientCert: c.ClientCertificate, now: c.Now}}
	if c.Instance != nil {
		d.dialer.plain, d.dialer.identity = !c.Instance.Encrypted, c.Instance.Identity
	}
	return d
}

type step struct {
	name  string
	needs []string // that must not have failed
	run   func(context.Context) finding
}

func (d *diagnoser) steps() []step {
	verified := []string{"trust", "protocol", "chain", "names", "expiry"}
	steps := []step{
		{"trust", nil, d.ifEncrypted(d.trustStep)},
		{"name", nil, d.nameStep},
		{"route", []string{"name"}, d.routeStep},
		{"port", []string{"route"}, d.portStep},
		{"answer", []string{"port"}, d.answerStep},
		{"protocol", []string{"answer"}, d.ifEncrypted(d.protocolStep)},
		{"chain", []string{"protocol", "trust"}, d.ifEncrypted(d.chainStep)},
		{"names", []string{"protocol"}, d.ifEncrypted(d.namesStep)},
		{"expiry", []string{"protocol"}, d.ifEncrypted(d.expiryStep)},
		{"verification", verified, d.ifEncrypted(d.verificationStep)},
		{"rotation", []string{"chain", "names", "expiry"}, d.ifEncrypted(d.rotationStep)},
		{"auth", append(verified, "answer", "verification"), d.authStep},
		{"ping", []string{"auth"}, d.pingStep},
		{"clock", nil, d.clockStep},
		{"latency", []string{"port"}, d.latencyStep},
	}
	if d.config.Instance != nil {
		steps = append([]step{{"instance", nil, d.instanceStep}}, steps...)
	}
	return steps
}

// ifEncrypted skips a step where there is to be no encryption.
func (d *diagnoser) ifEncrypted(run func(context.Context) finding) func(context.Context) finding {
	if !d.dialer.plain {
		return run
	}
	return func(context.Context) finding { return skipped("instance %s has no encryption", d.config.Instance.ID) }
}

func (d *diagnoser) target() string { return net.JoinHostPort(d.config.Host, d.config.Port) }

func (d *diagnoser) instanceStep(context.Context) finding {
	i := d.config.Instance
	if i.State == "READY" {
		return ok("%s is READY at %s", i.ID, d.target())
	}
	return d.warned(diagnosis.InstanceNotReady, diagnosis.Details{State: i.State, Problem: i.Problem}, "%s is %s", i.ID, diagnosis.Printable(i.State))
}
