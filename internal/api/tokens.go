package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/timestamppb"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/authz"
	"github.com/sealane/sealane/internal/instance"
)

// defaultTTL is how long a token lives when a request doesn't say.
const defaultTTL = 30 * 24 * time.Hour

// tokensServer is sealane.v1.Tokens. A token can have bindings in several projects, so each method checks itself what the caller may:
// the permission must hold at the scope of each binding.
type tokensServer struct {
	sealanepb.UnimplementedTokensServer
	tokens *access.Tokens
	now    func() time.Time
	log    *slog.Logger
}

const tokenPrefix = "tokens/"

func (s *tokensServer) CreateToken(ctx context.Context, r *sealanepb.CreateTokenRequest) (*sealanepb.CreateTokenResponse, error) {
	maker := access.Caller(ctx)
	wanted, err := wantedToken(r.GetToken())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	for _, b := range wanted.Bindings {
		if !maker.May(access.TokensCreate, b.Scope) {
			return nil, authz.Denied(access.TokensCreate, b.Scope.String())
		}
		if lacks := maker.Lacks(b); lacks != "" {
			return nil, authz.Denied(lacks, b.Scope.String())
		}
	}
	if wanted.Expires, err = expiration(r, maker.Expires, s.now()); err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	wanted.Creator = maker.ID
	made, secret, err := s.tokens.Create(wanted)
	if errors.Is(err, access.ErrTooMany) {
		err = &instance.Error{Code: instance.ResourceExhausted, Message: err.Error() + ": revoke those that nobody uses; they are forgotten after 30 days"}
	} else if err != nil {
		err = instance.StateError("write", err)
	}
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return &sealanepb.CreateTokenResponse{Token: tokenProto(made, s.now()), Secret: secret}, nil
}

// wantedToken reads a token to be made.
func wantedToken(in *sealanepb.Token) (access.Token, error) {
	var p problems
	description := in.GetDescription()
	if len(description) > access.MaxDescription || strings.ContainsFunc(description, func(c rune) bool { return !unicode.IsPrint(c) }) {
		p.invalid("token.description", fmt.Sprintf("want at most %d bytes that can be printed, on one line", access.MaxDescription))
	}
	if n := len(in.GetBindings()); n == 0 || n > access.MaxBindings {
		p.invalid("token.bindings", fmt.Sprintf("%d of them: want 1 to %d, each with a role and a scope", n, access.MaxBindings))
	}
	token := access.Token{Description: description}
	for n, b := range in.GetBindings()[:min(len(in.GetBindings()), access.MaxBindings)] {
		role, ok := access.ParseRole(b.GetRole())
		if !ok {
			p.invalid(fmt.Sprintf("token.bindings[%d].role", n), fmt.Sprintf("%q: want %s", b.GetRole(), roleNames()))
		}
		field := fmt.Sprintf("token.bindings[%d].scope", n)
		scope, err := access.ParseScope(b.GetScope())
		if err != nil {
			p.invalid(field, err.Error())
		} else if err := checkScope(field, scope); err != nil {
			p.invalid(field, strings.TrimPrefix(err.Error(), field+": "))
		}
		token.Bindings = append(token.Bindings, access.Binding{Role: role, Scope: scope})
	}
	return token, p.err()
}

