package diagnosis

import (
	"maps"
	"slices"
)

// KindsForTest are the kinds that have a row.
func KindsForTest() []Kind { return slices.Collect(maps.Keys(texts)) }

// SaidByForTest says whether doctor and the sidecar have a text for a Kind.
func SaidByForTest(k Kind) (inDoctor, inSidecar bool) {
	return texts[k].fix != "", texts[k].sidecar.code != ""
}
