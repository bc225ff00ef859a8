package relay

import (
	"strconv"
	"strings"
)

// filter says which clients CLIENT KILL and CLIENT LIST mean. It has all filters of Redis 8 and Valkey 9; which of them an
// engine knows, and whether they are well-formed, that engine says itself (see clientlist.go).
type filter struct {
	ids, notIDs map[int64]bool    // nil: any, none
	lastID      int64             // of ids
	idWords     int               // how often ID was said: Redis goes by the last one, Valkey by all
	values      map[string]string // by the filter's name in lower case; the last one counts
	leaveOut    *Session          // who asks, with SKIPME yes
	strange     bool              // it has a word that is not understood here
}

// clientConditions are the filters with one value: what they hold against the fields of a client's line.
var clientConditions = map[string]func(line clientLine, value string) bool{
	"addr":     func(l clientLine, v string) bool { return l.get("addr") == v },
	"laddr":    func(l clientLine, v string) bool { return l.get("laddr") == v },
	"user":     func(l clientLine, v string) bool { return l.get("user") == v },
	"type":     func(l clientLine, v string) bool { return l.kind() == clientTypes[strings.ToLower(v)] },
	"name":     func(l clientLine, v string) bool { return v != "" && l.get("name") == v },
	"lib-name": func(l clientLine, v string) bool { return v != "" && l.get("lib-name") == v },
	"lib-ver":  func(l clientLine, v string) bool { return v != "" && l.get("lib-ver") == v },
	"db":       func(l clientLine, v string) bool { return l.get("db") == v },
	"flags":    hasFlags,
	"capa":     func(l clientLine, v string) bool { return hasAll(l.get("capa"), v) },
	"ip":       hasIP,
	"idle":     func(l clientLine, v string) bool { return l.number("idle") >= number(v) },
	"maxage":   func(l clientLine, v string) bool { return l.number("age") >= number(v) },
}

// clientTypes are the values of TYPE, and what they mean.
var clientTypes = map[string]string{
	"normal": "normal", "master": "master", "primary": "master", "slave": "slave", "replica": "slave", "pubsub": "pubsub",
}

// ofTheConnection are the filters about what only the engine knows of a client with a dedicated connection.
var ofTheConnection = []string{"flags", "capa", "type", "db"}

// hasNot says which filters have a negation: NOT-ADDR and so on.
func hasNot(name string) bool { return name != "idle" && name != "maxage" }

// parseFilter reads filters, and returns them also as the engine is to check them: with ids that no connection has. Its own
// connections have other ids than clients are told.
func parseFilter(args [][]byte) (f filter, check []string) {
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
			f.strange = true
			continue
		}
		value := string(args[i])
		check = append(check, value)
		i++
		switch {
		case (positive == "idle" || positive == "maxage" || positive == "db") && !isNumber(value),
			positive == "type" && clientTypes[strings.ToLower(value)] == "":
			f.strange = true
		}
		f.values[word] = value
	}
	return f, check
}

func (f *filter) begin(word string) {
	if word == "not-id" {
		f.notIDs = withIDs(f.notIDs)
	} else {
		f.ids = withIDs(f.ids)
		f.idWords++
	}
}

func withIDs(m map[int64]bool) map[int64]bool {
	if m == nil {
		m = make(map[int64]bool)
	}
	return m
}

// takeID notes one of the ids that follow ID or NOT-ID, and returns what the engine is to see in its place.
func (f *filter) takeID(word string, id int64) string {
	if word == "not-id" {
		f.notIDs[id] = true
	} else {
		f.ids[id], f.lastID = true, id
	}
	if id < 1 {
		return strconv.FormatInt(id, 10) // the engine knows what to say
	}
	return noID
}

// asRedis makes the last ID the one that counts.
func (f *filter) asRedis() {
	if f.idWords > 1 {
		f.ids = map[int64]bool{f.lastID: true}
	}
}

// asks says that one of these filters is there, or its negation.
func (f *filter) asks(names ...string) bool {
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

// matches says whether the client is meant that has this line.
func (f *filter) matches(line clientLine) bool {
	id := line.number("id")
	if f.ids != nil && !f.ids[id] || f.notIDs[id] {
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
func hasFlags(l clientLine, want string) bool {
	flags := l.get("flags")
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
func hasIP(l clientLine, want string) bool {
	addr := l.get("addr")
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
