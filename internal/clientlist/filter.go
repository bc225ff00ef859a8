package clientlist

import (
	"strconv"
	"strings"
)

// Filter says which clients CLIENT KILL and CLIENT LIST mean. It has all filters of Redis 8 and Valkey 9; which of them an
// engine knows, and whether they are well-formed, is for that engine to say.
type Filter struct {
	IDs     map[int64]bool // nil: any
	LastID  int64          // of IDs
	IDWords int            // how often ID was said: Redis goes by the last one, Valkey by all
	Unknown bool           // it has a word that is not understood here

	notIDs map[int64]bool
	values map[string]string // by the filter's name in lower case; the last one counts
}

// clientConditions are the filters with one value: what they hold against the fields of a client's line.
var clientConditions = map[string]func(line Line, value string) bool{
	"addr":     func(l Line, v string) bool { return l.Get("addr") == v },
	"laddr":    func(l Line, v string) bool { return l.Get("laddr") == v },
	"user":     func(l Line, v string) bool { return l.Get("user") == v },
	"type":     func(l Line, v string) bool { return l.Type() == clientTypes[strings.ToLower(v)] },
	"name":     func(l Line, v string) bool { return v != "" && l.Get("name") == v },
	"lib-name": func(l Line, v string) bool { return v != "" && l.Get("lib-name") == v },
	"lib-ver":  func(l Line, v string) bool { return v != "" && l.Get("lib-ver") == v },
	"db":       func(l Line, v string) bool { return l.Get("db") == v },
	"flags":    hasFlags,
	"capa":     func(l Line, v string) bool { return hasAll(l.Get("capa"), v) },
	"ip":       hasIP,
	"idle":     func(l Line, v string) bool { return l.Number("idle") >= number(v) },
	"maxage":   func(l Line, v string) bool { return l.Number("age") >= number(v) },
}

// clientTypes are the values of TYPE, and what they mean.
var clientTypes = map[string]string{
	"normal": "normal", "master": "master", "primary": "master", "slave": "slave", "replica": "slave", "pubsub": "pubsub",
}

// OfTheConnection are the filters about what only the engine knows of a client with a dedicated connection.
var OfTheConnection = []string{"flags", "capa", "type", "db"}

// hasNot says which filters have a negation: NOT-ADDR and so on.
func hasNot(name string) bool { return name != "idle" && name != "maxage" }

// ParseFilter reads filters, and returns them also as the engine is to check them: with ids that no connection has. Its own
// connections have other ids than clients are told.
func ParseFilter(args [][]byte) (f Filter, check []string) {
	f.values = make(map[string]string)
	for i := 0; i < len(args); {
		word := strings.ToLower(string(args[i]))
		check = append(check, string(args[i]))
		i++
		if word == "id" || word == "not-id" {
			f.begin(word)
			for ; i < len(args) && isNumber(string(args[i])); i++ {
				check = append(check, f.takeID(word, number(string(args[i]))))
			}
			continue
		}
		positive := strings.TrimPrefix(word, "not-")
		known := clientConditions[positive] != nil && (positive == word || hasNot(positive)) || word == "skipme"
		if !known || i == len(args) {
			f.Unknown = true
			continue
		}
		value := string(args[i])
		check = append(check, value)
		i++
		switch {
		case (positive == "idle" || positive == "maxage" || positive == "db") && !isNumber(value),
			positive == "type" && clientTypes[strings.ToLower(value)] == "":
			f.Unknown = true
		}
		f.values[word] = value
	}
	return f, check
}

func (f *Filter) begin(word string) {
	if word == "not-id" {
		f.notIDs = withIDs(f.notIDs)
	} else {
		f.IDs = withIDs(f.IDs)
		f.IDWords++
	}
}

func withIDs(m map[int64]bool) map[int64]bool {
	if m == nil {
		m = make(map[int64]bool)
	}
	return m
}

// takeID notes one of the ids that follow ID or NOT-ID, and returns what the engine is to see in its place.
func (f *Filter) takeID(word string, id int64) string {
	if word == "not-id" {
		f.notIDs[id] = true
	} else {
		f.IDs[id], f.LastID = true, id
	}
	if id < 1 {
		return strconv.FormatInt(id, 10) // the engine knows what to say
	}
	return NoID
}

// AsRedis makes the last ID the one that counts.
func (f *Filter) AsRedis() {
	if f.IDWords > 1 {
		f.IDs = map[int64]bool{f.LastID: true}
	}
}

// Has says that one of these filters is there, or its negation.
func (f *Filter) Has(names ...string) bool {
	for _, n := range names {
		if _, ok := f.values[n]; ok {
			return true
		}
		if _, ok := f.values["not-"+n]; ok {
			return true
		}
	}
	return false
}

// Value is the value of a filter, by its name in lower case; empty where it is not there.
func (f *Filter) Value(name string) string { return f.values[name] }

// OnlyIDs says that there is no filter but ID.
func (f *Filter) OnlyIDs() bool { return len(f.values) == 0 && f.notIDs == nil && !f.Unknown }

// ByAddress is the filter of the old form of CLIENT KILL.
func ByAddress(addr string) Filter { return Filter{values: map[string]string{"addr": addr}} }

// Matches says whether the client is meant that has this line.
func (f *Filter) Matches(line Line) bool {
	id := line.Number("id")
	if f.IDs != nil && !f.IDs[id] || f.notIDs[id] {
		return false
	}
	for word, value := range f.values {
		if word == "skipme" {
			continue
		}
		name, negated := strings.CutPrefix(word, "not-")
		if clientConditions[name](line, value) == negated {
			return false
		}
	}
	return true
}

// hasFlags is the filter FLAGS. A monitor counts as a replica there.
func hasFlags(l Line, want string) bool {
	flags := l.Get("flags")
	if strings.Contains(flags, "O") {
		flags += "S"
	}
	return hasAll(flags, want)
}

func hasAll(s, chars string) bool {
	for _, c := range chars {
		if !strings.ContainsRune(s, c) {
			return false
		}
	}
	return true
}

// hasIP is the filter IP: the address without its port. What came by a Unix socket has port 0, and no IP.
func hasIP(l Line, want string) bool {
	addr := l.Get("addr")
	at := strings.LastIndexByte(addr, ':')
	if at < 0 || strings.HasPrefix(addr[at+1:], "0") {
		return false
	}
	return strings.Trim(addr[:at], "[]") == want
}

// isNumber says that a word is a number as the engines write them: without a plus sign or leading zeros.
func isNumber(s string) bool {
	n, err := strconv.ParseInt(s, 10, 64)
	return err == nil && strconv.FormatInt(n, 10) == s
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}
