package diagnosis

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strings"

	"github.com/sealane/sealane/internal/pki"
)

// Bundle is a file of CA certificates, read.
type Bundle struct {
	// Certs are all certificates in it, in its order.
	Certs []*x509.Certificate
	// Marked says that it has a byte order mark, which editors for Windows put before UTF-8. OpenSSL ignores one; other libraries, Go's
	// for instance, find no certificate behind it.
	Marked bool
}

// ParseBundle reads a bundle of CAs in PEM. All of it must be right: half of a bundle, as it is while somebody writes it, is none, and
// some TLS libraries refuse the whole file for one bad block. A Kind other than "" says what is wrong; Details: Said, which is the
// type of a block that is no certificate.
func ParseBundle(raw []byte) (Bundle, Kind, Details) {
	bundle := Bundle{Marked: bytes.Contains(raw, byteOrderMark)}
	certs, _, err := pki.DecodePEM(raw)
	if refused, ok := errors.AsType[*pki.PEMError](err); ok {
		return bundle, pemKinds[refused.Problem], Details{Said: strings.ToLower(refused.Type)}
	}
	bundle.Certs = certs
	return bundle, "", Details{}
}

// pemKinds are what diagnosis calls the problems of a file that is to hold certificates.
var pemKinds = map[pki.PEMProblem]Kind{
	pki.PEMEmpty: CAFileEmpty, pki.PEMUTF16: CAFileUTF16, pki.PEMNone: CAFileNotPEM, pki.PEMIsDER: CAFileDER,
	pki.PEMNotCertificate: CAFileOtherBlock, pki.PEMDamaged: CAFileDamaged, pki.PEMCutOff: CAFileDamaged,
}

var byteOrderMark = []byte("\ufeff")

// WithoutMarks is text without byte order marks, which are in the middle of files that were made of several.
func WithoutMarks(text string) string {
	return string(bytes.ReplaceAll([]byte(text), byteOrderMark, nil))
}

// IsUTF16 says that a file is in UTF-16, as Windows PowerShell's > writes it.
func IsUTF16(raw []byte) bool {
	return bytes.HasPrefix(raw, []byte{0xff, 0xfe}) || bytes.HasPrefix(raw, []byte{0xfe, 0xff})
}

// MayBeCA is true of CAs, and of a server's certificate that is its own CA.
func MayBeCA(c *x509.Certificate) bool { return c.IsCA || IsSelfSigned(c) }
