package api

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/instance"
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
	return s.change(ctx, r.GetName(), func(n instance.Name) error { return s.manager.RotateCA(ctx, n) })
}

func (s *certificatesServer) ActivateCa(ctx context.Context, r *sealanepb.ActivateCaRequest) (*sealanepb.InstanceCertificates, error) {
	return s.change(ctx, r.GetName(), func(n instance.Name) error { return s.manager.ActivateCA(ctx, n, r.GetForce()) })
}

func (s *certificatesServer) RetireCa(ctx context.Context, r *sealanepb.RetireCaRequest) (*sealanepb.InstanceCertificates, error) {
	return s.change(ctx, r.GetName(), func(n instance.Name) error { return s.manager.RetireCA(ctx, n, r.GetForce()) })
}

func (s *certificatesServer) CompromiseCa(ctx context.Context, r *sealanepb.CompromiseCaRequest) (*sealanepb.InstanceCertificates, error) {
	return s.change(ctx, r.GetName(), func(n instance.Name) error { return s.manager.CompromiseCA(ctx, n, int(r.GetGeneration())) })
}

func (s *certificatesServer) RotateLeaf(ctx context.Context, r *sealanepb.RotateLeafRequest) (*sealanepb.InstanceCertificates, error) {
	return s.change(ctx, r.GetName(), func(n instance.Name) error { return s.manager.RenewLeaf(ctx, n) })
}

// change does what is asked of the instance's certificates and shows them.
func (s *certificatesServer) change(ctx context.Context, resource string, do func(instance.Name) error) (*sealanepb.InstanceCertificates, error) {
	name, err := parseCertificates("name", resource)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	if err := do(name); err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	c, err := s.manager.Certificates(name)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return certificatesProto(name, c), nil
}

const certificatesSuffix = "/certificates"

func parseCertificates(field, s string) (instance.Name, error) {
	parent, ok := strings.CutSuffix(s, certificatesSuffix)
	if !ok || strings.Count(parent, "/") != 5 {
		var p problems
		p.invalid(field, fmt.Sprintf("%q is not the name of certificates: want projects/PROJECT/locations/LOCATION/instances/ID%s", s, certificatesSuffix))
		return instance.Name{}, p.err()
	}
	return instance.ParseName(field, parent)
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
func certificatesProto(name instance.Name, c instance.Certificates) *sealanepb.InstanceCertificates {
	out := &sealanepb.InstanceCertificates{
		Name: name.String() + certificatesSuffix, CrossCertificateServed: c.CrossServed, Warnings: c.Warnings, Problem: c.Problem,
	}
	for _, ca := range c.CAs {
		out.Authorities = append(out.Authorities, &sealanepb.CertificateAuthority{
			Generation: int32(ca.Generation), State: caStates[ca.State], Signs: ca.Signs, CrossSignedBy: int32(ca.CrossSignedBy),
			NotBefore: timestamppb.New(ca.NotBefore), NotAfter: timestamppb.New(ca.NotAfter),
			ActivateTime: timeUnlessZero(ca.Activated), RetireTime: timeUnlessZero(ca.Retired),
			SerialNumber: ca.Serial, Sha256Fingerprint: ca.SHA256Fingerprint, Sha1Fingerprint: ca.SHA1Fingerprint, Cert: ca.PEM,
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
