package statedir

import (
	"errors"
	"fmt"

	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/hint"
)

// AuditError adds to an error of the audit log what to do next; nil stays nil.
func (d Dir) AuditError(err error) error {
	var damage *audit.Damage
	switch {
	case err == nil:
		return nil
	case errors.Is(err, audit.ErrNone):
		return hint.Wrap(fmt.Errorf("%w in %s", err, d), "it begins with the first `sealane serve`; name the server's folder with --state")
	case errors.As(err, &damage):
		return hint.Wrap(err, "%s", d.AuditDamageHint(damage.Log == audit.CallsTitle))
	default:
		return hint.Wrap(err, "make %s and %s readable and writable for whoever runs `sealane serve`, with space on their disk; likewise %s and %s",
			d.AuditLog(), d.AuditHead(), d.CallsLog(), d.CallsHead())
	}
}

// AuditDamageHint is what to do about an audit log, or a log of calls, that is not as it was written.
func (d Dir) AuditDamageHint(calls bool) string {
	files := fmt.Sprintf("%s and %s", d.AuditLog(), d.AuditHead())
	if calls {
		files = fmt.Sprintf("%s, its predecessor .1 and %s", d.CallsLog(), d.CallsHead())
	}
	return fmt.Sprintf("somebody else than Sealane changed it, or the disk did: compare it with a backup, and find out who could write %s; "+
		"`sealane serve` starts with a new log once %s are moved elsewhere, to be kept as evidence", d, files)
}
