package diagnosis

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// maxShown is how much is shown of what a server says.
const maxShown = 160

// Printable makes one line of bounded length out of what came from elsewhere: a terminal obeys control characters.
func Printable(s string) string {
	var b strings.Builder
	for _, r := range strings.TrimSpace(s) {
		if b.Len() >= maxShown {
			b.WriteString("…")
			break
		}
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			r = '.'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Quote is s in double quotes, printable, with no other double quote in it.
func Quote(s string) string { return `"` + strings.ReplaceAll(Printable(s), `"`, "'") + `"` }

// Date is a time as people and tools read it.
func Date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Span is a duration, whatever its sign, in the unit that fits it.
func Span(d time.Duration) string {
	d = d.Abs()
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d/time.Hour))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", int(d/time.Minute))
	}
	return fmt.Sprintf("%d seconds", int(d/time.Second))
}

// Few joins the first of a list.
func Few(items []string) string {
	const most = 6
	if n := len(items) - most; n > 0 {
		return strings.Join(items[:most], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(items, ", ")
}

// CAName names a CA, with the beginning of its key id: a CA that was made anew often has the name of the one before.
func CAName(c *x509.Certificate) string {
	return withKey(subjectName(c.Subject.CommonName, c.Subject.String()), c.SubjectKeyId)
}

// IssuerName names the CA that signed c, as c names it.
func IssuerName(c *x509.Certificate) string {
	return withKey(subjectName(c.Issuer.CommonName, c.Issuer.String()), c.AuthorityKeyId)
}

func withKey(name string, id []byte) string {
	if len(id) < 4 {
		return Quote(name)
	}
	return fmt.Sprintf("%s (key %s)", Quote(name), shortKey(id))
}

func shortKey(id []byte) string { return hex.EncodeToString(id[:min(len(id), 4)]) }

func subjectName(commonName, all string) string {
	if commonName != "" {
		return commonName
	}
	return all
}
