package instance

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/pki"
)

// certificateIssuer keeps the certificates of instances as their plan asks for, and enters all that is signed into the audit log.
type certificateIssuer struct {
	records   *records
	secrets   secrets
	addresses Addresses
	audit     AuditLog                 // nil: what is signed is not entered anywhere
	changed   func(Name, []pki.Action) // nil: nobody is told
	log       *slog.Logger
}

// reconcile carries out what the certificates' plan asks for and commits the result, before anybody is shown it. After an
// error the instance has the certificates that were committed last.
func (c *certificateIssuer) reconcile(i *Instance, now time.Time) error {
	if i.Certificates != nil {
		wanted, misnamed := c.wanted(*i)
		return c.carryOut(i, &i.Certificates, wanted, misnamed, now)
	}
	if r := i.Replication; r != nil && r.Certificates != nil {
		return c.carryOut(i, &r.Certificates, *r.Certificates, nil, now)
	}
	return nil
}

// carryOut makes the certificates that a part of the record has those that are wanted. misnamed is returned once all is done.
func (c *certificateIssuer) carryOut(i *Instance, in **pki.State, wanted pki.State, misnamed error, now time.Time) error {
	last := *in
	actions := pki.Plan(wanted, now)
	if len(actions) == 0 && wanted.Names.Equal(last.Names) {
		return misnamed
	}
	next, signed, failed := wanted.DoAll(actions, c.secrets.key, now)
	if failed != nil && len(signed) == 0 {
		return failed // there is nothing to record
	}
	if err := c.logSigned(i.Name, signed, now); err != nil {
		return err
	}
	*in = &next
	if err := c.records.save(i); err != nil {
		*in = last
		return err
	}
	if failed != nil {
		return failed
	}
	c.logActions(i.Name, actions)
	return misnamed
}

// wanted is the State of the instance's certificates with the names that the configuration gives the instance now. Where these are
// no valid names, it has those of before, and there is an error too.
func (c *certificateIssuer) wanted(i Instance) (pki.State, error) {
	s := i.Certificates.WithPeers(i.Replication != nil)
	host, err := netip.ParseAddr(i.Host)
	if err != nil {
		return s, fmt.Errorf("address of %s: %w", i.Name, err)
	}
	names, err := c.addresses.certificateNames(i.Name, host)
	if err == nil {
		s.Names = names
	}
	if read, _ := i.ReadEndpoint(); read != "" && err == nil {
		ip, parseErr := netip.ParseAddr(read)
		if err = parseErr; err == nil && !slices.Contains(s.Names.IPs, ip) {
			s.Names.IPs = append(s.Names.IPs, ip)
		}
	}
	return s, err
}

func (c *certificateIssuer) logActions(name Name, actions []pki.Action) {
	for _, a := range actions {
		c.log.Info("certificates changed", "instance", name, "action", a.Kind, "generation", a.Generation, "reason", a.Reason)
	}
	if c.changed != nil && len(actions) > 0 {
		c.changed(name, actions)
	}
}

// auditKinds are what kind of certificate each action signs.
var auditKinds = map[pki.Kind]audit.Kind{
	pki.CreateCA: audit.CA, pki.SignCross: audit.Cross, pki.IssueLeaf: audit.Leaf, pki.IssueNextLeaf: audit.LeafNext,
	pki.IssuePeer: audit.Peer,
}

// logSigned enters what was signed into the audit log. It has to come before the commit: after a crash between the two the log has
// certificates that were never served, which is better than the other way round.
func (c *certificateIssuer) logSigned(name Name, signed []pki.Signed, now time.Time) error {
	for _, s := range signed {
		kind, ok := auditKinds[s.Kind]
		if !ok {
			return fmt.Errorf("audit log: what %q signs has no kind there", s.Kind)
		}
		generation := 0
		if kind == audit.CA || kind == audit.Cross {
			generation = s.Generation
		}
		certificate, err := audit.Describe(s.Certificate, kind, generation, s.Issuer)
		if err != nil {
			return err
		}
		e := audit.Entry{Time: now, Instance: name.String(), Action: audit.Sign, Reason: s.Reason, Certificate: certificate}
		if err := c.enter(e); err != nil {
			return err
		}
	}
	return nil
}

func (c *certificateIssuer) enter(e audit.Entry) error {
	if c.audit == nil {
		return nil
	}
	if err := c.audit.Append(e); err != nil {
		return AsFatal(stateError("write", err))
	}
	return nil
}
