// Package api is the Memorystore for Redis API over gRPC and REST: google.cloud.redis.v1 and v1beta1, with the operations and
// locations that belong to them. Beside it there is Sealane's own API, sealane.v1, for what the managed service doesn't have. The
// package translates between the APIs' messages and package instance, and decides nothing else.
//
// Guaranteed: every call, over either transport, passes the same check of its bearer token and of what that may do (package authz); a method
// without a row in the table of permissions can't be called. What changes something is entered into the log of calls first, and what
// reads a secret afterwards. Every error has a code and a sentence for
// the caller; for bad input it names the fields, and where there is more to do than to read it, it has a reason for programs. A request
// of any size or shape costs bounded memory, and little of it before the token is seen. A call that panics ends alone.
package api

import (
	"cmp"
	"log/slog"
	"net/http"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	betapb "cloud.google.com/go/redis/apiv1beta1/redispb"
	"google.golang.org/grpc"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/authz"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/rest"
)

// maxRequest is the largest request, in bytes.
const maxRequest = rest.MaxBody

// Config is what the API needs. Manager, Tokens and Log are required.
type Config struct {
	Manager *instance.Manager
	Tokens  *access.Tokens // who may call
	Calls   authz.CallLog  // where calls are entered; nil: nowhere
	Log     *slog.Logger
	// Hold is for how long an answer waits for its operation to be done; 0: as long as DefaultHold.
	Hold time.Duration
}

// DefaultHold is long enough for nearly all operations, and short enough for everybody's time limits. Without it every change by
// Terraform takes ten seconds more: it looks at an operation that isn't done only after that time.
const DefaultHold = 2 * time.Second

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
	g := authz.NewGate(authz.Config{
		Rules: rules, Tokens: cfg.Tokens, Calls: cfg.Calls, Log: cfg.Log, Known: u.known, NotEntered: notEntered(cfg.Log),
	})
	opts = append(opts, limits()...)
	opts = append(opts, grpc.UnaryInterceptor(g.Intercept), grpc.InTapHandle(g.Tap))
	s := &services{grpc: grpc.NewServer(opts...)}

	ops := &operationWaiter{operations: cfg.Manager.Operations, hold: cmp.Or(cfg.Hold, DefaultHold)}
	redis := &redisServer{manager: cfg.Manager, operations: ops, log: cfg.Log}
	redispb.RegisterCloudRedisServer(s, redis)
	betapb.RegisterCloudRedisServer(s, &betaServer{v1: redis})
	longrunningpb.RegisterOperationsServer(s, &operationsServer{manager: cfg.Manager, waiter: ops, log: cfg.Log})
	s.RegisterService(&locationsDesc, &locationsServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterAuthStringsServer(s, &authStringsServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterDataPlanesServer(s, &dataPlanesServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterEnginesServer(s, &enginesServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterTransitEncryptionsServer(s, &transitEncryptionsServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterPersistencesServer(s, &persistencesServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterReplicationsServer(s, &replicationsServer{manager: cfg.Manager, log: cfg.Log})
	sealanepb.RegisterBackendsServer(s, &backendsServer{redis: redis, log: cfg.Log})
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
	registered []rest.Service
}

// RegisterService implements grpc.ServiceRegistrar.
func (s *services) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
	s.registered = append(s.registered, rest.Service{Desc: desc, Impl: impl})
}
