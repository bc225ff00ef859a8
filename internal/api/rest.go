package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// REST is made from the services' own google.api.http annotations, read at run time: nothing is generated.

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

// binding is one method at one path.
type binding struct {
	service
	method     grpc.MethodDesc
	input      protoreflect.MessageType
	body       string // "", "*", or the field that the body is
	gate       *gate
	fullMethod string
}

func newREST(registered []service, g *gate) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
			writeEnvelope(w, code, routingError(r, code))
		}),
		// A form in the body must not count as the query, and a header must not change the method.
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptReserved),
	)
	for _, s := range registered {
		for _, m := range s.desc.Methods {
			if err := bind(mux, s, m, g); err != nil {
				return nil, fmt.Errorf("bind %s.%s: %w", s.desc.ServiceName, m.MethodName, err)
			}
		}
	}
	return mux, nil
}

func routingError(r *http.Request, code int) *status.Status {
	switch code {
	case http.StatusMethodNotAllowed:
		return status.Newf(codes.Unimplemented, "%s is not offered at %s", r.Method, r.URL.Path)
	case http.StatusNotFound:
		return status.Newf(codes.NotFound, "there is nothing at %s; instances are at /v1/projects/PROJECT/locations/LOCATION/instances", r.URL.Path)
	default:
		return status.Newf(codes.InvalidArgument, "bad request: %s", http.StatusText(code))
	}
}

func bind(mux *runtime.ServeMux, s service, m grpc.MethodDesc, g *gate) error {
	full := protoreflect.FullName(s.desc.ServiceName + "." + m.MethodName)
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
	rule, replaced := mixinRules[full]
	if !replaced {
		rule, _ = proto.GetExtension(md.Options(), annotations.E_Http).(*annotations.HttpRule)
	}
	if rule == nil {
		return nil
	}
	for _, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		verb, path := pattern(r)
		b := &binding{
			service: s, method: m, input: input, body: r.GetBody(), gate: g,
			fullMethod: "/" + s.desc.ServiceName + "/" + m.MethodName,
		}
		paths := []string{path}
		if replaced { // mixed-in services are offered below both versions of the API
			paths = append(paths, strings.Replace(path, "/v1/", "/v1beta1/", 1))
		}
		for _, p := range paths {
			if err := mux.HandlePath(verb, p, b.serve); err != nil {
				return err
			}
		}
	}
	return nil
}

func pattern(r *annotations.HttpRule) (verb, path string) {
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
	query := parseQuery(r.URL)
	numeric := enumNumbers(query)
	md := metadata.Pairs("authorization", r.Header.Get("Authorization"))
	for _, h := range createHeaders {
		md.Set(h, r.Header.Get(h))
	}
	ctx := metadata.NewIncomingContext(withPeer(r), md)
	decode := func(into any) error {
		return b.decode(into.(proto.Message), r, http.MaxBytesReader(w, r.Body, maxRequest), path, query)
	}
	out, err := b.call(ctx, path, decode)
	if err != nil {
		writeError(w, err)
		return
	}
	v, err := toJSON(out.(proto.Message), numeric)
	if err != nil {
		writeError(w, status.Error(codes.Internal, "encode the answer: "+err.Error()))
		return
	}
	writeJSON(w, http.StatusOK, v)
}

