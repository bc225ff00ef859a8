// Package filter is the filter of a list request, as AIP-160 (google.aip.dev/160) describes it: which of the items match
// `done=true AND metadata.target:web`.
//
// Guaranteed: a filter that names an unknown field, or that can't be decided, is refused when it is parsed. Parsing and matching cost
// no more than the length of the filter allows, which is bounded. Functions are not offered.
package filter

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
)

// maxLength bounds a filter, because the parser's recursion grows with it.
const maxLength = 1000

// Fields are the fields that a filter may name, with the value that each has in an item. A value is a string, a bool, an int64 or a
// time.Time; a time that is zero is absent.
type Fields[T any] map[string]func(T) any

// Filter says which items match.
type Filter[T any] struct {
	fields Fields[T]
	root   *expr.Expr // nil: all match
}

// Parse reads a filter. An empty one matches everything. The error's text is for the caller who wrote the filter.
func Parse[T any](text string, fields Fields[T]) (*Filter[T], error) {
	f := &Filter[T]{fields: fields}
	if strings.TrimSpace(text) == "" {
		return f, nil
	}
	if len(text) > maxLength {
		return nil, fmt.Errorf("has %d bytes: want %d at most", len(text), maxLength)
	}
	var parser filtering.Parser
	parser.Init(text)
	parsed, err := parser.Parse()
	if err != nil {
		for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
			err = inner // the innermost error says what is wrong; those around it only repeat the grammar
		}
		return nil, fmt.Errorf("%q is not a filter: %s; want for example %s", text, lastLine(err.Error()), f.example())
	}
	f.root = parsed.GetExpr()
	return f, f.check(f.root)
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

func (f *Filter[T]) example() string {
	return slices.Sorted(maps.Keys(f.fields))[0] + "=VALUE, joined by AND, OR and NOT"
}

// Match says whether an item matches.
func (f *Filter[T]) Match(item T) bool { return f.root == nil || f.eval(f.root, item) }

// check refuses what eval could not decide.
func (f *Filter[T]) check(e *expr.Expr) error {
	call := e.GetCallExpr()
	if call == nil {
		if _, ok := literal(e); !ok {
			return errors.New("a field without a comparison: want FIELD=VALUE")
		}
		return nil
	}
	args := call.GetArgs()
	switch call.GetFunction() {
	case filtering.FunctionAnd, filtering.FunctionFuzzyAnd, filtering.FunctionOr, filtering.FunctionNot:
		for _, a := range args {
			if err := f.check(a); err != nil {
				return err
			}
		}
		return nil
	case filtering.FunctionEquals, filtering.FunctionNotEquals, filtering.FunctionHas, filtering.FunctionLessThan,
		filtering.FunctionLessEquals, filtering.FunctionGreaterThan, filtering.FunctionGreaterEquals:
		return f.checkComparison(call.GetFunction(), args[0], args[1])
	}
	return fmt.Errorf("%s(): functions are not offered", call.GetFunction())
}

func (f *Filter[T]) checkComparison(op string, left, right *expr.Expr) error {
	name := path(left)
	value, known := f.fields[name]
	if !known {
		return fmt.Errorf("%q is not a field that can be filtered by: want one of %s", name, strings.Join(slices.Sorted(maps.Keys(f.fields)), ", "))
	}
	want, ok := literal(right)
	if !ok {
		return fmt.Errorf("%s: what it is compared with is not a value: put it in quotes", name)
	}
	var none T
	var err error
	switch value(none).(type) {
	case bool:
		if _, err = strconv.ParseBool(want); err == nil && op != filtering.FunctionEquals && op != filtering.FunctionNotEquals {
			return fmt.Errorf("%s is true or false: want = or !=, not %s", name, op)
		}
	case int64:
		_, err = strconv.ParseInt(want, 10, 64)
	case time.Time:
		_, err = time.Parse(time.RFC3339, want)
	}
	if err != nil && want != "*" {
		return fmt.Errorf("%s: %q is not of the field's type: want %s", name, want, typeName(value(none)))
	}
	return nil
}

func typeName(v any) string {
	switch v.(type) {
	case bool:
		return "true or false"
	case int64:
		return "a whole number"
	default:
		return "a time in quotes, such as \"2030-01-02T15:04:05Z\""
	}
}

