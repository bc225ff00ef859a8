package sidecarconfig

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// envPrefix is how the sidecar's environment variables begin. It is longer than SEALANE_, because other commands read SEALANE_AUTH and
// the like as something else, and because what begins so and is no field can be told to be a mistake.
const envPrefix = "SEALANE_SIDECAR_"

// EnvName is the environment variable of a field.
func EnvName(field string) string { return envPrefix + strings.ToUpper(field) }

// field is a field of Config, or of Link, by the name that it has in the file.
type field struct {
	name   string
	ofLink bool
	index  int // in its struct
	kind   reflect.Type
}

// fields are those that can be set by an environment variable: all but links.
var fields = append(fieldsOf(reflect.TypeFor[Config](), false), fieldsOf(reflect.TypeFor[Link](), true)...)

func fieldsOf(t reflect.Type, ofLink bool) []field {
	var all []field
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "" && name != "-" && name != "links" {
			all = append(all, field{name, ofLink, i, t.Field(i).Type})
		}
	}
	return all
}

// set reads a field's value as the environment and flags have it. An error says what would be right.
func (f field) set(c *Config, text string) error {
	target := reflect.ValueOf(c).Elem()
	if f.ofLink {
		target = reflect.ValueOf(&c.Links[0]).Elem()
	}
	target = target.Field(f.index)
	if f.kind.Kind() == reflect.Pointer {
		target.Set(reflect.New(f.kind.Elem()))
		target = target.Elem()
	}
	switch value := target.Addr().Interface().(type) {
	case *string:
		*value = text
		return nil
	case *bool:
		b, err := strconv.ParseBool(text)
		*value = b
		return wantUnless(err, text, "true or false")
	case *int:
		n, err := strconv.Atoi(text)
		*value = n
		return wantUnless(err, text, "a number")
	case *time.Duration:
		d, err := time.ParseDuration(text)
		*value = d
		return wantUnless(err, text, "a duration, such as 20s")
	}
	panic("sidecarconfig: a field of type " + f.kind.String() + " can't be set by the environment")
}

func wantUnless(err error, text, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%q: want %s", text, what)
}
