package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	"google.golang.org/grpc/metadata"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/pki"
)

// redisServer is google.cloud.redis.v1.CloudRedis. Its methods only translate.
type redisServer struct {
	redispb.UnimplementedCloudRedisServer
	manager    *instance.Manager
	operations *operationWaiter
	log        *slog.Logger
}

const (
	v1Version   = "v1"
	betaVersion = "v1beta1"
)

// apiVersion is the version of the API that a call came through.
func apiVersion(ctx context.Context) string {
	if v, ok := ctx.Value(versionKey{}).(string); ok {
		return v
	}
	return v1Version
}

type versionKey struct{}

func (s *redisServer) ListInstances(ctx context.Context, r *redispb.ListInstancesRequest) (*redispb.ListInstancesResponse, error) {
	project, location, err := instance.ParseParent("parent", r.GetParent())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	all, err := s.manager.List(project, location)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	all = slices.DeleteFunc(all, func(i instance.Instance) bool {
		return !access.Caller(ctx).May(access.InstancesList, instanceScope(i.Name))
	})
	page, next, err := paginate(all, r.GetPageSize(), r.GetPageToken(), func(i instance.Instance) string { return i.Name.String() }, strings.Compare)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	out := &redispb.ListInstancesResponse{NextPageToken: next}
	for _, i := range page {
		p, err := instanceProto(i)
		if err != nil {
			return nil, toStatus(ctx, s.log, err)
		}
		out.Instances = append(out.Instances, p)
	}
	return out, nil
}

func (s *redisServer) GetInstance(ctx context.Context, r *redispb.GetInstanceRequest) (*redispb.Instance, error) {
	name, err := instance.ParseName("name", r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	i, err := s.manager.Get(name)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	out, err := instanceProto(i)
	return out, toStatus(ctx, s.log, err)
}

func (s *redisServer) GetInstanceAuthString(ctx context.Context, r *redispb.GetInstanceAuthStringRequest) (*redispb.InstanceAuthString, error) {
	name, err := instance.ParseName("name", r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	auth, err := s.manager.AuthStrings.Get(name)
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	return &redispb.InstanceAuthString{AuthString: auth}, nil
}

func (s *redisServer) CreateInstance(ctx context.Context, r *redispb.CreateInstanceRequest) (*longrunningpb.Operation, error) {
	op, err := s.create(ctx, r, func(*instance.Spec) {})
	return op, toStatus(ctx, s.log, err)
}

// createRequest is a request to make an instance, with an engine or with a backend.
type createRequest interface {
	GetParent() string
	GetInstanceId() string
	GetInstance() *redispb.Instance
}

// create makes an instance of what a request says, and of what complete adds to it.
func (s *redisServer) create(ctx context.Context, r createRequest, complete func(*instance.Spec)) (*longrunningpb.Operation, error) {
	project, location, err := instance.ParseParent("parent", r.GetParent())
	if err != nil {
		return nil, err
	}
	if err := instance.CheckParent("parent", project, location); err != nil {
		return nil, err // "-" is a wildcard for lists only
	}
	name := instance.Name{Project: project, Location: location, ID: r.GetInstanceId()}
	if err := checkBodyName(r.GetInstance().GetName(), name); err != nil {
		return nil, err
	}
	spec, err := specOf(r.GetInstance())
	if err != nil {
		return nil, err
	}
	if err := fromHeaders(ctx, &spec); err != nil {
		return nil, err
	}
	complete(&spec)
	op, err := s.manager.Create(name, spec, apiVersion(ctx))
	return s.begun(ctx, name, op, err)
}

// These headers of a create are about the instance's CAs, for which the Memorystore API has no fields. In gRPC they are metadata.
const (
	KeyAlgorithmHeader    = "sealane-ca-key-algorithm"    // ecdsa-p256 or rsa-2048
	NameConstraintsHeader = "sealane-ca-name-constraints" // true or false
)

// createHeaders are all headers that a create reads.
var createHeaders = []string{KeyAlgorithmHeader, NameConstraintsHeader}

// fromHeaders completes a spec with what the headers say. An empty header is as none.
func fromHeaders(ctx context.Context, spec *instance.Spec) error {
	md, _ := metadata.FromIncomingContext(ctx)
	said := func(header string) string { return cmp.Or(md.Get(header)...) }
	var p problems
	switch a := pki.Algorithm(said(KeyAlgorithmHeader)); a {
	case "", pki.ECDSAP256, pki.RSA2048:
		spec.KeyAlgorithm = a
	default:
		p.invalid(KeyAlgorithmHeader, fmt.Sprintf("%q: want %s or %s", a, pki.ECDSAP256, pki.RSA2048))
	}
	switch v := said(NameConstraintsHeader); v {
	case "":
	case "true", "false":
		on := v == "true"
		spec.NameConstraints = &on
	default:
		p.invalid(NameConstraintsHeader, fmt.Sprintf("%q: want true or false", v))
	}
	return p.err()
}

// checkBodyName accepts what clients put into the body's name: nothing, the id, or the full name (Terraform).
func checkBodyName(got string, want instance.Name) error {
	if got == "" || got == want.ID || got == want.String() {
		return nil
	}
	var p problems
	p.invalid("instance.name", fmt.Sprintf("%q is not what parent and instance_id say: want %s, or nothing", got, want))
	return p.err()
}

func (s *redisServer) DeleteInstance(ctx context.Context, r *redispb.DeleteInstanceRequest) (*longrunningpb.Operation, error) {
	name, err := instance.ParseName("name", r.GetName())
	if err != nil {
		return nil, toStatus(ctx, s.log, err)
	}
	op, err := s.manager.Delete(name, apiVersion(ctx))
	out, err := s.begun(ctx, name, op, err)
	return out, toStatus(ctx, s.log, err)
}

// begun answers with the operation that a call has begun, or with the error for which there is none.
func (s *redisServer) begun(ctx context.Context, name instance.Name, op instance.Operation, err error) (*longrunningpb.Operation, error) {
	if err != nil {
		return nil, err
	}
	return s.operations.begun(ctx, name, op)
}

// maxPageSize is the API's default and greatest page size.
const maxPageSize = 1000

// paginate returns the page that begins after the token. The items must be ordered by key, as compare says. A token is the key of the
// last item before the page, so a page is right even if items came or went since the page before.
func paginate[T any](items []T, size int32, token string, key func(T) string, compare func(a, b string) int) (page []T, next string, err error) {
	var p problems
	if size < 0 {
		p.invalid("page_size", fmt.Sprintf("%d: want 0 (for %d) or more", size, maxPageSize))
		return nil, "", p.err()
	}
	if size == 0 || size > maxPageSize {
		size = maxPageSize
	}
	after, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		p.invalid("page_token", fmt.Sprintf("%q: want the next_page_token of the page before", token))
		return nil, "", p.err()
	}
	first, found := slices.BinarySearchFunc(items, string(after), func(i T, k string) int { return compare(key(i), k) })
	if found {
		first++
	}
	if token == "" {
		first = 0
	}
	page = items[first:]
	if len(page) > int(size) {
		page = page[:size]
		next = base64.RawURLEncoding.EncodeToString([]byte(key(page[size-1])))
	}
	return page, next, nil
}
