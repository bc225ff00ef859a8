// Package clientlist has the lines of CLIENT LIST, and the filters of CLIENT LIST and CLIENT KILL. It is pure: it reads what an
// engine says of its connections, and writes what the same engine would say of clients.
package clientlist

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// NoID is a client id that no engine gives out.
const NoID = "9223372036854775807"

// Client is what is known of a client, whatever connection serves it.
type Client struct {
	ID                    int64
	Addr, LAddr           string // as they are shown
	FD                    int
	Name, LibName, LibVer string
	User                  string
	DB, Proto             int
	Age, Idle             time.Duration
	BytesIn, BytesOut     uint64
	Commands              uint64 // that the engine has done
	LastCommand           string
	UnixSocket            bool // it came by one
	Monitor, Subscriber   bool
	// RedirectedTo turns the id that the engine has for the target of invalidations into that of a client.
	RedirectedTo func(engineID int64) int64
}

// Line describes the client as the engine would, with the fields of an engine's line, in its order. Where that line is of the
// client's dedicated connection, only what the engine can't know is changed. Otherwise none of its values is shown: they are
// about another client.
func (c *Client) Line(engine Line, dedicated bool) Line {
	line := slices.Clone(engine)
	for i, f := range line {
		value, known := c.value(f, dedicated)
		if !known && !dedicated {
			value, known = c.neutral(f), true
		}
		if known {
			line[i].value = value
		}
	}
	return line
}

// value is the value of a field that is the client's, whatever connection it is on.
func (c *Client) value(f field, dedicated bool) (string, bool) {
	switch f.name {
	case "id":
		return strconv.FormatInt(c.ID, 10), true
	case "addr":
		return c.Addr, true
	case "laddr":
		return c.LAddr, true
	case "fd":
		return strconv.Itoa(c.FD), true
	case "name":
		return c.Name, true
	case "lib-name":
		return c.LibName, true
	case "lib-ver":
		return c.LibVer, true
	case "age":
		return strconv.Itoa(int(c.Age.Seconds())), true
	case "idle":
		return strconv.Itoa(int(max(0, c.Idle).Seconds())), true
	case "flags":
		return c.flags(f.value, dedicated), true
	case "tot-net-in":
		return strconv.FormatUint(c.BytesIn, 10), true
	case "tot-net-out":
		return strconv.FormatUint(c.BytesOut, 10), true
	case "tot-cmds":
		return strconv.FormatUint(c.Commands, 10), true
	case "redir":
		if n := number(f.value); dedicated && n > 0 {
			return strconv.FormatInt(c.RedirectedTo(n), 10), true
		}
	}
	return "", false
}

// flags are the engine's for the client's dedicated connection, except for how that is connected.
func (c *Client) flags(engine string, dedicated bool) string {
	flags := ""
	switch {
	case dedicated:
		flags = strings.Trim(strings.ReplaceAll(engine, "U", ""), "N")
	case c.Monitor:
		flags = "O"
	case c.Subscriber:
		flags = "P"
	}
	if c.UnixSocket {
		flags += "U"
	}
	if flags == "" {
		flags = "N"
	}
	return flags
}

// neutral is the value for a client that shares a connection, and so has no state there. Fields of newer engines are treated the
// same: a number is 0, a text is empty.
func (c *Client) neutral(f field) string {
	switch f.name {
	case "db":
		return strconv.Itoa(c.DB)
	case "user":
		return c.User
	case "resp":
		return strconv.Itoa(c.Proto)
	case "cmd":
		return c.LastCommand
	case "multi", "redir":
		return "-1"
	case "events":
		return "r"
	}
	if _, err := strconv.ParseFloat(f.value, 64); err == nil {
		return "0"
	}
	return ""
}
