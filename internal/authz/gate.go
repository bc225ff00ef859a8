// Package authz is what every call of the API passes, over either transport: who calls, whether they may, and the entry in the log of
// calls.
//
// Guaranteed: nobody without a valid token gets further than the headers of a request. A method without a Rule can't be called. The
// same is said of a resource that the caller may not see and of one that isn't there. A call that changes something is entered
// before it is made, or not made.
//
// Not guaranteed: what a method with Rule.Within, or without Rule.Field, shows or does. It checks that itself, by access.Caller and Denied.
package authz

import (
	"context"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	"github.com/sealane/sealane/internal/access"
)

// Config is what a Gate needs. All of it is required but Calls.
type Config struct {
	Rules  map[string]Rule // by SERVICE/METHOD
	Tokens *access.Tokens
	Calls  CallLog // nil: calls are entered nowhere
	Log    *slog.Logger
	// Known is told of each call with a valid token.
	Known func(context.Context)
	// NotEntered is the caller's error for a call that isn't made because it can't be entered.
	NotEntered func(context.Context, error) error
}

// Gate checks calls.
//
// A caller without a valid token is refused when the headers are there, and over REST one that may not do what it asks for is refused
// then too, since the path names the resource. gRPC has the name in the message. What depends on the rest of the request is checked
// when all of it is there.
type Gate struct {
	Config
	calls *callLog
}

// NewGate returns a Gate.
func NewGate(cfg Config) *Gate {
	return &Gate{cfg, &callLog{entries: cfg.Calls, log: cfg.Log, notEntered: cfg.NotEntered, now: time.Now}}
}

// Authenticate says who calls.
func (g *Gate) Authenticate(ctx context.Context) (access.Principal, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	because := errNoToken
	var who access.Principal
	for _, header := range md.Get("authorization") {
		token, ok := access.Bearer(header)
		if !ok {
			continue
		}
		p, err := g.Tokens.Authenticate(token)
		if err == nil {
			g.Known(ctx)
			return p, nil
		}
		who, because = p, err
	}
	return access.Principal{}, unauthenticatedError(who, because)
}

// Tap is gRPC's tap handle. It runs when the headers are there, before the request is read.
func (g *Gate) Tap(ctx context.Context, _ *tap.Info) (context.Context, error) {
	_, err := g.Authenticate(ctx)
	return ctx, err
}

// Admit checks over REST what can be checked before the body is read. path has the fields of the request that the URL's path sets. The
// context that it returns is for the rest of the call.
func (g *Gate) Admit(ctx context.Context, fullMethod string, path map[string]string) (context.Context, error) {
	p, err := g.Authenticate(ctx)
	if err != nil {
		return ctx, err
	}
	ctx = access.WithCaller(ctx, p)
	c, err := g.newCall(ctx, fullMethod)
	if err != nil {
		return ctx, err
	}
	if name, ok := path[c.rule.Field]; ok || c.rule.Field == "" {
		c.resource = name
		return ctx, g.authorize(c)
	}
	return ctx, nil
}

// Intercept is gRPC's interceptor, and the last part of the check over REST. It runs when the whole request is there.
func (g *Gate) Intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer g.Recovered(ctx, info.FullMethod, &err)
	if access.Caller(ctx).ID == "" {
		p, err := g.Authenticate(ctx)
		if err != nil {
			return nil, err
		}
		ctx = access.WithCaller(ctx, p)
	}
	c, err := g.newCall(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	message, ok := req.(proto.Message)
	if !ok {
		return nil, ErrInternal
	}
	c.read(message)
	if err := g.authorize(c); err != nil {
		return nil, err
	}
	return g.calls.around(c, func() (any, error) { return next(ctx, req) })
}

// Recovered turns a panic into the call's error: a bug in one call must neither end other calls nor stop the reconciler.
func (g *Gate) Recovered(ctx context.Context, method string, err *error) {
	if p := recover(); p != nil {
		g.Log.ErrorContext(ctx, "panic in a call", "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = ErrInternal
	}
}

// call is one call, as far as it is known yet.
type call struct {
	ctx      context.Context // who calls is in it
	method   string          // SERVICE/METHOD
	rule     Rule
	resource string // as the request names it; "" where it names none
	made     string // id of what is to be made in it
	also     []access.Permission
}

func (g *Gate) newCall(ctx context.Context, fullMethod string) (*call, error) {
	c := &call{ctx: ctx, method: strings.TrimPrefix(fullMethod, "/")}
	var ok bool
	if c.rule, ok = g.Rules[c.method]; !ok {
		g.Log.ErrorContext(ctx, "a method has no permission, so that nobody may call it", "method", c.method)
		return nil, status.Errorf(codes.PermissionDenied, "nobody may call %s: it has no permission, which is a bug in the server", c.method)
	}
	return c, nil
}

// read takes from the request what there is to know of it.
func (c *call) read(request proto.Message) {
	if c.rule.Field != "" {
		c.resource = text(request, c.rule.Field)
	} else if c.resource == "" {
		c.resource = text(request, "name")
	}
	if c.rule.ID != "" {
		c.made = text(request, c.rule.ID)
	}
	if c.rule.Also != nil {
		c.also = c.rule.Also(request)
	}
}

// authorize returns an error unless the caller may make the call, as far as it is known.
func (g *Gate) authorize(c *call) error {
	err := c.check()
	if status.Code(err) == codes.PermissionDenied {
		g.calls.denied(c)
	}
	return err
}

func (c *call) check() error {
	p := access.Caller(c.ctx)
	var at access.Scope
	if c.rule.Field != "" {
		var ok bool
		if at, ok = scopeOf(c.rule.Kind, c.resource); !ok && !p.May(c.rule.Permission, access.Scope{}) {
			// The method would say it better, but it must not be reached with a name that was not checked.
			if p.MayWithin(c.rule.Permission, access.Scope{}) {
				return badName(c.rule.Field, c.resource)
			}
			return Denied(c.rule.Permission, c.resource)
		}
	}
	if e := c.rule.Everywhere; e != "" && !p.May(e, access.Scope{}) {
		if !p.MayWithin(c.rule.Permission, at) {
			return Denied(c.rule.Permission, c.resource)
		}
		return Denied(e, access.Scope{}.String())
	}
	may := p.May
	if c.rule.Within {
		may = p.MayWithin
	}
	for _, permission := range append([]access.Permission{c.rule.Permission}, c.also...) {
		if !may(permission, at) {
			return Denied(permission, c.resource)
		}
	}
	return nil
}
