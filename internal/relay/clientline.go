package relay

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/routing"
)

// clientLine is a line of CLIENT LIST: id=5 addr=127.0.0.1:60000 … in the engine's order.
type clientLine []clientField

type clientField struct{ name, value string }

func parseLine(text string) clientLine {
	line := make(clientLine, 0, 32)
	for word := range strings.FieldsSeq(text) {
		name, value, ok := strings.Cut(word, "=")
		if !ok {
			if n := len(line); n > 0 {
				line[n-1].value += " " + word // a socket's path with a space in it
			}
			continue
		}
		line = append(line, clientField{name, value})
	}
	return line
}

func (l clientLine) String() string {
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

func (l clientLine) get(name string) string {
	for _, f := range l {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

func (l clientLine) number(name string) int64 { return number(l.get(name)) }

// kind is the engines' type of a client. A monitor is a normal one to them.
func (l clientLine) kind() string {
	flags := l.get("flags")
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

// shortLine has the fields that filters ask for. It stands in for the engine's lines where those are not at hand.
var shortLine = parseLine("id= addr= laddr= name= age= idle= flags= capa= db= user= lib-name= lib-ver=")

// view is who looks at clients, by which command, and when.
type view struct {
	asks *Session
	by   string
	now  time.Time
}

// lastOf is the command that a client has asked for last. The one that looks may have gone on.
func (v view) lastOf(s *Session) string {
	if s == v.asks {
		return v.by
	}
	return s.lastCommandName()
}

// underWay is how many commands the engine has not done yet when it shows the client to itself.
func (v view) underWay(s *Session) uint64 {
	if s == v.asks {
		return uint64(s.state.InFlight()) + 1
	}
	return 0
}

// line describes the client as the engine would, with the fields of an engine's line, in its order. Where that line is of
// the client's dedicated connection, only what the engine can't know is changed. Otherwise none of its values is shown: they are
// about another client.
func (s *Session) line(engine clientLine, dedicated bool, v view) clientLine {
	shown := s.profile.identity.Load()
	line := slices.Clone(engine)
	for i, f := range line {
		value, known := s.known(shown, f, dedicated, v)
		if !known && !dedicated {
			value, known = s.neutral(shown, f, v), true
		}
		if known {
			line[i].value = value
		}
	}
	return line
}

// known is the value of a field that is the client's, whatever connection it is on.
func (s *Session) known(shown *routing.Identity, f clientField, dedicated bool, v view) (string, bool) {
	switch f.name {
	case "id":
		return strconv.FormatInt(s.id, 10), true
	case "addr":
		return s.cfg.address(s.cfg.Remote), true
	case "laddr":
		return s.cfg.address(s.cfg.Local), true
	case "fd":
		return strconv.Itoa(int(s.conn.FD())), true
	case "name":
		return shown.Name, true
	case "lib-name":
		return shown.LibName, true
	case "lib-ver":
		return shown.LibVer, true
	case "age":
		return strconv.Itoa(int(v.now.Sub(s.began).Seconds())), true
	case "idle":
		return strconv.Itoa(int(max(0, v.now.Sub(time.Unix(0, s.activity.lastRequest.Load()))).Seconds())), true
	case "flags":
		return s.flags(f.value, dedicated), true
	case "tot-net-in":
		return strconv.FormatUint(s.activity.bytesIn.Load(), 10), true
	case "tot-net-out":
		return strconv.FormatUint(s.activity.bytesOut.Load(), 10), true
	case "tot-cmds":
		return strconv.FormatUint(s.activity.commands.Load()-v.underWay(s), 10), true
	case "redir":
		if n := number(f.value); dedicated && n > 0 {
			return strconv.FormatInt(s.redirectedTo(n), 10), true
		}
	}
	return "", false
}

// flags are the engine's for the client's dedicated connection, except for how that is connected.
func (s *Session) flags(engine string, dedicated bool) string {
	flags := ""
	switch {
	case dedicated:
		flags = strings.Trim(strings.ReplaceAll(engine, "U", ""), "N")
	case s.loop.group.monitors.watches(s):
		flags = "O"
	case s.profile.subscriber.Load():
		flags = "P"
	}
	if s.cfg.Path != "" {
		flags += "U"
	}
	if flags == "" {
		flags = "N"
	}
	return flags
}

// neutral is the value for a client that shares a connection, and so has no state there. Fields of newer engines are treated the
// same: a number is 0, a text is empty.
func (s *Session) neutral(id *routing.Identity, f clientField, v view) string {
	switch f.name {
	case "db":
		return itoa(id.DB)
	case "user":
		return s.userName(id)
	case "resp":
		return itoa(id.Proto)
	case "cmd":
		return v.lastOf(s)
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

// redirectedTo is the client to which invalidations go, by what the engine says of its connection.
func (s *Session) redirectedTo(engineID int64) int64 {
	if target := s.profile.redirect.Load(); target > 0 {
		return target
	}
	return s.loop.group.clients.clientID(engineID)
}