// call checks the caller before the body is read, so that those who may not can't make the server work, and again when it is.
func (b *binding) call(ctx context.Context, path map[string]string, decode func(any) error) (out any, err error) {
	defer b.gate.recovered(ctx, b.fullMethod, &err)
	if ctx, err = b.gate.admit(ctx, b.fullMethod, path); err != nil {
		return nil, err
	}
	return b.method.Handler(b.impl, ctx, decode, b.gate.intercept)
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

// parseQuery reads the query. A semicolon is part of a value: people type $alt=json;enum-encoding=int as it is
// documented, and net/url would drop it.
func parseQuery(u *url.URL) url.Values {
	query, _ := url.ParseQuery(strings.ReplaceAll(u.RawQuery, ";", "%3B")) // as URL.Query does: the rest of a bad one
	return query
}

// enumNumbers says whether the client wants enums as numbers: official clients ask with
// "$alt=json;enum-encoding=int".
func enumNumbers(query url.Values) bool {
	return strings.Contains(query.Get("$alt"), "enum-encoding=int") || strings.Contains(query.Get("alt"), "enum-encoding=int")
}

// systemParameters may be on any request and say nothing that matters here
// (cloud.google.com/apis/docs/system-parameters). Those that begin with $ are left out too.
var systemParameters = []string{"alt", "callback", "fields", "key", "prettyPrint", "quotaUser", "userIp", "uploadType", "upload_protocol"}

func (b *binding) decode(msg proto.Message, r *http.Request, body io.Reader, path map[string]string, query url.Values) error {
	if err := checkText(path, query); err != nil {
		return err
	}
	if b.body != "" {
		if err := decodeBody(msg, b.body, body); err != nil {
			return err
		}
	}
	rest := make(url.Values)
	for k, v := range query {
		switch {
		case strings.HasPrefix(k, "$") || slices.Contains(systemParameters, k):
		case (k == "updateMask" || k == "update_mask") && len(v) > 0:
			if err := setMask(msg, v[0]); err != nil {
				return err
			}
		default:
			rest[k] = v
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rest)) {
		if !b.inQuery(msg, name) {
			return status.Errorf(codes.InvalidArgument, "Invalid query parameter %q: Cannot find field.", name)
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

// setMask sets the field update_mask. The library would not turn camelCase paths into the message's own names
// (grpc-ecosystem/grpc-gateway#4134).
func setMask(msg proto.Message, text string) error {
	field := msg.ProtoReflect().Descriptor().Fields().ByName("update_mask")
	if field == nil {
		return status.Error(codes.InvalidArgument, `Invalid query parameter "updateMask": Cannot find field.`)
	}
	mask := &fieldmaskpb.FieldMask{}
	for p := range strings.SplitSeq(text, ",") {
		if p = strings.TrimSpace(p); p != "" {
			mask.Paths = append(mask.Paths, snakeCase(p))
		}
	}
	msg.ProtoReflect().Set(field, protoreflect.ValueOfMessage(mask.ProtoReflect()))
	return nil
}

// restOnly are fields of REST's Instance that its proto doesn't have; clients send them back or set them.
var restOnly = []string{"satisfiesPzi", "satisfiesPzs", "tags"}

func decodeBody(msg proto.Message, field string, body io.Reader) error {
	raw, err := io.ReadAll(body)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &oversized{tooLarge}
	}
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "read the request's body: %v", err)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	into := msg
	if field != "*" {
		fd := msg.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(field))
		into = msg.ProtoReflect().Mutable(fd).Message().Interface()
	}
	raw = withoutRESTOnly(raw)
	if err := protojson.Unmarshal(raw, into); err != nil {
		// The protobuf library varies spaces in its texts on purpose, so that nobody depends on them.
		text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "proto:"), "\u00a0", " ")
		return status.Errorf(codes.InvalidArgument, "Invalid JSON payload received: %s", strings.TrimSpace(text))
	}
	return nil
}

// withoutRESTOnly drops restOnly from a JSON object. Anything else than an object is left for the decoder to refuse.
func withoutRESTOnly(raw []byte) []byte {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil {
		return raw
	}
	before := len(object)
	for _, name := range restOnly {
		delete(object, name)
	}
	if len(object) == before {
		return raw
	}
	shorter, err := json.Marshal(object)
	if err != nil {
		return raw
	}
	return shorter
}

// oversized is a gRPC status that keeps the error by which HTTP knows that the request was too large.
type oversized struct{ *http.MaxBytesError }

func (e *oversized) GRPCStatus() *status.Status {
	return status.Newf(codes.InvalidArgument, "the request's body is larger than %d bytes", e.Limit)
}

func (e *oversized) Unwrap() error { return e.MaxBytesError }

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