func roleNames() string {
	names := make([]string, len(access.Roles))
	for n, r := range access.Roles {
		names[n] = string(r)
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// checkScope checks the names in a scope.
func checkScope(field string, s access.Scope) error {
	switch {
	case s.Instance != "":
		_, err := instance.ParseName(field, s.String())
		return err
	case s.Location != "":
		return instance.CheckParent(field, s.Project, s.Location)
	case s.Project != "":
		return instance.CheckParent(field, s.Project, "any")
	}
	return nil
}

// expiration is when a token is to expire; zero: never. latest is when its maker's does; zero: never.
func expiration(r *sealanepb.CreateTokenRequest, latest, now time.Time) (time.Time, error) {
	var p problems
	var field string
	var at time.Time
	switch e := r.GetExpiration().(type) {
	case nil:
		at = now.Add(defaultTTL)
		if !latest.IsZero() && latest.Before(at) {
			at = latest
		}
		return at.UTC().Truncate(time.Second), nil
	case *sealanepb.CreateTokenRequest_Ttl:
		field = "ttl"
		if err := e.Ttl.CheckValid(); err != nil {
			p.invalid(field, err.Error())
			return at, p.err()
		}
		at = now.Add(e.Ttl.AsDuration())
	case *sealanepb.CreateTokenRequest_ExpireTime:
		field = "expire_time"
		if err := e.ExpireTime.CheckValid(); err != nil {
			p.invalid(field, err.Error())
			return at, p.err()
		}
		at = e.ExpireTime.AsTime()
	case *sealanepb.CreateTokenRequest_NeverExpires:
		field = "never_expires"
		if !e.NeverExpires {
			p.invalid(field, "false: want true, or leave it out; a token then lives for 30 days")
			return at, p.err()
		}
	}
	at = at.UTC().Truncate(time.Second)
	switch {
	case field != "never_expires" && at.Before(now.Add(time.Second).Truncate(time.Second)):
		p.invalid(field, fmt.Sprintf("the token would expire at %s: want a time that is still to come", at.Format(time.RFC3339)))
	case !latest.IsZero() && (field == "never_expires" || at.After(latest)):
		p.invalid(field, fmt.Sprintf("a token can't outlive the one that makes it, which expires at %s", latest.Format(time.RFC3339)))
	}
	if field == "never_expires" {
		at = time.Time{}
	}
	return at, p.err()
}

func (s *tokensServer) GetToken(ctx context.Context, r *sealanepb.GetTokenRequest) (*sealanepb.Token, error) {
	token, err := s.find(ctx, access.TokensGet, r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return tokenProto(token, s.now()), nil
}

// find finds a token that the caller has the permission for. Where it hasn't, it doesn't learn whether there is one.
func (s *tokensServer) find(ctx context.Context, permission access.Permission, name string) (access.Token, error) {
	id, ok := strings.CutPrefix(name, tokenPrefix)
	if !ok || id == "" || strings.Contains(id, "/") {
		var p problems
		p.invalid("name", fmt.Sprintf("%q is not the name of a token: want tokens/ID, as ListTokens shows it", authz.Shortened(name)))
		return access.Token{}, p.err()
	}
	if id == access.AdminID && access.Caller(ctx).May(permission, access.Scope{}) {
		return access.Token{}, &instance.Error{Code: instance.FailedPrecondition, Message: "the administrator's token is the file admin.token of the server's state folder, " +
			"and not one of those that are listed and revoked: to replace it, delete the file and restart the server"}
	}
	token, err := s.tokens.Get(id)
	switch {
	case err != nil && access.Caller(ctx).May(permission, access.Scope{}):
		return token, &instance.Error{Code: instance.NotFound, Message: fmt.Sprintf("Resource '%s' was not found", authz.Shortened(name))}
	case err != nil || !mayAll(ctx, permission, token):
		return token, authz.Denied(permission, name)
	}
	return token, nil
}

// mayAll says whether the caller has the permission at the scope of each of the token's bindings.
func mayAll(ctx context.Context, permission access.Permission, token access.Token) bool {
	return !slices.ContainsFunc(token.Bindings, func(b access.Binding) bool { return !access.Caller(ctx).May(permission, b.Scope) })
}

func (s *tokensServer) ListTokens(ctx context.Context, r *sealanepb.ListTokensRequest) (*sealanepb.ListTokensResponse, error) {
	all := slices.DeleteFunc(s.tokens.List(), func(t access.Token) bool { return !mayAll(ctx, access.TokensList, t) })
	page, next, err := paginate(all, r.GetPageSize(), r.GetPageToken(), func(t access.Token) string { return t.ID }, strings.Compare)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	out := &sealanepb.ListTokensResponse{NextPageToken: next}
	for _, t := range page {
		out.Tokens = append(out.Tokens, tokenProto(t, s.now()))
	}
	return out, nil
}

func (s *tokensServer) RevokeToken(ctx context.Context, r *sealanepb.RevokeTokenRequest) (*sealanepb.Token, error) {
	token, err := s.find(ctx, access.TokensRevoke, r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	var others []access.Token
	if r.GetDescendants() { // which have no more than the token has, so whoever may revoke that may revoke these
		others = s.tokens.Descendants(token.ID)
	}
	token, err = s.tokens.Revoke(token.ID)
	for _, other := range others { // after an error too: in this server they are refused all the same
		_, failed := s.tokens.Revoke(other.ID)
		err = cmp.Or(err, failed)
	}
	if err != nil {
		return nil, toStatus(ctx, s.log, notRecorded(err))
	}
	return tokenProto(token, s.now()), nil
}

// notRecorded is the error of a revocation that this server knows of, and the next one will not.
func notRecorded(err error) error {
	stated := instance.StateError("write", err)
	var e *instance.Error
	if errors.As(stated, &e) {
		e.Message = "this server refuses the token from now on, but would take it again after a restart: " + e.Message
	}
	return stated
}

// tokenProto is a token as the API shows it.
func tokenProto(t access.Token, now time.Time) *sealanepb.Token {
	out := &sealanepb.Token{
		Name: tokenPrefix + t.ID, Description: t.Description, CreateTime: timestamppb.New(t.Created), Creator: tokenPrefix + t.Creator,
		ExpireTime: timeUnlessZero(t.Expires), RevokeTime: timeUnlessZero(t.Revoked), LastUseTime: timeUnlessZero(t.Used),
		State: sealanepb.Token_ACTIVE,
	}
	switch ended := t.Ended(now); {
	case errors.Is(ended, access.ErrRevoked):
		out.State = sealanepb.Token_REVOKED
	case errors.Is(ended, access.ErrExpired):
		out.State = sealanepb.Token_EXPIRED
	}
	for _, b := range t.Bindings {
		out.Bindings = append(out.Bindings, &sealanepb.TokenBinding{Role: string(b.Role), Scope: b.Scope.String()})
	}
	return out
}
