package rest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxBody is the largest body of a request, in bytes, before and after it is unpacked.
const MaxBody = 1 << 20

// readBody reads a request's body, of at most MaxBody bytes.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	var body io.Reader = http.MaxBytesReader(w, r.Body, MaxBody)
	switch encoding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return nil, bodyError(err)
		}
		body = http.MaxBytesReader(w, unpacked, MaxBody)
	default:
		return nil, violation("content-encoding", fmt.Sprintf("content-encoding: %q: want gzip, or none", encoding))
	}
	raw, err := io.ReadAll(body)
	return raw, bodyError(err)
}

func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		return &oversized{tooLarge}
	}
	return status.Errorf(codes.InvalidArgument, "read the request's body: %v", err)
}

// oversized is a gRPC status that keeps the error by which HTTP knows that the request was too large.
type oversized struct{ *http.MaxBytesError }

func (e *oversized) GRPCStatus() *status.Status {
	return status.Newf(codes.InvalidArgument, "the request's body is larger than %d bytes", e.Limit)
}

func (e *oversized) Unwrap() error { return e.MaxBytesError }

// decodeBody reads a JSON body into a message, or into the field of it that the body is.
func (c *Config) decodeBody(msg proto.Message, field string, raw []byte) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	into, at := msg, ""
	if field != "*" {
		fd := msg.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(field))
		into, at = msg.ProtoReflect().Mutable(fd).Message().Interface(), field
	}
	raw = withoutFields(raw, c.JSONOnly)
	err := protojson.Unmarshal(raw, into)
	if err == nil {
		return nil
	}
	bad := &errdetails.BadRequest{}
	if utf8.Valid(raw) {
		findViolations(bad, into.ProtoReflect().Type(), at, raw)
	}
	if len(bad.FieldViolations) == 0 { // it is no JSON, no object, or no text
		// The protobuf library varies spaces in its texts on purpose, so that nobody depends on them.
		text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "proto:"), "\u00a0", " ")
		return status.Errorf(codes.InvalidArgument, "Invalid JSON payload received: %s", strings.TrimSpace(text))
	}
	texts := make([]string, len(bad.FieldViolations))
	for n, v := range bad.FieldViolations {
		texts[n] = v.Description
	}
	return badRequest(strings.Join(texts, "\n"), bad)
}

// maxViolations is how many wrong fields of a body are named.
const maxViolations = 20

// findViolations names every field of a body that a message doesn't have, or whose value is not of its type, in the words of the
// managed service. It is for bodies that the decoder has refused. at is where the message is in the request.
func findViolations(bad *errdetails.BadRequest, mt protoreflect.MessageType, at string, raw []byte) {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil {
		return
	}
	add := func(field, text string) {
		if len(bad.FieldViolations) < maxViolations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: field, Description: text})
		}
	}
	fields := mt.Descriptor().Fields()
	for _, name := range slices.Sorted(maps.Keys(object)) {
		f := fields.ByJSONName(name)
		if f == nil {
			f = fields.ByName(protoreflect.Name(name))
		}
		if f == nil {
			where := ""
			if at != "" {
				where = " at '" + at + "'"
			}
			add(at, fmt.Sprintf("Invalid JSON payload received. Unknown name %q%s: Cannot find field.", name, where))
			continue
		}
		path := strings.TrimPrefix(at+"."+string(f.Name()), ".")
		alone, err := json.Marshal(map[string]json.RawMessage{name: object[name]})
		if err != nil || protojson.Unmarshal(alone, mt.New().Interface()) == nil {
			continue
		}
		before := len(bad.FieldViolations)
		if f.Message() != nil && !f.IsMap() && !isScalar(f.Message()) {
			for n, element := range elements(f, object[name]) {
				where := path
				if f.IsList() {
					where = fmt.Sprintf("%s[%d]", path, n)
				}
				findViolations(bad, messageType(mt, f), where, element)
			}
		}
		if len(bad.FieldViolations) == before {
			add(path, fmt.Sprintf("Invalid value at '%s' (%s), %.100s", path, kindName(f), object[name]))
		}
	}
}

// elements are the messages that a field holds.
func elements(f protoreflect.FieldDescriptor, raw json.RawMessage) []json.RawMessage {
	if !f.IsList() {
		return []json.RawMessage{raw}
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	return list
}

func messageType(of protoreflect.MessageType, f protoreflect.FieldDescriptor) protoreflect.MessageType {
	if f.IsList() {
		return of.New().NewField(f).List().NewElement().Message().Type()
	}
	return of.New().NewField(f).Message().Type()
}

func kindName(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return "Map"
	case f.Enum() != nil:
		return "type.googleapis.com/" + string(f.Enum().FullName())
	case f.Message() != nil:
		return "type.googleapis.com/" + string(f.Message().FullName())
	}
	return "TYPE_" + strings.ToUpper(f.Kind().String())
}

// withoutFields drops some fields from a JSON object. Anything else than an object is left for the decoder to refuse.
func withoutFields(raw []byte, fields []string) []byte {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil {
		return raw
	}
	before := len(object)
	for _, name := range fields {
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
