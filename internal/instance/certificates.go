package instance

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
)

// Certificates are an instance's, as they are now.
type Certificates struct {
	pki.Overview
	Problem  string    // why the instance is not as it should be, in words for the user
	Sampling *Sampling // nil: none
}

// Certificates shows an instance's certificates and what comes next.
func (m *Manager) Certificates(name Name) (Certificates, error) {
	i, err := m.Get(name)
	if err != nil {
		return Certificates{}, err
	}
	if err := i.encrypted(); err != nil {
		return Certificates{}, err
	}
	view := i.Certificates.At(m.Now())
	o, err := view.Overview()
	return Certificates{o, i.StatusMessage, i.activeSampling(view)}, err
}

// encrypted returns an error for an instance without certificates.
func (i *Instance) encrypted() error {
	if i.Certificates != nil {
		return nil
	}
	return precondition("the instance '%s' has no encryption (transit_encryption_mode DISABLED), so it has no certificates", i.Name).because(EncryptionDisabled)
}

// operator is who asks: everybody who shows the API's only token.
const operator = "operator"

// request is what an operator asks of certificates.
type request struct {
	action audit.Action
	plan   func(pki.State, time.Time) ([]pki.Action, error)
	force  bool
	// change, if any, is what the plan is made for; it is kept with what the plan does.
	change func(pki.State) pki.State
	// early says what an action that is not due yet would do to clients, as far as it is known what they trust; "": they
	// are ready. nil: nothing that they would notice.
	early func(a pki.Action, view pki.View, known ledger.Ledger, now time.Time) string
}

// RotateCA makes the next generation of the CA now. constraints says whether it, and those after it, have name constraints;
// nil: as before. It, and what follows, returns once the node serves and has proved what came of it. After Unavailable the
// change is recorded, and the server goes on trying to serve it; after any other error nothing was changed.
func (m *Manager) RotateCA(ctx context.Context, name Name, constraints *bool) error {
	r := request{action: audit.Rotate, plan: pki.State.Rotate}
	if constraints != nil {
		r.change = func(s pki.State) pki.State { return s.WithNameConstraints(*constraints) }
	}
	return m.operate(ctx, name, r)
}

// ActivateCA lets the generation that is published sign in place of the one before. Before it is due that takes force,
// unless all clients have shown that they trust it.
func (m *Manager) ActivateCA(ctx context.Context, name Name, force bool) error {
	return m.operate(ctx, name, request{action: audit.Activate, plan: pki.State.Activate, force: force, early: earlyActivation})
}

// RetireCA takes the oldest published generation out of the bundle. Before it is due that takes force, unless all clients
// have shown that they trust the next.
func (m *Manager) RetireCA(ctx context.Context, name Name, force bool) error {
	return m.operate(ctx, name, request{action: audit.Retire, plan: pki.State.Retire, force: force, early: earlyRetirement})
}

// CompromiseCA gives a generation up for good, with 0 all of them: nothing that it signed is served any more. It returns
// the clients that have not shown that they trust any other.
func (m *Manager) CompromiseCA(ctx context.Context, name Name, generation int) ([]ledger.Client, error) {
	if generation < 0 {
		return nil, invalid("generation", "%d: want that of a CA, or 0 for all", generation)
	}
	affected, err := m.dependents(ctx, name, generation)
	if err != nil {
		return nil, err
	}
	return affected, m.operate(ctx, name, request{action: audit.Compromise, plan: func(s pki.State, now time.Time) ([]pki.Action, error) {
		return s.Compromise(now, generation)
	}})
}

// RenewLeaf replaces the server certificate now.
func (m *Manager) RenewLeaf(ctx context.Context, name Name) error {
	return m.operate(ctx, name, request{action: audit.Rotate, plan: pki.State.Renew})
}

func earlyActivation(a pki.Action, view pki.View, known ledger.Ledger, now time.Time) string {
	const text = "CA-%[2]d is to sign from %[3]s on, and %[4]s: clients that hold only CA-%[1]d go on by the cross-certificate, but those " +
		"that take no certificate between the server's and CA-%[1]d fail at their next handshake"
	why := doubts(view, a.Generation, known, now)
	if why == "" {
		return ""
	}
	return fmt.Sprintf(text, view.Published()[0].Generation, a.Generation, a.Due.Format(time.DateOnly), why)
}

func earlyRetirement(a pki.Action, view pki.View, known ledger.Ledger, now time.Time) string {
	const text = "CA-%[1]d is to leave the bundle on %[2]s, and %[3]s: clients that hold only CA-%[1]d fail at their next handshake"
	why := doubts(view, view.Published()[1].Generation, known, now)
	if why == "" {
		return ""
	}
	return fmt.Sprintf(text, a.Generation, a.Due.Format(time.DateOnly), why)
}

