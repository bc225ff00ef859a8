package api

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sealane/sealane/internal/authz"
	"github.com/sealane/sealane/internal/rest"
)

// mixinRules replace the annotations of the services that are mixed in: redis_v1.yaml binds them below the
// project and not at /v1/operations.
var mixinRules = map[protoreflect.FullName]*annotations.HttpRule{
	"google.longrunning.Operations.ListOperations":  get("/v1/{name=projects/*/locations/*}/operations"),
	"google.longrunning.Operations.GetOperation":    get("/v1/{name=projects/*/locations/*/operations/*}"),
	"google.longrunning.Operations.DeleteOperation": {Pattern: &annotations.HttpRule_Delete{Delete: "/v1/{name=projects/*/locations/*/operations/*}"}},
	"google.longrunning.Operations.CancelOperation": {Pattern: &annotations.HttpRule_Post{Post: "/v1/{name=projects/*/locations/*/operations/*}:cancel"}, Body: "*"},
	"google.longrunning.Operations.WaitOperation":   nil,
	"google.cloud.location.Locations.ListLocations": get("/v1/{name=projects/*}/locations"),
	"google.cloud.location.Locations.GetLocation":   get("/v1/{name=projects/*/locations/*}"),
}

func get(path string) *annotations.HttpRule {
	return &annotations.HttpRule{Pattern: &annotations.HttpRule_Get{Get: path}}
}

const (
	v1Service   = "google.cloud.redis.v1.CloudRedis"
	betaService = "google.cloud.redis.v1beta1.CloudRedis"
)

// aliases are the paths that gcloud beta and gcloud alpha use. JSON is the same in all versions; the protos of v1beta1 lack some of its
// fields, and there are none of v1alpha1. So they all are v1's methods, called as v1beta1's.
func aliases(service string) []rest.Alias {
	switch service {
	case "google.longrunning.Operations", "google.cloud.location.Locations":
	case v1Service:
		service = betaService
	default:
		return nil // Sealane's own API has one version
	}
	asBeta := func(ctx context.Context) context.Context { return context.WithValue(ctx, versionKey{}, betaVersion) }
	return []rest.Alias{
		{From: "/v1/", To: "/v1beta1/", Service: service, Context: asBeta, Numbers: betaNumbers},
		{From: "/v1/", To: "/v1alpha1/", Service: service, Context: asBeta, Numbers: betaNumbers},
	}
}

// newREST serves the registered services, but v1beta1, whose paths are aliases of v1's. Every call passes the gate.
func newREST(registered []rest.Service, g *authz.Gate) (http.Handler, error) {
	c := rest.Config{
		Rules: mixinRules, Aliases: aliases,
		Admit: g.Admit, Intercept: g.Intercept, Recovered: g.Recovered,
		Authenticate: func(ctx context.Context) error {
			_, err := g.Authenticate(ctx)
			return err
		},
		BadToken: func(message string) error {
			return authz.WithDetails(status.New(codes.Unauthenticated, message), &errdetails.ErrorInfo{Reason: authz.TokenInvalid, Domain: authz.ErrorDomain}).Err()
		},
		Headers:   createHeaders,
		JSONOnly:  []string{"satisfiesPzi", "satisfiesPzs", "tags"}, // of Instance
		Ignored:   []string{"extraLocationTypes"},
		CheckBody: refuseTags, NotOffered: notOffered,
		Hint: "instances are at /v1/projects/PROJECT/locations/LOCATION/instances",
	}
	for _, s := range registered {
		if s.Desc.ServiceName != betaService {
			c.Services = append(c.Services, s)
		}
	}
	return rest.New(c)
}

// refuseTags refuses the tags of a new instance. Policies hang on them in the managed service, and here nobody would enforce those.
func refuseTags(method string, raw []byte) error {
	var body struct {
		Tags map[string]json.RawMessage `json:"tags"`
	}
	if method != "CreateInstance" || json.Unmarshal(raw, &body) != nil || len(body.Tags) == 0 {
		return nil
	}
	return authz.WithDetails(status.New(codes.FailedPrecondition, "tags: there are no resource manager tags on this server: leave them out; labels are kept and shown"),
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "tags", Description: "not offered"}}}).Err()
}

// otherCollections are those of the managed service's API that belong to its other products.
var otherCollections = regexp.MustCompile(`^/v1(?:alpha1|beta1)?/projects/[^/]+/locations/[^/]+/(clusters|backupCollections|backups|aclPolicies|sharedRegionalCertificateAuthority)(?:[/:]|$)`)

// notOffered refuses a path that belongs to another product, by name.
func notOffered(path string) error {
	if m := otherCollections.FindStringSubmatch(path); m != nil {
		return status.Errorf(codes.FailedPrecondition, "%s belong to Memorystore for Redis Cluster, which this server doesn't offer: "+
			"it has instances, at /v1/projects/PROJECT/locations/LOCATION/instances (gcloud redis instances)", m[1])
	}
	return nil
}
