package sidecarconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Sources are where a configuration is from.
type Sources struct {
	File    string            // the file of --config; "": none
	Environ []string          // NAME=VALUE, as os.Environ has it
	Flags   map[string]string // the flags that were given, by field
}

// Error is everything that is wrong with a configuration, each with the name of where it was set.
type Error struct{ Problems []string }

func (e *Error) Error() string { return strings.Join(e.Problems, "; ") }

// reader is a configuration while it is read.
type reader struct {
	Sources
	config   *Config
	from     map[place]string // where a field was set, other than in the file
	problems []string
}

// place is a field, of the link with this index, or -1 for none.
type place struct {
	link  int
	field string
}

// Read reads file, environment and flags. An *Error says what is wrong with what is there; any other error, that the file can't be read.
func Read(s Sources) (*Config, error) {
	r := &reader{Sources: s, config: Default(), from: make(map[place]string)}
	if s.File != "" {
		if err := r.readFile(); err != nil {
			return nil, err
		}
	}
	r.readEnv()
	for _, f := range fields {
		if text, ok := s.Flags[f.name]; ok {
			r.set(f, "--"+flagName(f.name), text)
		}
	}
	r.check()
	if len(r.problems) > 0 {
		return nil, &Error{r.problems}
	}
	r.config.Strays = r.strays()
	return r.config, nil
}

func (r *reader) readFile() error {
	raw, err := os.ReadFile(r.File)
	if err != nil {
		return err
	}
	file := *r.config
	file.Links = nil // by the decoder, which would otherwise keep what is there
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	err = d.Decode(&file)
	if wrong, ok := errors.AsType[*yaml.TypeError](err); ok {
		for _, text := range wrong.Errors {
			r.problems = append(r.problems, describe(text))
		}
	} else if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(file.Links) == 0 && r.describesLink() {
		file.Links = Default().Links
	}
	*r.config = file
	return nil
}

// describesLink says whether the environment, or a flag, sets a field of a link.
func (r *reader) describesLink() bool {
	for _, f := range fields {
		if _, flag := r.Flags[f.name]; f.ofLink && (flag || r.getenv(f) != "") {
			return true
		}
	}
	return false
}

var unknownField = regexp.MustCompile(`^(line \d+: )field (\S+) not found in type \S+$`)

// goTypes are what a decoder calls what it wants.
var goTypes = strings.NewReplacer("[]sidecarconfig.Link", "a list of links", "sidecarconfig.Link", "the fields of a link", "sidecarconfig.Config", "fields",
	"time.Duration", "a duration, such as 20s", "bool", "true or false", "into int", "into a number")

// describe is a problem in a decoder's words, without Go's types, and with the field that may have been meant.
func describe(text string) string {
	m := unknownField.FindStringSubmatch(text)
	if m == nil {
		return goTypes.Replace(text)
	}
	text = m[1] + "field " + m[2] + " not found"
	for _, f := range append(fields, field{name: "links"}) {
		if isSlip(m[2], "", f.name) {
			return text + ": is " + f.name + " meant?"
		}
	}
	return text
}

// set sets a field from something that has a name. Where the file has several links, it is not known which one is meant.
func (r *reader) set(f field, from, text string) {
	link := -1
	if f.ofLink {
		if n := len(r.config.Links); n != 1 {
			r.problems = append(r.problems, fmt.Sprintf("%s: %s has %d links: set %s there, in the link that is meant", from, r.File, n, f.name))
			return
		}
		link = 0
	}
	r.from[place{link, f.name}] = from
	if err := f.set(r.config, text); err != nil {
		r.problems = append(r.problems, from+": "+err.Error())
	}
}

// name is what a field is called to whoever has set it, or is to set it.
func (r *reader) name(link int, field string) string {
	if from, ok := r.from[place{link, field}]; ok {
		return from
	}
	switch {
	case r.File != "" && link < 0:
		return field
	case r.File != "":
		return fmt.Sprintf("links[%d].%s", link, field)
	case hasFlag(field):
		return "--" + flagName(field)
	}
	return EnvName(field)
}
