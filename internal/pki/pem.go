package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// EncodePEM returns a certificate as PEM.
func EncodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// PEMProblem is what is wrong with a file that was to hold certificates as PEM.
type PEMProblem string

const (
	PEMEmpty          PEMProblem = "it is empty"
	PEMUTF16          PEMProblem = "it is in UTF-16, not in UTF-8"
	PEMNone           PEMProblem = "it holds no certificate in PEM"
	PEMIsDER          PEMProblem = "it is in DER, not in PEM"
	PEMNotCertificate PEMProblem = "it holds something else where certificates belong"
	PEMDamaged        PEMProblem = "a certificate in it is damaged"
	PEMCutOff         PEMProblem = "a certificate in it is damaged or cut off"
)

// PEMError says why DecodePEM refused a file. It quotes nothing of the file but the type of a block.
type PEMError struct {
	Problem PEMProblem
	Block   int    // of PEMNotCertificate and PEMDamaged: which block of the file it is, 0 for the first
	Type    string // of PEMNotCertificate: what the block says it is
}

func (e *PEMError) Error() string {
	switch e.Problem {
	case PEMNotCertificate:
		return fmt.Sprintf("PEM block %d of type %.40q is no certificate", e.Block, e.Type)
	case PEMDamaged:
		return fmt.Sprintf("PEM block %d is no certificate, or a damaged one", e.Block)
	}
	return string(e.Problem)
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// DecodePEM reads certificates, such as a bundle of CAs or a chain. All of the file must be right: half of one, as it is while
// somebody writes it, is an error, which is a *PEMError. Text around the blocks is allowed, because many tools write some there; rest
// is what comes after the last block, for callers that allow none.
func DecodePEM(raw []byte) (certs []*x509.Certificate, rest []byte, err error) {
	if isUTF16(raw) {
		return nil, nil, &PEMError{Problem: PEMUTF16}
	}
	raw = bytes.ReplaceAll(raw, byteOrderMark, nil) // files that were joined have it in the middle
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, nil, &PEMError{Problem: PEMEmpty}
	}
	rest = raw
	for blocks := 0; ; blocks++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, nil, &PEMError{PEMNotCertificate, blocks, block.Type}
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, &PEMError{Problem: PEMDamaged, Block: blocks}
		}
		certs = append(certs, c)
	}
	if bytes.Count(raw, []byte("-----BEGIN")) > len(certs) { // pem.Decode passes over blocks that are damaged
		return nil, nil, &PEMError{Problem: PEMCutOff}
	}
	if len(certs) > 0 {
		return certs, rest, nil
	}
	if _, err := x509.ParseCertificate(raw); err == nil {
		return nil, nil, &PEMError{Problem: PEMIsDER}
	}
	return nil, nil, &PEMError{Problem: PEMNone}
}

// isUTF16 knows text in UTF-16 by its byte order mark, as Windows PowerShell's > writes it.
func isUTF16(raw []byte) bool {
	return bytes.HasPrefix(raw, []byte("\xff\xfe")) || bytes.HasPrefix(raw, []byte("\xfe\xff"))
}
