// Package rest offers gRPC services over HTTP and JSON as Google's APIs do, from their own google.api.http annotations, read at run time:
// nothing is generated. Beside the methods it does what clients of those APIs count on: partial responses (fields), numeric enums,
// method override, batches, compressed bodies, and errors in Google's envelope that name every wrong field.
//
// Guaranteed: nothing of a request's body is read before its caller was checked. A request of any size or shape costs bounded memory.
// A request that can't be understood whole is refused, and none of it is done.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// Config says what is offered. Services and the functions about callers are required.
type Config struct {
	Services []Service
	// Rules replace the annotations of some methods; one that is nil takes a method's path away.
	Rules map[protoreflect.FullName]*annotations.HttpRule
	// Aliases are further paths of a service's methods.
	Aliases func(service string) []Alias

	// Admit checks a caller before the body is read. path has the fields of the request that the URL's path sets. The context that it
	// returns is for the rest of the call.
	Admit func(ctx context.Context, fullMethod string, path map[string]string) (context.Context, error)
	// Intercept is around every call, when the whole request is there.
	Intercept grpc.UnaryServerInterceptor
	// Recovered, which is deferred, turns a panic of a call into its error.
	Recovered func(ctx context.Context, fullMethod string, err *error)
	// Authenticate is the check of a caller alone, for what has to be read before there is a call.
	Authenticate func(context.Context) error
	// BadToken makes the error of a request without credentials.
	BadToken func(message string) error

	Headers  []string // that become a call's metadata, beside authorization
	JSONOnly []string // fields that clients' JSON has and the messages don't; they are ignored
	Ignored  []string // parameters of the query that do nothing, as documented
	// CheckBody, if any, refuses what JSONOnly would drop. method is a gRPC method's name.
	CheckBody func(method string, body []byte) error
	// NotOffered, if any, says what is wrong with a path that clients might try.
	NotOffered func(path string) error
	Hint       string // where there is something, for those who look elsewhere
}

// Service is a gRPC service.
type Service struct {
	Desc *grpc.ServiceDesc
	Impl any
}

// Alias is another version of an API, whose messages are the same in JSON.
type Alias struct {
	From, To string                                // the beginning of the path: /v1/, /v1beta1/
	Service  string                                // the gRPC service of that version
	Context  func(context.Context) context.Context // marks a call
	Numbers  func(proto.Message)                   // turns the numbers of enums into those of that version
}

// binding is one method at one path.
type binding struct {
	*Config
	Service
	method     grpc.MethodDesc
	input      protoreflect.MessageType
	output     protoreflect.MessageDescriptor
	body       string // "", "*", or the field that the body is
	fullMethod string
	alias      Alias // of this path; zero: none
}

// New returns a handler for the services.
func New(c Config) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
			writeEnvelope(w, code, c.routingError(r, code))
		}),
		// front does both of these, in a way that reads nothing of a caller without a token.
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptReserved),
	)
	for _, s := range c.Services {
		for _, m := range s.Desc.Methods {
			if err := c.bind(mux, s, m); err != nil {
				return nil, fmt.Errorf("bind %s.%s: %w", s.Desc.ServiceName, m.MethodName, err)
			}
		}
	}
	return &front{&c, mux}, nil
}

func (c *Config) routingError(r *http.Request, code int) *status.Status {
	switch code {
	case http.StatusMethodNotAllowed:
		return status.Newf(codes.Unimplemented, "%s is not offered at %s", r.Method, r.URL.Path)
	case http.StatusNotFound:
		return status.Newf(codes.NotFound, "there is nothing at %s; %s", r.URL.Path, c.Hint)
	default:
		return status.Newf(codes.InvalidArgument, "bad request: %s", http.StatusText(code))
	}
}

