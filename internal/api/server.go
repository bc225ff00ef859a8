// Package api is the Memorystore for Redis API over gRPC and REST: google.cloud.redis.v1 and v1beta1, with the operations and
// locations that belong to them. Beside it there is Sealane's own API, sealane.v1, for what the managed service doesn't have. The
// package translates between the APIs' messages and package instance, and decides nothing else.
//
// Guaranteed: every call, over either transport, passes the same check of its bearer token and of what that may do (gate.go); a method
// without a row in the table of permissions can't be called. What changes something is entered into the log of calls first, and what
// reads a secret afterwards. Every error has a code and a sentence for
// the caller; for bad input it names the fields, and where there is more to do than to read it, it has a reason for programs. A request
// of any size or shape costs bounded memory, and little of it before the token is seen. A call that panics ends alone.
package api

import (
	"log/slog"
	"net/http"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	betapb "cloud.google.com/go/redis/apiv1beta1/redispb"
	"google.golang.org/grpc"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/instance"
)

// maxRequest is the largest request, in bytes.
const maxRequest = 1 << 20

// Config is what the API needs. All of it is required but Calls.
type Config struct {
	Manager *instance.Manager
	Tokens  *access.Tokens // who may call
	Calls   CallLog        // where calls are entered; nil: nowhere
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
	u := newUnauthenticated()
	g := &gate{tokens: cfg.Tokens, calls: &callLog{entries: cfg.Calls, log: cfg.Log, now: time.Now}, unauthenticated: u, log: cfg.Log}
	opts = append(opts, limits()...)
	opts = append(opts, grpc.UnaryInterceptor(g.intercept), grpc.InTapHandle(g.tap))
	s := &services{grpc: grpc.NewServer(opts...)}

	redis := &redisServer{manager: cfg.Manager, log: cfg.Log}
	redispb.RegisterCloudRedisServer(s, redis)
	betapb.RegisterCloudRedisServer(s, &betaServer{v1: redis})
	longrunningpb.RegisterOperationsServer(s, &operationsServer{manager: cfg.Manager, log: cfg.Log})
	s.RegisterService(&locationsDesc, &locationsServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterAuthStringsServer(s, &authStringsServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterDataPlanesServer(s, &dataPlanesServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterEnginesServer(s, &enginesServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterPersistencesServer(s, &persistencesServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterCertificatesServer(s, &certificatesServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterTokensServer(s, &tokensServer{tokens: cfg.Tokens, now: time.Now, log: cfg.Log})

	rest, err := newREST(s.registered, g)
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
