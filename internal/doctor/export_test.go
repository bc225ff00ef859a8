package doctor

import (
	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/resp"
)

// ReadCAsForTest reads a bundle.
func ReadCAsForTest(raw []byte) (int, diagnosis.Kind) {
	cas, _, kind, _ := parseCAs(raw)
	return len(cas), kind
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
func ProofForTest(byCA, byName error) (Result, *diagnosis.Fault) {
	f := newDiagnoser(Config{}).proof(byCA, byName)
	return f.result, f.fault
}
