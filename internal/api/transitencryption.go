package api

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/plaintext"
)

// transitEncryptionsServer is sealane.v1.TransitEncryptions. Its methods only translate.
type transitEncryptionsServer struct {
	sealanepb.UnimplementedTransitEncryptionsServer
	manager *instance.Manager
	log     *slog.Logger
}

// encryptionModes are the API's modes.
var encryptionModes = map[instance.EncryptionMode]sealanepb.TransitEncryption_Mode{
	instance.ModeDisabled:  sealanepb.TransitEncryption_DISABLED,
	instance.ModePreferred: sealanepb.TransitEncryption_PREFERRED,
	instance.ModeEnforced:  sealanepb.TransitEncryption_SERVER_AUTHENTICATION,
}

func (s *transitEncryptionsServer) GetTransitEncryption(ctx context.Context, r *sealanepb.GetTransitEncryptionRequest) (*sealanepb.TransitEncryption, error) {
	return s.change(ctx, r, r.GetUnseenFor(), func(instance.Name) error { return nil })
}

func (s *transitEncryptionsServer) PreferTls(ctx context.Context, r *sealanepb.PreferTlsRequest) (*sealanepb.TransitEncryption, error) {
	return s.change(ctx, r, nil, func(n instance.Name) error { return s.manager.Encryption.Prefer(ctx, n, r.GetAllowPlaintext()) })
}

func (s *transitEncryptionsServer) EnforceTls(ctx context.Context, r *sealanepb.EnforceTlsRequest) (*sealanepb.TransitEncryption, error) {
	var cut []plaintext.Client
	out, err := s.change(ctx, r, r.GetUnseenFor(), func(n instance.Name) (err error) {
		cut, err = s.manager.Encryption.Enforce(ctx, n, r.GetUnseenFor().AsDuration(), r.GetForce())
		return err
	})
	if out != nil {
		out.CutClients = plaintextClientsProto(cut)
	}
	return out, err
}

func (s *transitEncryptionsServer) RollbackTls(ctx context.Context, r *sealanepb.RollbackTlsRequest) (*sealanepb.TransitEncryption, error) {
	return s.change(ctx, r, nil, func(n instance.Name) error { return s.manager.Encryption.Rollback(ctx, n) })
}

func (s *transitEncryptionsServer) DisableTls(ctx context.Context, r *sealanepb.DisableTlsRequest) (*sealanepb.TransitEncryption, error) {
	return s.change(ctx, r, nil, func(n instance.Name) error { return s.manager.Encryption.Disable(ctx, n, r.GetForce()) })
}

func (s *transitEncryptionsServer) ListPlaintextClients(ctx context.Context, r *sealanepb.ListPlaintextClientsRequest) (*sealanepb.ListPlaintextClientsResponse, error) {
	st, err := s.status(ctx, r, nil)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return &sealanepb.ListPlaintextClientsResponse{Clients: plaintextClientsProto(st.Clients), CountedSinceTime: timeUnlessZero(st.CountedSince)}, nil
}

// named is a request with the name of a transit encryption.
type named interface{ GetName() string }

// change makes a change, if any, and shows the outcome.
func (s *transitEncryptionsServer) change(ctx context.Context, r named, unseenFor *durationpb.Duration, change func(instance.Name) error) (*sealanepb.TransitEncryption, error) {
	name, err := transitEncryptionPart.parse("name", r.GetName())
	if err == nil {
		err = checkUnseenFor(unseenFor)
	}
	if err == nil {
		err = change(name)
	}
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	st, err := s.status(ctx, r, unseenFor)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	reasons := st.Verdict.Reasons
	if !access.Caller(ctx).May(access.ClientsList, instanceScope(name)) { // they name clients
		reasons = nil
	}
	return &sealanepb.TransitEncryption{
		Name: transitEncryptionPart.of(name),
		Mode: encryptionModes[st.Mode], Host: st.Host, TlsPort: int32(st.TLSPort), PlaintextPort: int32(st.PlaintextPort),
		SafeToEnforce: st.PlaintextPort != 0 && st.Verdict.Safe(), Reasons: reasons, UnseenFor: durationpb.New(st.UnseenFor),
		PlaintextConnections: int32(st.PlaintextConnections), TlsConnections: int32(st.TLSConnections),
		CountedSinceTime: timeUnlessZero(st.CountedSince), EnforceTime: timeUnlessZero(st.Enforced), Problem: st.Problem,
	}, nil
}

func (s *transitEncryptionsServer) status(ctx context.Context, r named, unseenFor *durationpb.Duration) (instance.EncryptionStatus, error) {
	name, err := transitEncryptionPart.parse("name", r.GetName())
	if err != nil {
		return instance.EncryptionStatus{}, err
	}
	return s.manager.Encryption.Get(ctx, name, unseenFor.AsDuration())
}

// checkUnseenFor refuses a zero that was meant: absent means the default.
func checkUnseenFor(d *durationpb.Duration) error {
	if d == nil || d.CheckValid() == nil && d.AsDuration() >= time.Second {
		return nil
	}
	var p problems
	p.invalid("unseen_for", fmt.Sprintf("%s: want 1s at least, or leave it out for 7 days", d.AsDuration()))
	return p.err()
}

func plaintextClientsProto(clients []plaintext.Client) []*sealanepb.PlaintextClient {
	var out []*sealanepb.PlaintextClient
	for _, c := range clients {
		out = append(out, &sealanepb.PlaintextClient{
			Address: c.Address.String(), ClientName: c.Name, Library: c.Library, User: c.User,
			FirstSeenTime: timeUnlessZero(c.First), LastSeenTime: timeUnlessZero(c.Last), Connections: int32(c.Connections),
			LastTlsTime: timeUnlessZero(c.LastTLS), Moved: c.Moved(),
		})
	}
	return out
}