// operate carries out what an operator asks for: all of it, or nothing.
func (m *Manager) operate(ctx context.Context, name Name, r request) error {
	var changed *Instance
	var actions []pki.Action
	var known ledger.Ledger
	if r.early != nil {
		var err error
		if known, err = m.gather(ctx, name); err != nil {
			return err
		}
	}
	entered := false // in the audit log, which must not say it twice when somebody else was faster
	err := m.mutate(name, func(i *Instance) error {
		if err := i.idle(); err != nil {
			return err
		}
		if err := i.encrypted(); err != nil {
			return err
		}
		now, wanted := m.Now(), *i.Certificates
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
		next, signed, err := wanted.DoAll(actions, m.Key, now)
		if err != nil {
			return precondition("%v; nothing was changed, and what is served stays", err)
		}
		if !entered {
			if err := m.logOperator(i.Name, r.action, actions, next, refusal, now); err != nil {
				return err
			}
			entered = true
		}
		if err := m.logSigned(i.Name, signed, now); err != nil {
			return err
		}
		i.Certificates, changed = &next, i
		return nil
	})
	if err != nil {
		return err
	}
	m.logActions(name, actions)
	return m.served(ctx, changed)
}

// check refuses what is not due yet and clients are not ready for, unless it is forced: then it returns what was overridden.
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

// testNames are the server names that a client has to connect with, as users are told.
func testNames(view pki.View) string {
	const one = "the server name (SNI) %s, as in `redis-cli … --sni %s`"
	if view.NextCrossLabel() == "" {
		return fmt.Sprintf(one, pki.NextName, pki.NextName)
	}
	return fmt.Sprintf(one, pki.NextName, pki.NextName) + ", and once with " + pki.NextCrossName
}

// logOperator enters what an operator asked for into the audit log, with the CA that it is about.
func (m *Manager) logOperator(name Name, what audit.Action, actions []pki.Action, next pki.State, overridden string, now time.Time) error {
	var entries []audit.Entry
	if overridden != "" {
		entries = append(entries, audit.Entry{Action: audit.Force, Reason: overridden})
	}
	for n, a := range actions {
		if n > 0 && a.Kind != pki.CompromiseCA { // what follows from it; several generations may be given up at a time
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
		e.Time, e.Instance, e.Actor = now, name.String(), operator
		if err := m.enter(e); err != nil {
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

// certify carries out what the certificates' plan asks for and commits the result, before anybody is shown it. After an
// error the instance has the certificates that were committed last.
func (m *Manager) certify(i *Instance, now time.Time) error {
	if i.Certificates == nil {
		return nil
	}
	last := i.Certificates
	wanted, misnamed := m.wanted(*i)
	actions := pki.Plan(wanted, now)
	if len(actions) == 0 && wanted.Names.Equal(last.Names) {
		return misnamed
	}
	next, signed, failed := wanted.DoAll(actions, m.Key, now)
	if failed != nil && len(signed) == 0 {
		return failed // nothing to keep
	}
	if err := m.logSigned(i.Name, signed, now); err != nil {
		return err
	}
	i.Certificates = &next
	if err := m.save(i); err != nil {
		i.Certificates = last
		return err
	}
	if failed != nil {
		return failed
	}
	m.logActions(i.Name, actions)
	return misnamed
}

// wanted are the instance's certificates with the names that the configuration gives it now; with those that they had,
// beside an error, when these are none.
func (m *Manager) wanted(i Instance) (pki.State, error) {
	s := *i.Certificates
	host, err := netip.ParseAddr(i.Host)
	if err != nil {
		return s, fmt.Errorf("address of %s: %w", i.Name, err)
	}
	names, err := m.names(i.Name, host)
	if err == nil {
		s.Names = names
	}
	return s, err
}

func (m *Manager) logActions(name Name, actions []pki.Action) {
	for _, a := range actions {
		m.Log.Info("certificates changed", "instance", name, "action", a.Kind, "generation", a.Generation, "reason", a.Reason)
	}
	if m.Changed != nil && len(actions) > 0 {
		m.Changed(name, actions)
	}
}

// auditKinds are what actions sign.
var auditKinds = map[pki.Kind]audit.Kind{
	pki.CreateCA: audit.CA, pki.SignCross: audit.Cross, pki.IssueLeaf: audit.Leaf, pki.IssueNextLeaf: audit.LeafNext,
}

// logSigned enters what was signed into the audit log. It comes before the commit: after a crash between the two
// the log has certificates that nobody was shown, never the other way round.
func (m *Manager) logSigned(name Name, signed []pki.Signed, now time.Time) error {
	for _, s := range signed {
		kind, generation := auditKinds[s.Kind], s.Generation
		if kind == audit.Leaf || kind == audit.LeafNext {
			generation = 0
		}
		certificate, err := audit.Describe(s.Certificate, kind, generation, s.Issuer)
		if err != nil {
			return err
		}
		e := audit.Entry{Time: now, Instance: name.String(), Action: audit.Sign, Reason: s.Reason, Certificate: certificate}
		if err := m.enter(e); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) enter(e audit.Entry) error {
	if m.Audit == nil {
		return nil
	}
	if err := m.Audit.Append(e); err != nil {
		return hopeless(stateError("write", err))
	}
	return nil
}
