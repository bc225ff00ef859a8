package instance

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
)

// CertificateStatus is what an instance's certificates are now.
type CertificateStatus struct {
	pki.Overview
	Problem  string    // why the instance is not as it should be, in words for the user
	Sampling *Sampling // nil: none
}

// Certificates are the certificates of all instances, and what an operator may do to them.
type Certificates struct {
	records  *records
	reader   *reader
	workers  *workers
	secrets  secrets
	issuer   *certificateIssuer
	evidence *ClientEvidence
	now      func() time.Time
	log      *slog.Logger
}

// Get shows an instance's certificates and what comes next.
func (c *Certificates) Get(name Name) (CertificateStatus, error) {
	i, err := c.reader.get(name)
	if err != nil {
		return CertificateStatus{}, err
	}
	if err := i.requireTLS(); err != nil {
		return CertificateStatus{}, err
	}
	view := i.Certificates.At(c.now())
	o, err := view.Overview()
	return CertificateStatus{o, i.StatusMessage, i.activeSampling(view)}, err
}

// requireTLS returns an error for an instance without certificates.
func (i *Instance) requireTLS() error {
	if i.Certificates != nil {
		return nil
	}
	return precondition("the instance '%s' has no encryption (transit_encryption_mode DISABLED), so it has no certificates", i.Name).because(EncryptionDisabled)
}

// actor is who asks, for the audit log: the token's id, or "operator" for the administrator's token and where there is no call.
func actor(ctx context.Context) string {
	if id := access.Caller(ctx).ID; id != "" && id != access.AdminID {
		return "token " + id
	}
	return "operator"
}

// request is a change of certificates that an operator asks for.
type request struct {
	action audit.Action
	plan   func(pki.State, time.Time) ([]pki.Action, error)
	force  bool
	// change, if any, is made to the State before the plan is, and is recorded with what the plan does.
	change func(pki.State) pki.State
	// early says what an action that is not due yet would do to clients, by what is known of the CAs that they trust; "": they are
	// ready. nil is for an action that clients don't notice.
	early func(a pki.Action, view pki.View, known ledger.Ledger, now time.Time) string
}

// RotateCA makes the next generation of the CA now. constraints says whether that generation, and those after it, have name
// constraints; nil: as before.
//
// RotateCA and the methods below return once the node has been shown to serve the outcome. After Unavailable the change is
// recorded, and the server goes on trying to serve it. After any other error nothing was changed.
func (c *Certificates) RotateCA(ctx context.Context, name Name, constraints *bool) error {
	r := request{action: audit.Rotate, plan: pki.State.Rotate}
	if constraints != nil {
		r.change = func(s pki.State) pki.State { return s.WithNameConstraints(*constraints) }
	}
	return c.change(ctx, name, r)
}

// ActivateCA lets the published generation sign in place of the one before. Before that is due it needs force, unless all
// clients have shown that they trust the published generation.
func (c *Certificates) ActivateCA(ctx context.Context, name Name, force bool) error {
	return c.change(ctx, name, request{action: audit.Activate, plan: pki.State.Activate, force: force, early: earlyActivation})
}

// RetireCA takes the oldest published generation out of the bundle. Before that is due it needs force, unless all clients
// have shown that they trust the next generation.
func (c *Certificates) RetireCA(ctx context.Context, name Name, force bool) error {
	return c.change(ctx, name, request{action: audit.Retire, plan: pki.State.Retire, force: force, early: earlyRetirement})
}

// CompromiseCA gives a generation up for good, or with 0 all of them: nothing that it signed is served any more. It returns
// the clients that have not shown that they trust any other generation.
func (c *Certificates) CompromiseCA(ctx context.Context, name Name, generation int) ([]ledger.Client, error) {
	if generation < 0 {
		return nil, invalid("generation", "%d: want that of a CA, or 0 for all", generation)
	}
	affected, err := c.evidence.dependents(ctx, name, generation)
	if err != nil {
		return nil, err
	}
	return affected, c.change(ctx, name, request{action: audit.Compromise, plan: func(s pki.State, now time.Time) ([]pki.Action, error) {
		return s.Compromise(now, generation)
	}})
}

// RenewLeaf replaces the server certificate now.
func (c *Certificates) RenewLeaf(ctx context.Context, name Name) error {
	return c.change(ctx, name, request{action: audit.Rotate, plan: pki.State.Renew})
}

func earlyActivation(a pki.Action, view pki.View, known ledger.Ledger, now time.Time) string {
	const text = "CA-%[2]d is to sign from %[3]s on, and %[4]s: clients that hold only CA-%[1]d go on by the cross-certificate, but those " +
		"that take no certificate between the server's and CA-%[1]d fail at their next handshake"
	why := whyNotReady(view, a.Generation, known, now)
	if why == "" {
		return ""
	}
	return fmt.Sprintf(text, view.Published()[0].Generation, a.Generation, a.Due.Format(time.DateOnly), why)
}

