// Package api is the Memorystore for Redis API over gRPC and REST: google.cloud.redis.v1 and v1beta1, with the operations and
// locations that belong to them. Beside it there is Sealane's own API, sealane.v1, for what the managed service doesn't have. The
// package translates between the APIs' messages and package instance, and decides nothing else.
//
// Guaranteed: every call, over either transport, passes the same check of its bearer token. Every error has a code and a sentence for
// the caller; for bad input it names the fields, and where there is more to do than to read it, it has a reason for programs. A request
// of any size or shape costs bounded memory, and little of it before the token is seen. A call that panics ends alone.
package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	betapb "cloud.google.com/go/redis/apiv1beta1/redispb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/instance"
)

// maxRequest is the largest request, in bytes.
const maxRequest = 1 << 20

// Config is what the API needs. All of it is required.
type Config struct {
	Manager *instance.Manager
	Token   string // the bearer token that callers must send
	Log     *slog.Logger
}

// Server is the API. GRPC serves gRPC; REST is an HTTP handler, for a server as HTTPServer makes it. Both are to serve
// listeners that went through Guard.
type Server struct {
	GRPC *grpc.Server
	REST http.Handler

	unauthenticated *unauthenticated
}

// New makes the API. opts are added to the gRPC server's options, such as TLS credentials.
func New(cfg Config, opts ...grpc.ServerOption) (*Server, error) {
	tokenSum := sha256.Sum256([]byte(cfg.Token))
	u := newUnauthenticated()
	check := func(ctx context.Context) error {
		err := checkToken(ctx, tokenSum)
		if p, ok := peer.FromContext(ctx); ok && err == nil {
			u.remove(addressKey(p.LocalAddr, p.Addr))
		}
		return err
	}
	intercept := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
		defer func() {
			if p := recover(); p != nil { // a bug in one call must neither end other calls nor stop the reconciler
				cfg.Log.ErrorContext(ctx, "panic in a call", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
				resp, err = nil, errInternal
			}
		}()
		if err := check(ctx); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
	opts = append(opts, limits()...)
	// The interceptor runs after gRPC has read the whole request. The tap handle runs before that, when gRPC has the headers.
	opts = append(opts, grpc.UnaryInterceptor(intercept), grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
		return ctx, check(ctx)
	}))
	s := &services{grpc: grpc.NewServer(opts...)}

	redis := &redisServer{manager: cfg.Manager, log: cfg.Log}
	redispb.RegisterCloudRedisServer(s, redis)
	betapb.RegisterCloudRedisServer(s, &betaServer{v1: redis})
	longrunningpb.RegisterOperationsServer(s, &operationsServer{manager: cfg.Manager, log: cfg.Log})
	s.RegisterService(&locationsDesc, &locationsServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterAuthStringsServer(s, &authStringsServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterDataPlanesServer(s, &dataPlanesServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterEnginesServer(s, &enginesServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterCertificatesServer(s, &certificatesServer{manager: cfg.Manager, log: cfg.Log})

	rest, err := newREST(s.registered, intercept)
	if err != nil {
		return nil, err
	}
	return &Server{GRPC: s.grpc, REST: rest, unauthenticated: u}, nil
}

// services registers each service with gRPC and remembers it for REST.
type services struct {
	grpc       *grpc.Server
	registered []service
}

type service struct {
	desc *grpc.ServiceDesc
	impl any
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *services) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
	s.registered = append(s.registered, service{desc, impl})
}

func checkToken(ctx context.Context, want [sha256.Size]byte) error {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, header := range md.Get("authorization") {
		scheme, token, _ := strings.Cut(header, " ")
		got := sha256.Sum256([]byte(strings.TrimSpace(token)))
		if strings.EqualFold(scheme, "bearer") && subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			return nil
		}
	}
	return withDetails(status.New(codes.Unauthenticated, "the request has no valid credentials: send the header \"authorization: Bearer TOKEN\" "+
		"with the token in the file admin.token of the server's state folder"), &errdetails.ErrorInfo{Reason: TokenInvalid, Domain: ErrorDomain}).Err()
}
