package api

import (
	"fmt"
	"strings"

	"github.com/sealane/sealane/internal/instance"
)

// parsePart reads the name of a part of an instance, such as its engine: the instance's with a suffix.
func parsePart(field, s, suffix, what string) (instance.Name, error) {
	parent, ok := strings.CutSuffix(s, suffix)
	if !ok || strings.Count(parent, "/") != 5 {
		var p problems
		p.invalid(field, fmt.Sprintf("%q is not the name of %s: want projects/PROJECT/locations/LOCATION/instances/ID%s", s, what, suffix))
		return instance.Name{}, p.err()
	}
	return instance.ParseName(field, parent)
}
