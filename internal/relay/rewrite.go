package relay

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/clientlist"
	"github.com/sealane/sealane/internal/resp"
)

// The commands that show or change clients. An engine knows connections, each of which may stand for many clients or for none. So
// each such command still goes to the engine, which says whether it is allowed and well-formed; the reply is then made true for
// clients. Nothing here decides on a permission.

func showID(_ *upstream, s *Session, reply []byte) []byte {
	if reply[0] != ':' {
		return reply
	}
	return appendInteger(nil, s.id)
}

func showName(_ *upstream, s *Session, reply []byte) []byte {
	if reply[0] != '$' && reply[0] != '_' {
		return reply
	}
	switch {
	case s.login.Name != "":
		return resp.Append(nil, resp.Value{Kind: resp.Bulk, Str: s.login.Name})
	case s.login.Proto == 3:
		return []byte("_\r\n")
	}
	return []byte("$-1\r\n")
}

// withText changes the text of a reply that is one; errors and the like stay as they are.
func withText(reply []byte, f func(string) string) []byte {
	v, n, err := resp.ParseReply(reply, resp.Limits{MaxBulk: maxBufferedReply})
	if err != nil || n != len(reply) || v.IsNull || v.Kind != resp.Bulk && v.Kind != resp.Verbatim {
		return reply
	}
	format := ""
	if v.Kind == resp.Verbatim {
		format, v.Str = v.Str[:4], v.Str[4:]
	}
	v.Str = format + f(v.Str)
	return resp.Append(nil, v)
}

// withField changes one value of a reply that is a list of names and values.
func withField(reply []byte, name string, f func(resp.Value) resp.Value) []byte {
	v, n, err := resp.ParseReply(reply, resp.Limits{})
	if err != nil || n != len(reply) || v.Kind != resp.Array && v.Kind != resp.Map {
		return reply
	}
	for i := 0; i+1 < len(v.Elems); i += 2 {
		if v.Elems[i].Str == name {
			v.Elems[i+1] = f(v.Elems[i+1])
			return resp.Append(nil, v)
		}
	}
	return reply
}

func showInfo(u *upstream, s *Session, reply []byte) []byte {
	if s.loop.group.backend.Load().remote() {
		return reply // it is of a server with more clients than these
	}
	return withText(reply, func(text string) string {
		text = withLine(text, "connected_clients:", itoa(s.loop.group.clients.count()))
		text = withLine(text, "active_clients:", itoa(s.loop.group.clients.active(s.loop.now)))
		if b := s.loop.group.backend.Load(); b.MaxClients > 0 {
			text = withLine(text, "maxclients:", itoa(b.MaxClients))
		}
		return text
	})
}

func withLine(text, name, value string) string {
	at := strings.Index(text, "\r\n"+name)
	if at < 0 {
		return text
	}
	at += len("\r\n") + len(name)
	end := strings.IndexByte(text[at:], '\r')
	if end < 0 {
		return text
	}
	return text[:at] + value + text[at+end:]
}

func showClient(u *upstream, s *Session, reply []byte) []byte {
	return withText(reply, func(text string) string {
		return clientView{s, "client|info", s.loop.now}.of(s).Line(clientlist.Parse(text), !u.shared).String() + "\n"
	})
}

// preparePause makes every client use a connection of its own while the engine may hold some of them up.
func preparePause(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) < 3 {
		return raw, nil
	}
	ms, err := strconv.ParseInt(string(args[2]), 10, 64)
	if err != nil || ms < 0 || ms > int64(100*365*24*time.Hour/time.Millisecond) {
		return raw, nil
	}
	g := s.loop.group
	until := s.loop.now.Add(time.Duration(ms) * time.Millisecond).UnixNano()
	before := g.pausedUntil.Swap(max(until, g.pausedUntil.Load()))
	return raw, onLine(func(s *Session, reply []byte) {
		if reply != nil && reply[0] == '-' {
			g.pausedUntil.CompareAndSwap(until, before)
		}
	})
}

// paused says whether CLIENT PAUSE may be in force.
func (ls *Loops) paused(now time.Time) bool {
	until := ls.pausedUntil.Load()
	return until != 0 && now.UnixNano() < until
}

func equalFold(arg []byte, word string) bool { return strings.EqualFold(string(arg), word) }

func withArgument(args [][]byte, at int, value string) []byte {
	words := texts(args)
	words[at] = value
	return resp.AppendCommand(nil, words...)
}

func appendInteger(b []byte, n int64) []byte {
	b = strconv.AppendInt(append(b, ':'), n, 10)
	return append(b, '\r', '\n')
}

// integer reads the number of a reply that is one.
func integer(b []byte) int64 {
	n, _ := strconv.ParseInt(string(bytes.TrimRight(b, "\r\n")), 10, 64)
	return n
}

func itoa(n int) string { return strconv.Itoa(n) }
