package api

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
)

// certificatesServer is sealane.v1.Certificates. Its methods only translate.
type certificatesServer struct {
	sealanepb.UnimplementedCertificatesServer
	manager *instance.Manager
	log     *slog.Logger
}

func (s *certificatesServer) GetCertificates(ctx context.Context, r *sealanepb.GetCertificatesRequest) (*sealanepb.InstanceCertificates, error) {
	return s.change(ctx, r.GetName(), func(instance.Name) error { return nil })
}

func (s *certificatesServer) RotateCa(ctx context.Context, r *sealanepb.RotateCaRequest) (*sealanepb.InstanceCertificates, error) {
	return s.change(ctx, r.GetName(), func(n instance.Name) error { return s.manager.Certificates.RotateCA(ctx, n, r.NameConstraints) })
}

func (s *certificatesServer) ActivateCa(ctx context.Context, r *sealanepb.ActivateCaRequest) (*sealanepb.InstanceCertificates, error) {
	return s.change(ctx, r.GetName(), func(n instance.Name) error { return s.manager.Certificates.ActivateCA(ctx, n, r.GetForce()) })
}

func (s *certificatesServer) RetireCa(ctx context.Context, r *sealanepb.RetireCaRequest) (*sealanepb.InstanceCertificates, error) {
	return s.change(ctx, r.GetName(), func(n instance.Name) error { return s.manager.Certificates.RetireCA(ctx, n, r.GetForce()) })
}

func (s *certificatesServer) CompromiseCa(ctx context.Context, r *sealanepb.CompromiseCaRequest) (*sealanepb.InstanceCertificates, error) {
	var affected []ledger.Client
	out, err := s.change(ctx, r.GetName(), func(n instance.Name) (err error) {
		affected, err = s.manager.Certificates.CompromiseCA(ctx, n, int(r.GetGeneration()))
		return err
	})
	for _, c := range affected {
		if out != nil {
			out.AffectedClients = append(out.AffectedClients, clientProto(c, nil))
		}
	}
	return out, err
}

func (s *certificatesServer) SetSampling(ctx context.Context, r *sealanepb.SetSamplingRequest) (*sealanepb.InstanceCertificates, error) {
	return s.change(ctx, r.GetName(), func(n instance.Name) error {
		return s.manager.Certificates.SetSampling(ctx, n, r.GetPercent(), int(r.GetPerHour()))
	})
}

