package clientlist

import "strings"

// Line is a line of CLIENT LIST: id=5 addr=127.0.0.1:60000 … in the engine's order.
type Line []field

type field struct{ name, value string }

// Parse reads a line.
func Parse(text string) Line {
	line := make(Line, 0, 32)
	for word := range strings.FieldsSeq(text) {
		name, value, ok := strings.Cut(word, "=")
		if !ok {
			if n := len(line); n > 0 {
				line[n-1].value += " " + word // a socket's path with a space in it
			}
			continue
		}
		line = append(line, field{name, value})
	}
	return line
}

// String is the line as the engine writes it.
func (l Line) String() string {
	var b strings.Builder
	for i, f := range l {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(f.name)
		b.WriteByte('=')
		b.WriteString(f.value)
	}
	return b.String()
}

// Get is the value of a field; empty where it is not there.
func (l Line) Get(name string) string {
	for _, f := range l {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

// Number is the number that a field is; 0 where it is none.
func (l Line) Number(name string) int64 { return number(l.Get(name)) }

// Type is the engines' type of a client. A monitor is a normal one to them.
func (l Line) Type() string {
	flags := l.Get("flags")
	switch {
	case strings.Contains(flags, "M"):
		return "master"
	case strings.Contains(flags, "S"):
		return "slave"
	case strings.Contains(flags, "P"):
		return "pubsub"
	}
	return "normal"
}

// Short has the fields that filters ask for. It stands in for the engine's lines where those are not at hand.
var Short = Parse("id= addr= laddr= name= age= idle= flags= capa= db= user= lib-name= lib-ver=")
