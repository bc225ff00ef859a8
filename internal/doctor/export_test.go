package doctor

import (
	"crypto/x509"

	"github.com/sealane/sealane/internal/resp"
)

func ListenForTest(b []byte) string              { return string(listen(b)) }
func PrintableForTest(s string) string           { return printable(s) }
func IdentityForTest(c *x509.Certificate) string { return identityOf(c) }

// ReadCAsForTest reads a bundle.
func ReadCAsForTest(raw []byte) (int, *Fault) {
	x := &exam{Config: Config{CAFile: "ca.pem"}}
	cas, fault := x.readCAs(raw)
	return len(cas), fault
}

// RepliesForTest reads two replies and the time in the second.
func RepliesForTest(raw []byte) (n int, complete, isTime bool, err error) {
	var values []resp.Value
	values, complete, err = replies(raw, 2)
	if complete {
		_, isTime = engineTime(values[1])
	}
	return len(values), complete, isTime, err
}

// ProofForTest judges what came of the attempts with a wrong CA and a wrong name.
func ProofForTest(byCA, byName error) (Result, *Fault) {
	f := (&exam{}).proof(byCA, byName)
	return f.result, f.fault
}
