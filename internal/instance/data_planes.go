package instance

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/gateway"
)

// DefaultDataPath is the data path of an instance for which none was chosen.
const DefaultDataPath = gateway.Transparent

const (
	// statusTimeout is how long a gateway is given to say how it is.
	statusTimeout = 5 * time.Second
)

// dataPath is the path that was chosen, or the default.
func (s Spec) dataPath() gateway.DataPath {
	if s.DataPath == "" {
		return DefaultDataPath
	}
	return s.DataPath
}

// snapshotPath is the path as a snapshot has it. The transparent path is left out, so that for a gateway from before there was a
// choice the snapshot stays the same.
func (s Spec) snapshotPath() gateway.DataPath {
	if p := s.dataPath(); p != gateway.Transparent {
		return p
	}
	return ""
}

// DataPlane is how an instance's clients are served. All of it is observed, except for the path and the policy.
type DataPlane struct {
	Path        gateway.DataPath // the one in the record; Problem says so while another one serves
	TLS         gateway.TLSPolicy
	Clients     int64             // served now
	Limit       int64             // how many clients can be served; 0: not known
	LimitedBy   string            // why that is less than the instance's size allows
	ReadClients int64             // of the read endpoint, served now by all gateways that answer
	ReadLimit   int64             // how many clients these can serve together; 0: not known, or there is no read endpoint
	Connections int64             // open now, including those in the TLS handshake
	Accepted    uint64            // since the gateway started
	Rejected    uint64            // connections closed since the gateway started for want of room
	Failures    map[string]uint64 // handshakes that failed since the gateway started, by class; nil: not known
	Problem     string            // why clients are not served as they should be, in words for the user
	OldAuth     time.Time         // until when an AUTH string is accepted that was replaced; zero: none is
}

// DataPlanes are how the clients of all instances are served.
type DataPlanes struct {
	records *records
	reader  *reader
	workers *workers
	runtime Runtime
	log     *slog.Logger
}

// Get shows how an instance's clients are served.
func (d *DataPlanes) Get(ctx context.Context, name Name) (DataPlane, error) {
	i, err := d.reader.get(name)
	if err != nil {
		return DataPlane{}, err
	}
	p := DataPlane{Path: i.Spec.dataPath(), TLS: i.Spec.TLS, Problem: i.StatusMessage}
	for _, o := range i.OldAuth {
		if o.Until.After(p.OldAuth) {
			p.OldAuth = o.Until
		}
	}
	statuser, ok := d.runtime.(GatewayStatuser)
	if !ok || i.State == Creating {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	s, err := statuser.GatewayStatus(ctx, i.nodeID(0))
	switch {
	case err != nil && p.Problem == "":
		d.log.Warn("gateway does not answer", "instance", name, "err", err)
		p.Problem = "the gateway does not answer"
	case p.Problem == "":
		p.Problem = cmp.Or(s.Problem, s.Warning)
	}
	p.Clients, p.Limit, p.LimitedBy = s.Clients, s.Limit, s.LimitedBy
	p.Connections, p.Accepted, p.Rejected, p.Failures = s.Connections, s.Accepted, s.Rejected, s.Failures
	for _, id := range i.clientGateways()[1:] {
		if s, err := statuser.GatewayStatus(ctx, id); err == nil {
			p.ReadClients, p.ReadLimit = p.ReadClients+s.Clients, p.ReadLimit+s.Limit
		}
	}
	return p, nil
}

// DataPlaneSettings are what can be chosen of a data plane.
type DataPlaneSettings struct {
	Path gateway.DataPath // "": the default
	TLS  gateway.TLSPolicy
}

// Change changes how clients are served. No connection is dropped, and a TLS policy counts from the next handshake on. Change
// returns nil once the gateway has applied it. When that takes too long it returns Unavailable; the change is recorded then, and
// applied as soon as it can be. There is no Operation for it, because clients of the Memorystore API list operations and would not
// know what this one is about.
func (d *DataPlanes) Change(ctx context.Context, name Name, change func(*DataPlaneSettings)) error {
	var changed *Instance
	err := d.records.mutate(name, func(i *Instance) error {
		if err := i.requireNoOperation(); err != nil {
			return err
		}
		// An instance that is REPAIRING may be changed all the same: another path may be what helps it.
		set := DataPlaneSettings{i.Spec.DataPath, i.Spec.TLS}
		change(&set)
		if err := i.checkPolicy(set.TLS); err != nil {
			return err
		}
		i.Spec.DataPath, i.Spec.TLS, changed = set.Path, set.TLS, i
		return nil
	})
	if err != nil {
		return err
	}
	if err := d.workers.waitApplied(ctx, changed); err != nil {
		return err
	}
	d.log.Info("data plane changed", "instance", name, "path", changed.Spec.dataPath(), "tls", changed.Spec.TLS)
	return nil
}

// checkPolicy says what is wrong with a policy for this instance.
func (i *Instance) checkPolicy(t gateway.TLSPolicy) error {
	if t.MinTLSVersion == "" && len(t.Groups)+len(t.TLS12Ciphers) == 0 {
		return nil // the default suits every instance
	}
	if i.TLSPort() == 0 {
		return precondition("the instance '%s' has no encryption (transit_encryption_mode DISABLED), so there is no TLS to have a policy for", i.Name).
			because(EncryptionDisabled)
	}
	leaf, err := x509.ParseCertificate(i.Certificates.Leaf.Certificate)
	if err != nil {
		return fmt.Errorf("server certificate of %s: %w", i.Name, err)
	}
	var vs []Violation
	for _, problem := range t.Check(leaf) {
		field, what, _ := strings.Cut(problem.Error(), " ")
		vs = append(vs, Violation{"data_plane." + strings.TrimSuffix(field, ":"), what})
	}
	if len(vs) > 0 {
		return NewViolations(InvalidArgument, vs)
	}
	return nil
}