func (c *Config) bind(mux *runtime.ServeMux, s Service, m grpc.MethodDesc) error {
	full := protoreflect.FullName(s.Desc.ServiceName + "." + m.MethodName)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(full)
	if err != nil {
		return err
	}
	md, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return errors.New("not a method")
	}
	input, err := protoregistry.GlobalTypes.FindMessageByName(md.Input().FullName())
	if err != nil {
		return err
	}
	rule, replaced := c.Rules[full]
	if !replaced {
		rule, _ = proto.GetExtension(md.Options(), annotations.E_Http).(*annotations.HttpRule)
	}
	if rule == nil {
		return nil
	}
	for _, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		verb, path := Pattern(r)
		b := binding{
			Config: c, Service: s, method: m, input: input, output: md.Output(), body: r.GetBody(),
			fullMethod: "/" + s.Desc.ServiceName + "/" + m.MethodName,
		}
		if err := mux.HandlePath(verb, path, b.serve); err != nil {
			return err
		}
		if c.Aliases == nil {
			continue
		}
		for _, alias := range c.Aliases(s.Desc.ServiceName) {
			other := b
			other.alias, other.fullMethod = alias, "/"+alias.Service+"/"+m.MethodName
			if err := mux.HandlePath(verb, strings.Replace(path, alias.From, alias.To, 1), other.serve); err != nil {
				return err
			}
		}
	}
	return nil
}

// Pattern is the HTTP method and the path of a rule.
func Pattern(r *annotations.HttpRule) (verb, path string) {
	switch p := r.GetPattern().(type) {
	case *annotations.HttpRule_Get:
		return http.MethodGet, p.Get
	case *annotations.HttpRule_Post:
		return http.MethodPost, p.Post
	case *annotations.HttpRule_Patch:
		return http.MethodPatch, p.Patch
	case *annotations.HttpRule_Put:
		return http.MethodPut, p.Put
	case *annotations.HttpRule_Delete:
		return http.MethodDelete, p.Delete
	}
	return "", ""
}

func (b *binding) serve(w http.ResponseWriter, r *http.Request, path map[string]string) {
	if err := b.refuseTokenInURL(parseQuery(r.URL.RawQuery), r.Header); err != nil {
		writeError(w, err)
		return
	}
	var params parameters
	decode := func(into any) error {
		query, err := queryOf(w, r)
		if err == nil {
			err = checkText(path, query)
		}
		if err != nil {
			return err
		}
		if params, err = b.parseParameters(query, r.Header, b.output); err != nil {
			return err
		}
		return b.decode(into.(proto.Message), w, r, path, params.message)
	}
	ctx := b.incoming(r)
	if b.alias.Context != nil {
		ctx = b.alias.Context(ctx)
	}
	out, err := b.call(ctx, path, decode)
	if err != nil {
		writeError(w, err)
		return
	}
	msg := out.(proto.Message)
	if params.enumNumbers && b.alias.Numbers != nil {
		b.alias.Numbers(msg)
	}
	v, err := toJSON(msg, params.enumNumbers)
	if err != nil {
		writeError(w, status.Error(codes.Internal, "encode the answer: "+err.Error()))
		return
	}
	var answer any = v
	if params.fields != nil {
		answer = params.fields.apply(answer)
	}
	writeJSON(w, http.StatusOK, answer, params.compact)
}

// call checks the caller before the body is read, so that those who may not can't make the server work, and again when it is.
func (b *binding) call(ctx context.Context, path map[string]string, decode func(any) error) (out any, err error) {
	defer b.Recovered(ctx, b.fullMethod, &err)
	if ctx, err = b.Admit(ctx, b.fullMethod, path); err != nil {
		return nil, err
	}
	return b.method.Handler(b.Impl, ctx, decode, func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		called := *info
		called.FullMethod = b.fullMethod // an alias is another service's method
		return b.Intercept(ctx, req, &called, next)
	})
}

// incoming is the context of a call, with who calls and what the headers say, as gRPC has it.
func (c *Config) incoming(r *http.Request) context.Context {
	md := metadata.Pairs("authorization", r.Header.Get("Authorization"))
	for _, h := range c.Headers {
		md.Set(h, r.Header.Get(h))
	}
	return metadata.NewIncomingContext(withPeer(r), md)
}

// withPeer notes who calls, as gRPC does.
func withPeer(r *http.Request) context.Context {
	ctx := r.Context()
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ctx // a Unix socket
	}
	local, _ := ctx.Value(http.LocalAddrContextKey).(net.Addr)
	return peer.NewContext(ctx, &peer.Peer{Addr: net.TCPAddrFromAddrPort(remote), LocalAddr: local})
}

