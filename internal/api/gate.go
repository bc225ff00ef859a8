package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/instance"
)

// gate is what every call passes, over either transport: who calls, whether they may, and the entry in the log of calls.
//
// A caller without a valid token is refused when the headers are there, and over REST one that may not do what it asks for is refused
// then too, since the path names the resource. gRPC has the name in the message. What depends on the rest of the request is checked
// when all of it is there.
type gate struct {
	tokens          *access.Tokens
	calls           *callLog
	unauthenticated *unauthenticated
	log             *slog.Logger
}

type principalKey struct{}

// principal is who calls; nobody, who may do nothing, outside of a call.
func principal(ctx context.Context) access.Principal {
	p, _ := ctx.Value(principalKey{}).(access.Principal)
	return p
}

// authenticate says who calls, and takes the connection out of those that have not shown a valid token.
func (g *gate) authenticate(ctx context.Context) (access.Principal, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	because := errNoToken
	var who access.Principal
	for _, header := range md.Get("authorization") {
		token, ok := access.Bearer(header)
		if !ok {
			continue
		}
		p, err := g.tokens.Authenticate(token)
		if err == nil {
			if from, ok := peer.FromContext(ctx); ok {
				g.unauthenticated.remove(addressKey(from.LocalAddr, from.Addr))
			}
			return p, nil
		}
		who, because = p, err
	}
	return access.Principal{}, unauthenticatedError(who, because)
}

var errNoToken = errors.New("no token")

func unauthenticatedError(who access.Principal, because error) error {
	reason, message := TokenInvalid, "the request has no valid credentials: send the header \"authorization: Bearer TOKEN\" "+
		"with a token that `sealane tokens create` has made, or the administrator's, which is in the file admin.token of the server's state folder"
	const another = ": ask whoever administers the server for another one, which `sealane tokens create` makes"
	info := &errdetails.ErrorInfo{Domain: ErrorDomain}
	switch {
	case errors.Is(because, access.ErrExpired):
		reason, message = TokenExpired, fmt.Sprintf("the token %s has expired", who.ID)+another
	case errors.Is(because, access.ErrRevoked):
		reason, message = TokenRevoked, fmt.Sprintf("the token %s was revoked", who.ID)+another
	}
	if who.ID != "" {
		info.Metadata = map[string]string{"token": who.ID}
	}
	info.Reason = reason
	return withDetails(status.New(codes.Unauthenticated, message), info).Err()
}

// tap is gRPC's tap handle. It runs when the headers are there, before the request is read.
func (g *gate) tap(ctx context.Context, _ *tap.Info) (context.Context, error) {
	_, err := g.authenticate(ctx)
	return ctx, err
}

// admit checks over REST what can be checked before the body is read. path has the fields of the request that the URL's path sets. The
// context that it returns is for the rest of the call.
func (g *gate) admit(ctx context.Context, fullMethod string, path map[string]string) (context.Context, error) {
	p, err := g.authenticate(ctx)
	if err != nil {
		return ctx, err
	}
	ctx = context.WithValue(ctx, principalKey{}, p)
	c, err := g.newCall(ctx, fullMethod)
	if err != nil {
		return ctx, err
	}
	if name, ok := path[c.rule.field]; ok || c.rule.field == "" {
		c.resource = name
		return ctx, g.authorize(c)
	}
	return ctx, nil
}

// intercept is gRPC's interceptor, and the last part of the check over REST. It runs when the whole request is there.
func (g *gate) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer g.recovered(ctx, info.FullMethod, &err)
	if ctx.Value(principalKey{}) == nil {
		p, err := g.authenticate(ctx)
		if err != nil {
			return nil, err
		}
		ctx = context.WithValue(ctx, principalKey{}, p)
	}
	c, err := g.newCall(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	message, ok := req.(proto.Message)
	if !ok {
		return nil, errInternal
	}
	c.read(message)
	if err := g.authorize(c); err != nil {
		return nil, err
	}
	return g.calls.around(c, func() (any, error) { return next(ctx, req) })
}

// recovered turns a panic into the call's error: a bug in one call must neither end other calls nor stop the reconciler.
func (g *gate) recovered(ctx context.Context, method string, err *error) {
	if p := recover(); p != nil {
		g.log.ErrorContext(ctx, "panic in a call", "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = errInternal
	}
}

// call is one call, as far as it is known yet.
type call struct {
	ctx      context.Context // who calls is in it
	method   string          // SERVICE/METHOD
	rule     rule
	resource string // as the request names it; "" where it names none
	made     string // id of what is to be made in it
	also     []access.Permission
}

func (g *gate) newCall(ctx context.Context, fullMethod string) (*call, error) {
	c := &call{ctx: ctx, method: strings.TrimPrefix(fullMethod, "/")}
	var ok bool
	if c.rule, ok = rules[c.method]; !ok {
		g.log.ErrorContext(ctx, "a method has no permission, so that nobody may call it", "method", c.method)
		return nil, status.Errorf(codes.PermissionDenied, "nobody may call %s: it has no permission, which is a bug in the server", c.method)
	}
	return c, nil
}

// read takes from the request what there is to know of it.
func (c *call) read(request proto.Message) {
	if c.rule.field != "" {
		c.resource = text(request, c.rule.field)
	} else if c.resource == "" {
		c.resource = text(request, "name")
	}
	if c.rule.id != "" {
		c.made = text(request, c.rule.id)
	}
	if c.rule.also != nil {
		c.also = c.rule.also(request)
	}
}

// authorize returns an error unless the caller may make the call, as far as it is known.
func (g *gate) authorize(c *call) error {
	err := toStatus(c.ctx, g.log, c.check())
	if status.Code(err) == codes.PermissionDenied {
		g.calls.denied(c)
	}
	return err
}

func (c *call) check() error {
	p := principal(c.ctx)
	var at access.Scope
	if c.rule.field != "" {
		var ok bool
		if at, ok = scopeOf(c.rule.kind, c.resource); !ok && !p.May(c.rule.permission, access.Scope{}) {
			// The method would say it better, but it must not be reached with a name that was not checked.
			if p.MayWithin(c.rule.permission, access.Scope{}) {
				var bad problems
				bad.invalid(c.rule.field, fmt.Sprintf("%q is not the name of a resource that this method takes", shortened(c.resource)))
				return bad.err()
			}
			return denied(c.rule.permission, c.resource)
		}
	}
	may := p.May
	if c.rule.within {
		may = p.MayWithin
	}
	for _, permission := range append([]access.Permission{c.rule.permission}, c.also...) {
		if !may(permission, at) {
			return denied(permission, c.resource)
		}
	}
	return nil
}

// maxShown bounds what an error or an entry repeats of a request.
const maxShown = 300

func shortened(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "…"
}

// denied is the error for a caller without a permission, in the managed service's words. It is the same whether the resource exists.
func denied(permission access.Permission, resource string) error {
	resource = shortened(resource)
	on := "resource"
	info := &errdetails.ErrorInfo{Reason: PermissionDenied, Domain: access.Service, Metadata: map[string]string{"permission": string(permission)}}
	if resource != "" {
		on = "resource '//" + access.Service + "/" + resource + "'"
		info.Metadata["resource"] = resource
	}
	return withDetails(status.Newf(codes.PermissionDenied, "Permission '%s' denied on %s (or it may not exist).", permission, on), info).Err()
}

// instanceScope is where an instance is.
func instanceScope(n instance.Name) access.Scope {
	return access.Scope{Project: n.Project, Location: n.Location, Instance: n.ID}
}
