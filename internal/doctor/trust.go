package doctor

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// maxBundle is more than any bundle of CAs has; those of whole systems have a quarter of a MiB.
const maxBundle = 8 << 20

// trustStep reads what the client trusts.
func (x *exam) trustStep(context.Context) finding {
	if x.CAFile == "" && x.Instance == nil {
		return ok("the CAs that this machine trusts: no --ca was given")
	}
	raw, err := x.readBundle()
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return failed(x.caFileMissing(), "no such file")
		}
		return failed(x.caFileUnreadable(err), "%v", underlying(err))
	}
	var fault *Fault
	if x.trusted, fault = x.readCAs(raw); fault != nil {
		return failed(*fault, "%d bytes", len(raw))
	}
	now := x.Now()
	x.roots = x509.NewCertPool()
	var names []string
	last := x.trusted[0]
	for _, ca := range x.trusted {
		x.roots.AddCert(ca)
		names = append(names, caName(ca)+" until "+ca.NotAfter.UTC().Format(time.DateOnly))
		if ca.NotAfter.After(last.NotAfter) {
			last = ca
		}
	}
	detail := fmt.Sprintf("%s holds %s", x.trustName(), few(names))
	if now.After(last.NotAfter) {
		return failed(x.caExpired(last), "%s", detail)
	}
	if next := x.missing(now); next != nil {
		return warned(x.caNextMissing(next), "%s", detail)
	}
	if bytes.Contains(raw, byteOrderMark) {
		return warned(x.caFileMarked(), "%s", detail)
	}
	return ok("%s", detail)
}

func (x *exam) readBundle() ([]byte, error) {
	if x.CAFile == "" {
		return x.Instance.Bundle, nil
	}
	f, err := os.Open(x.CAFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err == nil && len(raw) > maxBundle {
		err = fmt.Errorf("it has more than %d MiB", maxBundle>>20)
	}
	return raw, err
}

// trustName is what sentences call what is trusted.
func (x *exam) trustName() string {
	switch {
	case x.CAFile != "":
		return printable(x.CAFile)
	case x.Instance != nil:
		return "the bundle of instance " + x.Instance.ID
	}
	return "this machine's trust store"
}

// readCAs reads a bundle of CAs. All of it must be right: other TLS libraries refuse the whole file for one bad block.
func (x *exam) readCAs(raw []byte) (cas []*x509.Certificate, fault *Fault) {
	refuse := func(f Fault) ([]*x509.Certificate, *Fault) { return nil, &f }
	if len(bytes.TrimSpace(raw)) == 0 {
		return refuse(x.caFileEmpty())
	}
	if isUTF16(raw) {
		return refuse(x.caFileUTF16())
	}
	raw = bytes.ReplaceAll(raw, byteOrderMark, nil)
	var leaf *x509.Certificate
	blocks := 0
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		if block.Type != "CERTIFICATE" {
			return refuse(x.caFileNotPEM("a " + strings.ToLower(printable(block.Type)) + " where certificates belong"))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return refuse(x.caFileDamaged())
		case mayBeCA(c):
			cas = append(cas, c)
		default:
			leaf = c
		}
	}
	_, err := x509.ParseCertificate(raw)
	switch {
	case bytes.Count(raw, []byte("-----BEGIN")) > blocks: // the decoder goes over what is damaged
		return refuse(x.caFileDamaged())
	case len(cas) > 0:
		return cas, nil
	case leaf != nil:
		return refuse(x.caFileNoCA(leaf))
	case err == nil:
		return refuse(x.caFileDER())
	}
	return refuse(x.caFileNotPEM("no certificate in PEM"))
}

// byteOrderMark is what editors for Windows put before UTF-8. OpenSSL goes over one; others, Go for instance, find no certificate
// behind it.
var byteOrderMark = []byte("\ufeff")

func isUTF16(raw []byte) bool {
	return bytes.HasPrefix(raw, []byte{0xff, 0xfe}) || bytes.HasPrefix(raw, []byte{0xfe, 0xff})
}

// mayBeCA is true of CAs, and of a server's certificate that is its own CA.
func mayBeCA(c *x509.Certificate) bool { return c.IsCA || isSelfSigned(c) }

func isSelfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// missing is a CA of the instance that the client's file lacks, nil if it lacks none.
func (x *exam) missing(now time.Time) *x509.Certificate {
	if x.CAFile == "" || x.Instance == nil {
		return nil
	}
	all, fault := x.readCAs(x.Instance.Bundle)
	if fault != nil {
		return nil
	}
	i := slices.IndexFunc(all, func(ca *x509.Certificate) bool {
		return now.Before(ca.NotAfter) && !slices.ContainsFunc(x.trusted, ca.Equal)
	})
	// One that the file has nothing in common with is no matter of a next CA: the chain will tell.
	if i < 0 || !slices.ContainsFunc(all, func(ca *x509.Certificate) bool { return slices.ContainsFunc(x.trusted, ca.Equal) }) {
		return nil
	}
	return all[i]
}

// caName tells CAs apart that are called alike.
func caName(c *x509.Certificate) string {
	if len(c.SubjectKeyId) < 4 {
		return quoted(subject(c.Subject.CommonName, c.Subject.String()))
	}
	return fmt.Sprintf("%s (key %s)", quoted(subject(c.Subject.CommonName, c.Subject.String())), hex.EncodeToString(c.SubjectKeyId[:4]))
}

// issuerName is the name of the CA that signed c, in the words of c.
func issuerName(c *x509.Certificate) string {
	name := quoted(subject(c.Issuer.CommonName, c.Issuer.String()))
	if len(c.AuthorityKeyId) < 4 {
		return name
	}
	return fmt.Sprintf("%s (key %s)", name, hex.EncodeToString(c.AuthorityKeyId[:4]))
}

func subject(commonName, all string) string {
	if commonName != "" {
		return commonName
	}
	return all
}

func quoted(s string) string { return `"` + strings.ReplaceAll(printable(s), `"`, "'") + `"` }

// underlying is the cause of an error on a file, without the name.
func underlying(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