// decode reads a request. query is what of the query is about the message.
func (b *binding) decode(msg proto.Message, w http.ResponseWriter, r *http.Request, path map[string]string, query url.Values) error {
	if b.body != "" {
		raw, err := readBody(w, r)
		if err == nil && b.CheckBody != nil {
			err = b.CheckBody(b.method.MethodName, raw)
		}
		if err == nil {
			err = b.decodeBody(msg, b.body, raw)
		}
		if err != nil {
			return err
		}
	}
	rest := make(url.Values)
	var masks []string
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if name == "updateMask" || name == "update_mask" {
			masks = append(masks, query[name]...)
			continue
		}
		rest[name] = query[name]
		if !b.inQuery(msg, name) {
			return badParameter(name, "Cannot find field.")
		}
	}
	if masks != nil {
		if err := setMask(msg, strings.Join(masks, ",")); err != nil {
			return err
		}
	}
	if err := runtime.PopulateQueryParameters(msg, rest, utilities.NewDoubleArray(nil)); err != nil {
		return status.Errorf(codes.InvalidArgument, "query parameters: %v", err)
	}
	for field, value := range path {
		if err := runtime.PopulateFieldFromPath(msg, field, value); err != nil {
			return status.Errorf(codes.InvalidArgument, "%s in the path: %v", field, err)
		}
	}
	return nil
}

// checkText refuses text that no message may hold. In a body, the decoder refuses it.
func checkText(path map[string]string, query url.Values) error {
	for field, value := range path {
		if !utf8.ValidString(value) {
			return status.Errorf(codes.InvalidArgument, "%s in the path: %q is not UTF-8", field, value)
		}
	}
	for name, values := range query {
		if !utf8.ValidString(name + strings.Join(values, "")) {
			return status.Errorf(codes.InvalidArgument, "Invalid query parameter %q: %q is not UTF-8", name, values)
		}
	}
	return nil
}

// inQuery says whether a parameter names a field of the message that is not in the body (google/api/http.proto).
func (b *binding) inQuery(msg proto.Message, name string) bool {
	first, _, _ := strings.Cut(name, ".")
	fields := msg.ProtoReflect().Descriptor().Fields()
	f := fields.ByJSONName(first)
	if f == nil {
		f = fields.ByName(protoreflect.Name(first))
	}
	return f != nil && b.body != "*" && string(f.Name()) != b.body
}

// setMask sets the field update_mask, to all the paths that were given, in one parameter or several. The library would not turn camelCase paths into the message's own names
// (grpc-ecosystem/grpc-gateway#4134).
func setMask(msg proto.Message, text string) error {
	field := msg.ProtoReflect().Descriptor().Fields().ByName("update_mask")
	if field == nil {
		return badParameter("updateMask", "Cannot find field.")
	}
	mask := &fieldmaskpb.FieldMask{}
	for p := range strings.SplitSeq(text, ",") {
		if p = strings.TrimSpace(p); p != "" {
			mask.Paths = append(mask.Paths, SnakeCase(p))
		}
	}
	msg.ProtoReflect().Set(field, protoreflect.ValueOfMessage(mask.ProtoReflect()))
	return nil
}

// toJSON makes the JSON that Google's front ends make: default values left out, except for those that clients
// look for.
func toJSON(msg proto.Message, enumNumbers bool) (map[string]any, error) {
	raw, err := protojson.MarshalOptions{UseEnumNumbers: enumNumbers}.Marshal(msg)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var v map[string]any
	if err := decoder.Decode(&v); err != nil {
		return nil, err
	}
	switch msg.(type) {
	case *longrunningpb.Operation:
		spellOut(v)
	case *longrunningpb.ListOperationsResponse:
		ops, _ := v["operations"].([]any)
		for _, op := range ops {
			if op, ok := op.(map[string]any); ok {
				spellOut(op)
			}
		}
	}
	return v, nil
}

// spellOut adds an operation's false values, as recorded answers have them.
func spellOut(op map[string]any) {
	if _, ok := op["done"]; !ok {
		op["done"] = false
	}
	if metadata, ok := op["metadata"].(map[string]any); ok {
		if _, ok := metadata["cancelRequested"]; !ok {
			metadata["cancelRequested"] = false
		}
	}
}

// SnakeCase turns displayName into display_name and leaves display_name as it is.
func SnakeCase(s string) string {
	var b strings.Builder
	for _, c := range s {
		if c >= 'A' && c <= 'Z' {
			b.WriteByte('_')
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}
