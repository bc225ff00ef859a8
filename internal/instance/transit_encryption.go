package instance

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/plaintext"
)

// plaintextEnd is how long it takes at most until the clients without TLS are closed once plaintext is. The gateway gives them 5 s.
const plaintextEnd = 7 * time.Second

// TransitEncryption takes instances from plaintext to TLS without downtime, and back:
//
//	DISABLED ──Prefer──► PREFERRED ──Enforce──► SERVER_AUTHENTICATION
//	         ◄─Disable──           ◄─Rollback──
//
// Each step is one compare-and-swap of the record; the reconciler makes the node so. The methods return nil once the gateway has been
// shown to serve the mode. After Unavailable the step is recorded, and the server goes on trying to serve it. After any other error
// nothing was changed. A step that was made already is no error, so that it can be asked for again after a crash.
type TransitEncryption struct {
	records   *records
	reader    *reader
	workers   *workers
	runtime   Runtime
	secrets   secrets
	issuer    *certificateIssuer
	evidence  *ClientEvidence
	clients   *plaintextClients
	defaults  defaults
	addresses Addresses
	choosing  *sync.Mutex // held while an address is chosen and recorded
	now       func() time.Time
	log       *slog.Logger
}

// EncryptionStatus is an instance's mode, and whether its plaintext can be closed.
type EncryptionStatus struct {
	Mode                   EncryptionMode
	Host                   string
	TLSPort, PlaintextPort int       // 0: there is none
	Enforced               time.Time // when plaintext was closed; zero: it was not
	CountedSince           time.Time // since when clients without TLS are counted; zero: they are not
	Clients                []plaintext.Client
	PlaintextConnections   int
	TLSConnections         int // clients with TLS
	UnseenFor              time.Duration
	Verdict                plaintext.Verdict
	Problem                string // why the instance is not as it should be
}

// Get shows an instance's mode, its clients without TLS, and whether it has been without any for so long; 0: for the default time.
func (t *TransitEncryption) Get(ctx context.Context, name Name, unseenFor time.Duration) (EncryptionStatus, error) {
	i, err := t.reader.get(name)
	if err != nil {
		return EncryptionStatus{}, err
	}
	return t.status(ctx, i, unseenFor)
}

func (t *TransitEncryption) status(ctx context.Context, i Instance, unseenFor time.Duration) (EncryptionStatus, error) {
	if unseenFor == 0 {
		unseenFor = plaintext.DefaultUnseenFor
	}
	if unseenFor < 0 || unseenFor > plaintext.MaxUnseenFor {
		return EncryptionStatus{}, invalid("unseen_for", "%s: want more than 0, and at most the %s for which clients are kept account of", unseenFor, plaintext.Days(plaintext.MaxUnseenFor))
	}
	s := EncryptionStatus{Mode: i.EncryptionMode(), Host: i.Host, TLSPort: i.TLSPort(), PlaintextPort: i.PlaintextPort(), UnseenFor: unseenFor, Problem: i.StatusMessage}
	if i.Encryption != nil {
		s.Enforced = i.Encryption.Enforced
	}
	_, account, _, err := t.clients.accountOf(ctx, i)
	if err != nil {
		return s, err
	}
	var tls ledger.Ledger
	if i.Certificates != nil {
		if _, tls, _, err = t.evidence.ledgerOf(ctx, i, t.now()); err != nil {
			return s, err
		}
	}
	s.CountedSince, s.Clients = account.Since, account.Clients(tls)
	if s.PlaintextPort != 0 {
		s.Verdict = account.Judge(tls, i.Created, t.now(), unseenFor)
	}
	if g, ok := t.runtime.(GatewayStatuser); ok {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		for _, id := range i.clientGateways() {
			if st, err := g.GatewayStatus(ctx, id); err == nil && st.Plaintext != nil {
				s.PlaintextConnections += int(st.Plaintext.Connections)
				s.TLSConnections += int(max(0, st.Clients-st.Plaintext.Connections))
			}
		}
	}
	return s, nil
}

// Prefer takes TLS beside plaintext, or with allowPlaintext plaintext beside TLS. Clients that are connected notice nothing. A CA and a
// server certificate are made where there are none.
func (t *TransitEncryption) Prefer(ctx context.Context, name Name, allowPlaintext bool) error {
	t.choosing.Lock()
	changed, err := t.change(name, func(i *Instance) (bool, error) { return t.prefer(i, allowPlaintext) })
	t.choosing.Unlock()
	if err != nil {
		return err
	}
	return t.workers.waitApplied(ctx, changed)
}

