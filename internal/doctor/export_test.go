package doctor

import (
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/resp"
)

// ReadCAsForTest reads a bundle.
func ReadCAsForTest(raw []byte) (int, diagnosis.Kind) {
	cas, _, kind, _ := parseCAs(raw)
	return len(cas), kind
}

// EngineTimeForTest reads a reply to TIME.
func EngineTimeForTest(v resp.Value) (time.Time, bool) { return engineTime(v) }

// ProofForTest judges what came of the attempts with a wrong CA and a wrong name.
func ProofForTest(byCA, byName error) (Result, *diagnosis.Fault) {
	f := newDiagnoser(Config{}).proof(byCA, byName)
	return f.result, f.fault
}
