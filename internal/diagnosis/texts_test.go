package diagnosis_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/sealane/sealane/internal/diagnosis"
)

var now = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// kinds are the constants of kinds.go.
func kinds(t *testing.T) []diagnosis.Kind {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "kinds.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []diagnosis.Kind
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, diagnosis.Kind(value))
		}
		return true
	})
	return all
}

// facts are facts of every sort, with s in all that may come from elsewhere.
func facts(s string, expires time.Time) (diagnosis.Subject, diagnosis.Details) {
	cert := &x509.Certificate{
		Subject: pkix.Name{CommonName: s}, Issuer: pkix.Name{CommonName: s}, SubjectKeyId: []byte("subject"), AuthorityKeyId: []byte("issuer"),
		NotBefore: expires.Add(-time.Hour), NotAfter: expires,
	}
	subject := diagnosis.Subject{
		At: "10.0.0.5:6378", Host: "cache.internal", Port: "6378", TrustName: "ca.pem", CAFile: "ca.pem", Instance: "first", InstanceArgs: "first",
		Identity: s, DoctorCommand: "sealane doctor first", ClientCert: cert, AuthFrom: "from the API", Timeout: time.Second, Now: now,
	}
	return subject, diagnosis.Details{
		Address: "10.0.0.5", Refused: []string{"10.0.0.6"}, Why: s, Said: s, Alert: s, Command: "PING", Version: "TLS 1.1", Suite: "TLS_RSA",
		Cert: cert, Trusted: cert, Names: []string{diagnosis.Printable(s)}, Clock: "behind", State: "REPAIRING", Problem: s, Retry: "sealane doctor x",
	}
}

// Every Kind has a row, and every row makes texts for whom they are, whatever facts are missing and whatever a server says.
func TestEveryRowMakesATextOfAnyFacts(t *testing.T) {
	t.Parallel()
	all := kinds(t)
	if rows := diagnosis.KindsForTest(); len(all) != len(rows) || slices.ContainsFunc(all, func(k diagnosis.Kind) bool { return !slices.Contains(rows, k) }) {
		t.Fatalf("kinds.go has %q, the table %q", all, rows)
	}
	hostile := "x\x1b]0;title\x07\r\n\u202e" + strings.Repeat("y", 1000)
	for _, k := range all {
		inDoctor, inSidecar := diagnosis.SaidByForTest(k)
		if !inDoctor && !inSidecar {
			t.Errorf("%s: nobody says it", k)
		}
		for audience, says := range map[diagnosis.Audience]bool{diagnosis.Doctor: inDoctor, diagnosis.Sidecar: inSidecar} {
			if !says {
				continue
			}
			for _, expires := range []time.Time{now.Add(-time.Hour), now.Add(30 * time.Minute), now.Add(3 * time.Hour)} {
				subject, details := facts(hostile, expires)
				subject.Audience = audience
				check(t, k, subject.Fault(k, details))
				// Without what is optional.
				bare := diagnosis.Details{Cert: details.Cert, Trusted: details.Trusted}
				subject = diagnosis.Subject{Audience: audience, ClientCert: details.Cert, Now: now, InstanceArgs: diagnosis.AnyInstance}
				check(t, k, subject.Fault(k, bare))
			}
		}
	}
}

func check(t *testing.T, k diagnosis.Kind, f *diagnosis.Fault) {
	t.Helper()
	if f.Code == "" || f.Sentence == "" || f.Fix == "" {
		t.Errorf("%s: %+v: something is empty", k, f)
	}
	for _, text := range []string{f.Sentence, f.Fix} {
		if strings.Contains(text, "template:") || strings.Contains(text, "<nil>") || strings.Contains(text, "%!") {
			t.Errorf("%s: %q", k, text)
		}
		if i := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || len(text) > 1000 {
			t.Errorf("%s: %q has %d bytes, or is not printable", k, text, len(text))
		}
	}
}
