package api

import (
	"fmt"
	"strings"

	"github.com/sealane/sealane/internal/instance"
)

// part is something that every instance has, and whose name is the instance's with a suffix.
type part struct{ suffix, what string }

var (
	backendPart           = part{"/backend", "a backend"}
	certificatesPart      = part{"/certificates", "certificates"}
	dataPlanePart         = part{"/dataPlane", "a data plane"}
	enginePart            = part{"/engine", "an engine"}
	persistencePart       = part{"/persistence", "a persistence"}
	replicationPart       = part{"/replication", "a replication"}
	transitEncryptionPart = part{"/transitEncryption", "a transit encryption"}
)

func (p part) of(n instance.Name) string { return n.String() + p.suffix }

// parse reads the name of such a part, which a field of a request has.
func (p part) parse(field, s string) (instance.Name, error) {
	parent, ok := strings.CutSuffix(s, p.suffix)
	if !ok || strings.Count(parent, "/") != 5 {
		var wrong problems
		wrong.invalid(field, fmt.Sprintf("%q is not the name of %s: want projects/PROJECT/locations/LOCATION/instances/ID%s", s, p.what, p.suffix))
		return instance.Name{}, wrong.err()
	}
	return instance.ParseName(field, parent)
}
