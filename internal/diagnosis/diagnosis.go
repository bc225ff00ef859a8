// Package diagnosis says what a failed connection to a Redis means, and what to do about it. Doctor and the sidecar both ask it, so
// they name the same failure in the same words.
//
// A diagnosis has two halves. Functions such as Connect, Handshake.Explain, Chain.Explain and Reply look at an error, and at what was
// seen of the server, and return a Kind with the Details that belong to it. The texts of each Kind are a row of one table (texts.go and
// its neighbours), from which Subject.Fault makes the sentences that a user reads.
//
// Guaranteed: nothing is sent or read here. Every Kind has a row for each Audience that can meet it, and every row works with every
// set of facts (texts_test.go). What came from a server is shown only as printable text of bounded length.
//
// Not guaranteed: that a text is free of secrets. Who puts the words of a server into Details takes the password out of them first.
package diagnosis

import (
	"crypto/x509"
	"net/netip"
	"strings"
	"text/template"
	"time"
)

// Fault is something that is wrong: a code from a closed set, one sentence, and what to do about it.
type Fault struct {
	Code     string `json:"code"`
	Sentence string `json:"sentence"`
	Fix      string `json:"fix"`
}

// Error implements error.
func (f *Fault) Error() string { return f.Sentence }

// Audience is who a text is for.
type Audience int

const (
	// Doctor's readers examine one connection from the client's machine.
	Doctor Audience = iota
	// Sidecar's readers operate a sidecar, which tries again by itself.
	Sidecar
)

// Subject is the connection that a diagnosis is about, and what its texts call things.
type Subject struct {
	Audience Audience
	// At is HOST:PORT, or ADDRESS:PORT where a single address was tried. Host is what the client looks for in the certificate.
	At, Host, Port string
	// TrustName is what sentences call the trusted CAs. CAFile is the file that has them, "" if there is none.
	TrustName, CAFile string
	// Instance is the ID of the instance that is meant, "" if none is known.
	Instance string
	// InstanceArgs are how a command names that instance, or else the one that the server's certificate names. AnyInstance if neither
	// is known.
	InstanceArgs string
	// Identity is the URI that the certificate must have, "" if it need not have one.
	Identity string
	// OurServer says that the server is one of Sealane's.
	OurServer bool
	// DoctorCommand is the command line that examines this connection, "" if there is none.
	DoctorCommand string
	// ClientCert is what a server is shown that asks for a client certificate, nil if there is none.
	ClientCert *x509.Certificate
	// AuthFrom says where the password comes from.
	AuthFrom string
	Timeout  time.Duration // of one step
	Now      time.Time
}

// AnyInstance stands for the arguments of an instance that is not known.
const AnyInstance = "NAME"

// Details are the facts of one fault. Each Kind says which it has; the others are zero. Strings are as they came from the system or
// the server.
type Details struct {
	Address  string            // the IP address that was tried
	Refused  []string          // addresses that accept no connections, each with the reason
	Why      string            // what the system, or the library, says
	Said     string            // what the server says
	Alert    string            // the TLS alert that the server sent
	Command  string            // the Redis command that is not answered
	Version  string            // of TLS
	Suite    string            // a cipher suite
	Cert     *x509.Certificate // that the fault is about
	Trusted  *x509.Certificate // the CA of the same name that the client trusts
	Identity string            // the instance that the server's certificate names
	Names    []string          // that the certificate is for
	Clock    string            // how this machine's clock differs, in words
	State    string            // of the instance, as the API says it
	When     string            // the chain will be served, in words
	Problem  string            // what keeps the instance from being READY
	Retry    string            // the command line that examines another name
}

// facts are what a template can name.
type facts struct {
	Subject
	Details
}

// ForSidecar is asked by the few sentences that differ by more than the fix.
func (f facts) ForSidecar() bool { return f.Audience == Sidecar }

// Fault words what is wrong for the audience of s.
func (s Subject) Fault(k Kind, d Details) *Fault {
	r := texts[k]
	f := facts{s, d}
	if s.Audience == Sidecar {
		return &Fault{r.sidecar.code, render(first(r.sidecar.sentence, r.sentence), f), render(first(r.sidecar.fix, r.fix), f)}
	}
	return &Fault{k.code(), render(r.sentence, f), render(r.fix, f)}
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// parsed has the template of each text of the table.
var parsed = parseTexts()

func parseTexts() map[string]*template.Template {
	all := make(map[string]*template.Template)
	for _, r := range texts {
		for _, text := range []string{r.sentence, r.fix, r.sidecar.sentence, r.sidecar.fix} {
			all[text] = template.Must(template.New("").Funcs(functions).Parse(text))
		}
	}
	return all
}

// render makes a text of its template. An error can only be a fact that a row asks for and that is nil; the test of the table finds
// those rows.
func render(text string, f facts) string {
	var b strings.Builder
	if err := parsed[text].Execute(&b, f); err != nil {
		return "(" + err.Error() + ")"
	}
	return b.String()
}

// functions are what templates may call. What came from elsewhere goes through one of them.
var functions = template.FuncMap{
	"quote":    Quote,
	"plain":    Printable,
	"shell":    ShellWord,
	"date":     Date,
	"span":     Span,
	"few":      Few,
	"ca":       CAName,
	"issuer":   IssuerName,
	"cn":       func(c *x509.Certificate) string { return Quote(subjectName(c.Subject.CommonName, c.Subject.String())) },
	"signer":   func(c *x509.Certificate) string { return Quote(subjectName(c.Issuer.CommonName, c.Issuer.String())) },
	"key":      shortKey,
	"args":     ArgumentsFor,
	"san":      subjectAltName,
	"validity": validity,
	"loopback": func(address string) bool { a, err := netip.ParseAddr(address); return err == nil && a.IsLoopback() },
	"renamed": func(file, suffix string) string {
		return ShellWord(withSuffix(file, suffix))
	},
}