// prefer is called with choosing held.
func (t *TransitEncryption) prefer(i *Instance, allowPlaintext bool) (bool, error) {
	switch i.EncryptionMode() {
	case ModePreferred:
		return false, nil
	case ModeEnforced:
		if !allowPlaintext {
			return false, precondition("the instance '%s' has TLS alone: PREFERRED opens a port for clients whose passwords and data can be read on the way; "+
				"set allow_plaintext to do that", i.Name).because(PlaintextNotAllowed)
		}
	}
	e, err := t.bothPorts(*i)
	if err != nil {
		return false, err
	}
	if i.Certificates == nil {
		if err := t.firstCertificates(i); err != nil {
			return false, err
		}
	}
	e.Preferred, e.Enforced, e.WasEncrypted = true, time.Time{}, false
	i.Encryption = &e
	return true, nil
}

// bothPorts are the instance's two ports. The one that it has no use for so far is chosen where it never had one.
func (t *TransitEncryption) bothPorts(i Instance) (Encryption, error) {
	if i.Encryption != nil {
		return *i.Encryption, nil
	}
	taken, err := t.records.takenAddresses()
	if err != nil {
		return Encryption{}, err
	}
	host, err := netip.ParseAddr(i.Host)
	if err != nil {
		return Encryption{}, fmt.Errorf("address of %s: %w", i.Name, err)
	}
	second, err := t.addresses.secondPort(taken, host, !i.Spec.TransitEncryption)
	if i.Spec.TransitEncryption {
		return Encryption{TLSPort: i.Port, PlaintextPort: second}, err
	}
	return Encryption{TLSPort: second, PlaintextPort: i.Port}, err
}

// firstCertificates makes an instance's first CA and server certificate, so that the record has them when it says that there is TLS.
func (t *TransitEncryption) firstCertificates(i *Instance) error {
	host, err := netip.ParseAddr(i.Host)
	if err != nil {
		return fmt.Errorf("address of %s: %w", i.Name, err)
	}
	names, err := t.addresses.certificateNames(i.Name, host)
	if err != nil {
		return err
	}
	now, wanted := t.now(), t.defaults.certificates(i.Spec, names)
	if i.Replication != nil && i.Replication.Certificates != nil {
		// The nodes know each other by a CA already. It stays, so that they go on without a break.
		kept := i.Replication.Certificates.WithoutServerCertificate(false)
		kept.Names = names
		wanted = &kept
	}
	next, signed, err := wanted.DoAll(pki.Plan(*wanted, now), t.secrets.key, now)
	if err != nil {
		return precondition("%v; nothing was changed", err)
	}
	if err := t.issuer.logSigned(i.Name, signed, now); err != nil {
		return err
	}
	i.Certificates = &next
	if i.Replication != nil {
		i.Replication = i.Replication.clone()
		i.Replication.Certificates = nil
	}
	return nil
}

// Enforce closes plaintext. Clients without TLS that are connected end between two of their requests, or after five seconds; those that
// come are told how to connect. While clients may still use plaintext it is refused, unless force is set. It returns the clients that
// were cut off, as far as is known.
func (t *TransitEncryption) Enforce(ctx context.Context, name Name, unseenFor time.Duration, force bool) ([]plaintext.Client, error) {
	i, err := t.reader.get(name)
	if err != nil {
		return nil, err
	}
	s, err := t.status(ctx, i, unseenFor)
	if err != nil {
		return nil, err
	}
	switch {
	case s.Mode == ModeDisabled:
		return nil, precondition("the instance '%s' has no TLS that clients could use instead (DISABLED): make it PREFERRED first", name).because(EncryptionDisabled)
	case s.Mode == ModePreferred && !s.Verdict.Safe() && !force:
		return nil, precondition("plaintext of '%s' was not closed: %s. Move them to TLS at port %d, or force it, which cuts them off", name,
			strings.Join(s.Verdict.Reasons, "; "), s.TLSPort).because(PlaintextClients)
	}
	changed, err := t.change(name, t.enforce)
	if err != nil {
		return nil, err
	}
	if force && !s.Verdict.Safe() {
		t.log.Warn("plaintext closed by force", "instance", name, "although", strings.Join(s.Verdict.Reasons, "; "))
	}
	if err := t.workers.waitApplied(ctx, changed); err != nil {
		return s.Verdict.Cut, err
	}
	return s.Verdict.Cut, t.waitPlaintextEnds(ctx, *changed)
}

func (t *TransitEncryption) enforce(i *Instance) (bool, error) {
	switch i.EncryptionMode() {
	case ModeEnforced:
		return false, nil
	case ModeDisabled: // it was PREFERRED a moment ago
		return false, precondition("the instance '%s' was taken back to DISABLED meanwhile", i.Name).because(EncryptionDisabled)
	}
	e := *i.Encryption
	e.Preferred, e.Enforced, e.WasEncrypted = false, t.now().UTC(), i.Spec.TransitEncryption
	i.Encryption, i.Spec.TransitEncryption = &e, true
	i.showPort()
	return true, nil
}