func (s *certificatesServer) ListClients(ctx context.Context, r *sealanepb.ListClientsRequest) (*sealanepb.ListClientsResponse, error) {
	name, err := certificatesPart.parse("name", r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	known, err := s.manager.Clients.List(ctx, name)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	out := &sealanepb.ListClientsResponse{Generation: int32(known.Generation), EvictTime: timeUnlessZero(known.Evicted), Ready: known.Doubt == "", Doubt: known.Doubt}
	for _, c := range known.Clients {
		p := clientProto(c.Client, known.Labels)
		for _, missing := range c.Missing {
			p.MissingTests = append(p.MissingTests, testName(known.Labels[missing]))
		}
		p.Readiness, p.ReadinessTime, p.Failure = readinesses[c.Readiness], timeUnlessZero(c.At), string(c.How)
		out.Clients = append(out.Clients, p)
	}
	return out, nil
}

var readinesses = map[ledger.Readiness]sealanepb.CertificateClient_Readiness{
	ledger.Proven:   sealanepb.CertificateClient_PROVEN,
	ledger.Declared: sealanepb.CertificateClient_DECLARED,
	ledger.Failed:   sealanepb.CertificateClient_FAILED,
	ledger.Unknown:  sealanepb.CertificateClient_UNKNOWN,
}

// testName is the server name (SNI) with which a client proves that it verifies something.
func testName(l instance.Label) string {
	if l.Cross {
		return pki.NextCrossName
	}
	return pki.NextName
}

// clientProto is a client as the API shows it. labels say what the labels of its evidence stand for.
func clientProto(c ledger.Client, labels map[string]instance.Label) *sealanepb.CertificateClient {
	out := &sealanepb.CertificateClient{
		Address: c.Address.String(), ClientName: c.Name, Library: c.Library, User: c.User,
		FirstSeenTime: timestamppb.New(c.First), LastSeenTime: timestamppb.New(c.Last),
	}
	for label, e := range c.Anchors {
		of, ok := labels[label]
		if !ok {
			continue
		}
		out.Evidence = append(out.Evidence, &sealanepb.CertificateEvidence{
			Generation: int32(of.Generation), CrossCertificate: of.Cross, ProvenTime: timeUnlessZero(e.Proven), DeclaredTime: timeUnlessZero(e.Declared),
			FailedTime: timeUnlessZero(e.Failed), Failure: string(e.How),
		})
	}
	slices.SortFunc(out.Evidence, func(a, b *sealanepb.CertificateEvidence) int {
		if a.Generation == b.Generation && a.CrossCertificate != b.CrossCertificate {
			return map[bool]int{true: 1, false: -1}[a.CrossCertificate]
		}
		return cmp.Compare(a.Generation, b.Generation)
	})
	return out
}

func samplingProto(s *instance.Sampling) *sealanepb.Sampling {
	if s == nil {
		return nil
	}
	return &sealanepb.Sampling{Generation: int32(s.Generation), Percent: s.Percent, PerHour: int32(s.PerHour)}
}

func (s *certificatesServer) RotateLeaf(ctx context.Context, r *sealanepb.RotateLeafRequest) (*sealanepb.InstanceCertificates, error) {
	return s.change(ctx, r.GetName(), func(n instance.Name) error { return s.manager.Certificates.RenewLeaf(ctx, n) })
}

// change does what is asked of the instance's certificates and shows them.
func (s *certificatesServer) change(ctx context.Context, resource string, do func(instance.Name) error) (*sealanepb.InstanceCertificates, error) {
	name, err := certificatesPart.parse("name", resource)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	if err := do(name); err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	c, err := s.manager.Certificates.Get(name)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return certificatesProto(name, c), nil
}

var caStates = map[pki.CAState]sealanepb.CertificateAuthority_State{
	pki.Published:   sealanepb.CertificateAuthority_PUBLISHED,
	pki.CrossSigned: sealanepb.CertificateAuthority_CROSS_SIGNED,
	pki.Signing:     sealanepb.CertificateAuthority_SIGNING,
	pki.Retiring:    sealanepb.CertificateAuthority_RETIRING,
	pki.Retired:     sealanepb.CertificateAuthority_RETIRED,
	pki.Compromised: sealanepb.CertificateAuthority_COMPROMISED,
	pki.PassedOver:  sealanepb.CertificateAuthority_PASSED_OVER,
	pki.NotYetValid: sealanepb.CertificateAuthority_NOT_YET_VALID,
}

// certificatesProto is an instance's certificates as the API shows them.
func certificatesProto(name instance.Name, c instance.CertificateStatus) *sealanepb.InstanceCertificates {
	out := &sealanepb.InstanceCertificates{
		Name: certificatesPart.of(name), CrossCertificateServed: c.CrossServed, Warnings: c.Warnings, Problem: c.Problem,
		Sampling: samplingProto(c.Sampling),
	}
	for _, ca := range c.CAs {
		out.Authorities = append(out.Authorities, &sealanepb.CertificateAuthority{
			Generation: int32(ca.Generation), State: caStates[ca.State], Signs: ca.Signs, CrossSignedBy: int32(ca.CrossSignedBy),
			NotBefore: timestamppb.New(ca.NotBefore), NotAfter: timestamppb.New(ca.NotAfter),
			ActivateTime: timeUnlessZero(ca.Activated), RetireTime: timeUnlessZero(ca.Retired),
			SerialNumber: ca.Serial, Sha256Fingerprint: ca.SHA256Fingerprint, Sha1Fingerprint: ca.SHA1Fingerprint, Cert: ca.PEM,
			NameConstraints: ca.Constrained,
		})
	}
	if l := c.Leaf; l != nil {
		out.Leaf = &sealanepb.ServerCertificate{
			SerialNumber: l.Serial, IssuerGeneration: int32(l.Issuer), Names: l.Names, WaitingNames: l.Waiting,
			NotBefore: timestamppb.New(l.NotBefore), NotAfter: timestamppb.New(l.NotAfter), RenewalTime: timestamppb.New(l.RenewalDue),
			Sha256Fingerprint: l.SHA256Fingerprint, Sha1Fingerprint: l.SHA1Fingerprint, Cert: l.PEM,
		}
	}
	for _, a := range c.Upcoming {
		out.Upcoming = append(out.Upcoming, &sealanepb.UpcomingChange{
			Time: timestamppb.New(a.Due), Action: string(a.Kind), Generation: int32(a.Generation), Reason: a.Reason,
		})
	}
	return out
}

func timeUnlessZero(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