// path is the dotted name on the left of a comparison.
func path(e *expr.Expr) string {
	if s := e.GetSelectExpr(); s != nil {
		return path(s.GetOperand()) + "." + s.GetField()
	}
	if id := e.GetIdentExpr(); id != nil {
		return id.GetName()
	}
	s, _ := literal(e)
	return s
}

// literal is the text of a value: quoted or not, a number, or a word with dots.
func literal(e *expr.Expr) (string, bool) {
	switch k := e.GetExprKind().(type) {
	case *expr.Expr_IdentExpr:
		return k.IdentExpr.GetName(), true
	case *expr.Expr_SelectExpr:
		operand, ok := literal(k.SelectExpr.GetOperand())
		return operand + "." + k.SelectExpr.GetField(), ok
	case *expr.Expr_ConstExpr:
		switch c := k.ConstExpr.GetConstantKind().(type) {
		case *expr.Constant_StringValue:
			return c.StringValue, true
		case *expr.Constant_Int64Value:
			return strconv.FormatInt(c.Int64Value, 10), true
		case *expr.Constant_DoubleValue:
			return strconv.FormatFloat(c.DoubleValue, 'g', -1, 64), true
		}
	}
	return "", false
}

func (f *Filter[T]) eval(e *expr.Expr, item T) bool {
	call := e.GetCallExpr()
	if call == nil { // a bare value matches an item that has it in any field
		text, _ := literal(e)
		for _, value := range f.fields {
			if s, ok := value(item).(string); ok && contains(s, text) {
				return true
			}
		}
		return false
	}
	args := call.GetArgs()
	switch op := call.GetFunction(); op {
	case filtering.FunctionAnd, filtering.FunctionFuzzyAnd:
		return !slices.ContainsFunc(args, func(a *expr.Expr) bool { return !f.eval(a, item) })
	case filtering.FunctionOr:
		return slices.ContainsFunc(args, func(a *expr.Expr) bool { return f.eval(a, item) })
	case filtering.FunctionNot:
		return !f.eval(args[0], item)
	default:
		want, _ := literal(args[1])
		return compare(op, f.fields[path(args[0])](item), want)
	}
}

// compare decides one comparison. "*" alone asks whether there is a value.
func compare(op string, got any, want string) bool {
	if want == "*" {
		present := got != "" && got != time.Time{}
		return present == (op != filtering.FunctionNotEquals)
	}
	order := 0
	switch got := got.(type) {
	case bool:
		wanted, _ := strconv.ParseBool(want) // was checked, as the others are
		return (got == wanted) == (op == filtering.FunctionEquals)
	case int64:
		n, _ := strconv.ParseInt(want, 10, 64)
		order = cmp.Compare(got, n)
	case time.Time:
		t, _ := time.Parse(time.RFC3339, want)
		if got.IsZero() {
			return op == filtering.FunctionNotEquals
		}
		order = got.Compare(t)
	case string:
		if op == filtering.FunctionHas {
			return contains(got, strings.Trim(want, "*"))
		}
		order = strings.Compare(got, want)
		if strings.Contains(want, "*") && wildcard(got, want) {
			order = 0
		}
	}
	switch op {
	case filtering.FunctionNotEquals:
		return order != 0
	case filtering.FunctionLessThan:
		return order < 0
	case filtering.FunctionLessEquals:
		return order <= 0
	case filtering.FunctionGreaterThan:
		return order > 0
	case filtering.FunctionGreaterEquals:
		return order >= 0
	default: // = and, of what is no text, the colon
		return order == 0
	}
}

func contains(s, part string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(part))
}

// wildcard says whether a text has the form of a pattern that begins or ends with a star.
func wildcard(s, pattern string) bool {
	head, tail := strings.HasPrefix(pattern, "*"), strings.HasSuffix(pattern, "*")
	middle := strings.TrimSuffix(strings.TrimPrefix(pattern, "*"), "*")
	switch {
	case head && tail:
		return strings.Contains(s, middle)
	case head:
		return strings.HasSuffix(s, middle)
	case tail:
		return strings.HasPrefix(s, middle)
	}
	return false
}