// waitPlaintextEnds returns once no client without TLS is left.
func (t *TransitEncryption) waitPlaintextEnds(ctx context.Context, i Instance) error {
	g, ok := t.runtime.(GatewayStatuser)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, plaintextEnd)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for gateways := i.clientGateways(); ; {
		s, err := g.GatewayStatus(ctx, gateways[0])
		if err == nil && s.Plaintext != nil && s.Plaintext.Connections == 0 {
			if gateways = gateways[1:]; len(gateways) == 0 {
				return nil
			}
			continue
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		why := fmt.Sprintf("the gateway does not answer: %v", err)
		switch {
		case err == nil && s.Plaintext == nil:
			why = "the gateway is of an older version and closes no connection: those that were open without TLS stay open until their clients end them"
		case err == nil:
			why = fmt.Sprintf("%d connections without TLS are still open", s.Plaintext.Connections)
		}
		return &Error{Code: Unavailable, Reason: ChangeNotApplied, Message: fmt.Sprintf("no new client of '%s' gets in without TLS, but %s", i.Name, why)}
	}
}

// Rollback takes Enforce back: plaintext is open again, and the instance is what it was before.
func (t *TransitEncryption) Rollback(ctx context.Context, name Name) error {
	changed, err := t.change(name, (*Instance).rollBack)
	if err != nil {
		return err
	}
	return t.workers.waitApplied(ctx, changed)
}

func (i *Instance) rollBack() (bool, error) {
	switch mode := i.EncryptionMode(); {
	case mode == ModePreferred:
		return false, nil
	case mode == ModeDisabled:
		return false, precondition("plaintext of '%s' is open: the instance is DISABLED", i.Name).because(EncryptionDisabled)
	case i.Encryption == nil:
		return false, precondition("the instance '%s' has had TLS alone since it was created, so no closing of plaintext can be taken back; PREFERRED with allow_plaintext opens plaintext", i.Name).
			because(PlaintextNotAllowed)
	}
	e := *i.Encryption
	i.Spec.TransitEncryption = e.WasEncrypted
	e.Preferred, e.Enforced, e.WasEncrypted = true, time.Time{}, false
	i.Encryption = &e
	i.showPort()
	return true, nil
}

// Disable takes Prefer back: TLS is closed. It is refused while clients use TLS, unless force is set; their connections stay until they
// end them. The CA is kept, so that who has installed it need not do so again.
func (t *TransitEncryption) Disable(ctx context.Context, name Name, force bool) error {
	i, err := t.reader.get(name)
	if err != nil {
		return err
	}
	s, err := t.status(ctx, i, 0)
	if err != nil {
		return err
	}
	if s.Mode == ModePreferred && s.TLSConnections > 0 && !force {
		return precondition("TLS of '%s' was not closed: %d clients are connected with it, and could not connect to port %d again; move them to port %d without TLS, or force it",
			name, s.TLSConnections, s.TLSPort, s.PlaintextPort).because(TLSClients)
	}
	changed, err := t.change(name, (*Instance).disable)
	if err != nil {
		return err
	}
	return t.workers.waitApplied(ctx, changed)
}

func (i *Instance) disable() (bool, error) {
	switch mode := i.EncryptionMode(); {
	case mode == ModeDisabled:
		return false, nil
	case i.Spec.TransitEncryption && mode == ModePreferred || i.Encryption == nil:
		return false, precondition("the instance '%s' was created with TLS, which can't be closed", i.Name)
	case mode == ModeEnforced:
		return false, precondition("the instance '%s' has TLS alone: take the closing of plaintext back first (rollback)", i.Name).because(PlaintextNotAllowed)
	}
	e := *i.Encryption
	e.Preferred = false
	i.Encryption = &e
	i.showPort()
	return true, nil
}

// change makes a step, unless it was made already, and returns the record with it.
func (t *TransitEncryption) change(name Name, step func(*Instance) (bool, error)) (*Instance, error) {
	var changed *Instance
	var from EncryptionMode
	made := false
	err := t.records.mutate(name, func(i *Instance) (err error) {
		if err := i.requireNoOperation(); err != nil {
			return err
		}
		from, changed = i.EncryptionMode(), i
		made, err = step(i)
		return err
	})
	if err == nil && made {
		t.log.Info("transit encryption changed", "instance", name, "from", from, "to", changed.EncryptionMode())
	}
	return changed, err
}
