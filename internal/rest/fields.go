package rest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// selector says which fields of an answer the caller wants: fields=name,serverCaCerts(cert,expireTime),metadata/verb. It is what Google
// calls a partial response.
type selector struct {
	fields map[string]*selector // by JSON name, or "*"; a nil one is the whole field
}

// maxSelectorDepth bounds the parser's recursion. No answer is nested as deeply.
const maxSelectorDepth = 16

// parseSelector reads a selector and refuses one that names what the message doesn't have.
func parseSelector(text string, of protoreflect.MessageDescriptor, jsonOnly []string) (*selector, error) {
	p := selectorParser{rest: text}
	s := p.list(0)
	if p.wrong == "" && p.rest != "" {
		p.wrong = p.rest
	}
	if p.wrong == "" {
		p.wrong = s.check(of, jsonOnly)
	}
	if p.wrong != "" {
		return nil, violation("fields", fmt.Sprintf("Invalid field selection %s: want names of fields of %s, such as name,labels or a(b,c) or a/b", p.wrong, of.Name()))
	}
	return s, nil
}

// selectorParser takes a selector apart. After the first error, wrong says where it is.
type selectorParser struct{ rest, wrong string }

func (p *selectorParser) list(depth int) *selector {
	s := &selector{fields: make(map[string]*selector)}
	for {
		p.item(s, depth)
		p.space()
		if p.wrong != "" || !p.take(",") {
			return s
		}
	}
}

// item is a path, and in parentheses what is selected below it.
func (p *selectorParser) item(into *selector, depth int) {
	for {
		p.space()
		name := p.name()
		switch {
		case name == "" || depth > maxSelectorDepth:
			p.fail()
			return
		case p.take("/") || p.take("."):
			into = into.below(name)
			depth++
		case p.take("("):
			into.below(name).merge(p.list(depth + 1))
			if p.wrong == "" && !p.take(")") {
				p.fail()
			}
			return
		default:
			into.fields[name] = nil // all of it, whatever else is said of it
			return
		}
	}
}

// below is the selector of a field's fields.
func (s *selector) below(name string) *selector {
	sub, there := s.fields[name]
	if sub == nil {
		sub = &selector{fields: make(map[string]*selector)}
		if !there {
			s.fields[name] = sub
		}
	}
	return sub
}

func (s *selector) merge(other *selector) {
	for name, sub := range other.fields {
		if sub == nil {
			s.fields[name] = nil
			continue
		}
		s.below(name).merge(sub)
	}
}

func (p *selectorParser) fail() {
	if p.wrong == "" {
		p.wrong = fmt.Sprintf("at %.40q", p.rest)
	}
}

func (p *selectorParser) space() { p.rest = strings.TrimLeft(p.rest, " ") }

func (p *selectorParser) take(sign string) bool {
	rest, found := strings.CutPrefix(p.rest, sign)
	p.rest = rest
	return found
}

func (p *selectorParser) name() string {
	end := strings.IndexFunc(p.rest, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r > 127 || strings.ContainsRune("_-@*", r))
	})
	if end < 0 {
		end = len(p.rest)
	}
	name := p.rest[:end]
	p.rest = p.rest[end:]
	return name
}

// check returns what a message doesn't have, or "". It replaces names of the proto by those of
// JSON. jsonOnly are names that JSON has beside them.
func (s *selector) check(d protoreflect.MessageDescriptor, jsonOnly []string) (wrong string) {
	if scalar := isScalar(d); scalar || d.FullName() == "google.protobuf.Any" {
		if scalar {
			return "below " + string(d.Name())
		}
		return ""
	}
	checked := make(map[string]*selector, len(s.fields))
	for name, sub := range s.fields {
		f := d.Fields().ByJSONName(name)
		if f == nil {
			f = d.Fields().ByName(protoreflect.Name(name))
		}
		switch {
		case name == "*" || slices.Contains(jsonOnly, name) && sub == nil:
			checked[name] = sub
			continue
		case f == nil:
			return name
		case sub != nil && !f.IsMap() && f.Message() == nil:
			return name + "/" + slices.Sorted(maps.Keys(sub.fields))[0]
		case sub != nil && !f.IsMap():
			if wrong := sub.check(f.Message(), jsonOnly); wrong != "" {
				return wrong
			}
		}
		checked[f.JSONName()] = sub
	}
	s.fields = checked
	return ""
}

// isScalar says whether a message is a string in JSON.
func isScalar(d protoreflect.MessageDescriptor) bool {
	switch d.FullName() {
	case "google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask":
		return true
	}
	return false
}

// apply returns what is selected of a JSON value.
func (s *selector) apply(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any)
		for name, value := range v {
			sub, selected := s.fields[name]
			if !selected {
				sub, selected = s.fields["*"]
			}
			switch {
			case selected && sub == nil:
				out[name] = value
			case selected:
				out[name] = sub.apply(value)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for n, value := range v {
			out[n] = s.apply(value)
		}
		return out
	}
	return v
}