func earlyRetirement(a pki.Action, view pki.View, known ledger.Ledger, now time.Time) string {
	const text = "CA-%[1]d is to leave the bundle on %[2]s, and %[3]s: clients that hold only CA-%[1]d fail at their next handshake"
	why := whyNotReady(view, view.Published()[1].Generation, known, now)
	if why == "" {
		return ""
	}
	return fmt.Sprintf(text, a.Generation, a.Due.Format(time.DateOnly), why)
}

// change carries out what an operator asks for: all of it, or nothing.
func (c *Certificates) change(ctx context.Context, name Name, r request) error {
	var changed *Instance
	var actions []pki.Action
	var known ledger.Ledger
	if r.early != nil {
		var err error
		if _, known, err = c.evidence.known(ctx, name, c.now()); err != nil {
			return err
		}
	}
	entered := false // whether the audit log has it, which must not have it twice when the record has to be changed again
	err := c.records.mutate(name, func(i *Instance) error {
		if err := i.requireNoOperation(); err != nil {
			return err
		}
		if err := i.requireTLS(); err != nil {
			return err
		}
		now, wanted := c.now(), *i.Certificates
		if r.change != nil {
			wanted = r.change(wanted)
		}
		var err error
		if actions, err = r.plan(wanted, now); err != nil {
			return precondition("%v", err)
		}
		refusal, err := r.check(actions, wanted.At(now), known, now)
		if err != nil {
			return err
		}
		next, signed, err := wanted.DoAll(actions, c.secrets.key, now)
		if err != nil {
			return precondition("%v; nothing was changed, and what is served stays", err)
		}
		if !entered {
			if err := c.logOperator(ctx, i.Name, r.action, actions, next, refusal, now); err != nil {
				return err
			}
			entered = true
		}
		if err := c.issuer.logSigned(i.Name, signed, now); err != nil {
			return err
		}
		i.Certificates, changed = &next, i
		return nil
	})
	if err != nil {
		return err
	}
	c.issuer.logActions(name, actions)
	return c.workers.waitApplied(ctx, changed)
}

// check refuses a change that is not due yet while clients are not ready for it. With force it returns the refusal that was
// overridden, for the audit log.
func (r request) check(actions []pki.Action, view pki.View, known ledger.Ledger, now time.Time) (overridden string, err error) {
	if r.early == nil || !actions[0].Due.After(now) {
		return "", nil
	}
	refusal := r.early(actions[0], view, known, now)
	if refusal == "" {
		return "", nil
	}
	if !r.force {
		return "", precondition("%s. Have each client install the bundle and connect once with %s, or force it", refusal, testNames(view)).
			because(ClientsNotReady, "dueTime", actions[0].Due.Format(time.RFC3339))
	}
	return refusal, nil
}

// testNames tells users which server names a client has to connect with.
func testNames(view pki.View) string {
	const one = "the server name (SNI) %s, as in `redis-cli … --sni %s`"
	if view.NextCrossLabel() == "" {
		return fmt.Sprintf(one, pki.NextName, pki.NextName)
	}
	return fmt.Sprintf(one, pki.NextName, pki.NextName) + ", and once with " + pki.NextCrossName
}

// logOperator enters what an operator asked for into the audit log, with the CA that it is about.
func (c *Certificates) logOperator(ctx context.Context, name Name, what audit.Action, actions []pki.Action, next pki.State, overridden string, now time.Time) error {
	var entries []audit.Entry
	if overridden != "" {
		entries = append(entries, audit.Entry{Action: audit.Force, Reason: overridden})
	}
	for n, a := range actions {
		if n > 0 && a.Kind != pki.CompromiseCA { // it only follows from the first; but several generations may be given up at a time
			break
		}
		e := audit.Entry{Action: what, Reason: operatorReasons[a.Kind]}
		for _, ca := range next.CAs {
			if ca.Generation != a.Generation || a.Kind == pki.IssueLeaf {
				continue
			}
			var err error
			if e.Certificate, err = audit.Describe(ca.Certificate, audit.CA, ca.Generation, ca.Generation); err != nil {
				return err
			}
		}
		entries = append(entries, e)
	}
	for _, e := range entries {
		e.Time, e.Instance, e.Actor = now, name.String(), actor(ctx)
		if err := c.issuer.enter(e); err != nil {
			return err
		}
	}
	return nil
}

var operatorReasons = map[pki.Kind]string{
	pki.CreateCA:     "the next generation is to be published now",
	pki.ActivateCA:   "this generation is to sign from now on",
	pki.RetireCA:     "this generation is to leave the bundle now",
	pki.CompromiseCA: "this generation is given up, and its key destroyed",
	pki.IssueLeaf:    "the server certificate is to be replaced now",
}
