// Package stunnel reads stunnel's configuration files (Parse), and makes a sidecar's configuration of one (ToSidecar).
//
// Guaranteed: no input makes it panic, or use more than a few times the input's memory; what is read is every line that is
// not empty and no comment, in the order of the file, with its number; and no option of stunnel's makes a sidecar verify less.
package stunnel

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxSize is more than any configuration has.
const MaxSize = 1 << 20

// Option is one line.
type Option struct {
	Line int
	Name string // in lower case: stunnel does not care
	// Value is what follows the equals sign, without spaces around it.
	Value string
}

// Service is a section. The options before the first are of the File; those of a service that are there too count for all
// services.
type Service struct {
	Line    int
	Name    string
	Options []Option
}

// File is a configuration.
type File struct {
	Global   []Option
	Services []Service
}

// Get returns the value of an option that counts once: the last one, as stunnel does; "" if there is none.
func Get(options []Option, name string) string {
	value := ""
	for _, o := range options {
		if o.Name == name {
			value = o.Value
		}
	}
	return value
}

// Parse reads a file. An error names the line.
func Parse(raw []byte) (File, error) {
	var f File
	if len(raw) > MaxSize {
		return f, fmt.Errorf("it has %d bytes, which is no stunnel configuration", len(raw))
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(raw) || bytes.IndexByte(raw, 0) >= 0 {
		return f, fmt.Errorf("it is no text")
	}
	options, number := &f.Global, 0
	for line := range strings.Lines(string(raw)) {
		number++
		line = strings.TrimSpace(line)
		switch {
		case line == "", line[0] == ';', line[0] == '#':
			continue
		case line[0] == '[':
			name, rest, ok := strings.Cut(line[1:], "]")
			if !ok || strings.TrimSpace(rest) != "" || strings.TrimSpace(name) == "" {
				return File{}, fmt.Errorf("line %d: %.60q: want [SERVICE]", number, line)
			}
			f.Services = append(f.Services, Service{Line: number, Name: strings.TrimSpace(name)})
			options = &f.Services[len(f.Services)-1].Options
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if !ok || name == "" || strings.ContainsFunc(name, notInName) {
			return File{}, fmt.Errorf("line %d: %.60q: want OPTION = VALUE", number, line)
		}
		*options = append(*options, Option{number, name, strings.TrimSpace(value)})
	}
	return f, nil
}

// notInName are the characters that no option has in its name.
func notInName(c rune) bool {
	return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.')
}
