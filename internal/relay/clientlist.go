package relay

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// CLIENT LIST and CLIENT KILL. The engine is asked first whether it would do what the client wants, in words that mean
// nobody there: so it says what is allowed, which filters there are and what is wrong with them. Who is meant is then
// decided here, by what CLIENT LIST shows of each client.

var (
	listRequest    = resp.AppendCommand(nil, "CLIENT", "LIST")
	manyIDsRequest = resp.AppendCommand(nil, "CLIENT", "KILL", "ID", noID, noID)
	syntaxError    = []byte("-ERR syntax error\r\n")
)

func prepareList(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) == 2 {
		return raw, &replyHandler{complete: true, answer: func(_ *upstream, s *Session, reply []byte) []byte {
			return withText(reply, func(text string) string { return s.loop.group.clients.list(s, text, filter{}, s.loop.now) })
		}}
	}
	f, words := parseFilter(args[2:])
	if f.values["skipme"] != "" && equalFold([]byte(f.values["skipme"]), "yes") {
		f.leaveOut = s
	}
	out := resp.AppendCommand(nil, append([]string{"CLIENT", "LIST"}, words...)...)
	return append(out, listRequest...), together(2, func(_ *upstream, s *Session, replies [][]byte) []byte {
		switch {
		case isError(replies[0]):
			return replies[0]
		case f.strange:
			return syntaxError // the engine knows more filters than are known here
		}
		return withText(replies[1], func(text string) string { return s.loop.group.clients.list(s, text, f, s.loop.now) })
	})
}

func isError(reply []byte) bool { return reply[0] == '-' || reply[0] == '!' }

// killing is one CLIENT KILL.
type kill struct {
	filter
	byAddress bool // the old form, CLIENT KILL addr
	manyIDs   int  // which of the replies says whether an engine goes by all ids; 0: none
	list      int  // which of the replies is the engine's list of connections; 0: none
}

func prepareKill(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) < 3 {
		return raw, nil
	}
	k := kill{byAddress: len(args) == 3}
	var words []string
	if k.byAddress {
		k.values = map[string]string{"addr": string(args[2])}
	} else if k.filter, words = parseFilter(args[2:]); !equalFold([]byte(k.values["skipme"]), "no") {
		k.leaveOut = s
	}
	remote := s.loop.group.backend.Load().remote()
	if remote && k.isOther(s) {
		return raw, nil
	}
	// What comes first can't be taken for something else by what follows.
	out := resp.AppendCommand(nil, append([]string{"CLIENT", "KILL", "ID", noID, "SKIPME", "yes"}, words...)...)
	n := 1
	if k.idWords > 1 {
		k.manyIDs = n
		out = append(out, manyIDsRequest...)
		n++
	}
	if remote || k.asks(ofTheConnection...) {
		k.list = n
		out = append(out, listRequest...)
		n++
	}
	return out, together(n, k.answer)
}

// isOther says that another client of the server is meant, by its id.
func (k *kill) isOther(s *Session) bool {
	if len(k.ids) != 1 || k.idWords != 1 || len(k.values) > 0 || k.notIDs != nil || k.strange {
		return false
	}
	g := s.loop.group
	return g.clients.find([]byte(strconv.FormatInt(k.lastID, 10))) == nil && !slices.Contains(g.trackedEngineIDs(), k.lastID)
}

func (k *kill) answer(u *upstream, s *Session, replies [][]byte) []byte {
	if replies[0][0] != ':' {
		return replies[0]
	}
	if k.strange {
		return syntaxError // the engine knows more filters than are known here
	}
	if k.manyIDs > 0 && isError(replies[k.manyIDs]) {
		k.asRedis()
	}
	list := ""
	if k.list > 0 {
		reply := replies[k.list]
		if isError(reply) && (s.loop.group.backend.Load().remote() || k.asks("flags", "capa")) {
			return reply // who may not see who is there can't choose among them
		}
		withText(reply, func(text string) string { list = text; return text })
	}
	n := s.killOthers(u, list, k.filter) + s.kill(list, k.filter)
	switch {
	case !k.byAddress:
		return appendInteger(nil, int64(n))
	case n == 0:
		return []byte("-ERR No such client\r\n")
	}
	return []byte("+OK\r\n")
}

// kill ends the clients that are meant. The one that asked gets its answer first.
func (s *Session) kill(list string, f filter) int {
	n := 0
	lines, v := connectionLines(list), view{s, "client|kill", s.loop.now}
	for _, c := range s.loop.group.clients.sorted() {
		engine, dedicated := lines.of(c)
		if c == f.leaveOut || !f.matches(c.line(engine, dedicated, v)) {
			continue
		}
		n++
		if c == s {
			s.quit(Killed)
			continue
		}
		c.loop.post(func() { c.closeNotify(Killed) })
	}
	return n
}

// killOthers ends those clients of a far server that do not come from here: each by its id, so that no connection of ours
// can be meant.
func (s *Session) killOthers(u *upstream, list string, f filter) int {
	n := 0
	for _, line := range s.loop.group.otherClients(list) {
		if f.matches(line) {
			n++
			u.ask(resp.AppendCommand(nil, "CLIENT", "KILL", "ID", line.get("id")), onOptional)
			u.flushLater()
		}
	}
	return n
}

// engineLines are the lines of the engine's CLIENT LIST.
type engineLines struct {
	byID map[int64]clientLine
	any  clientLine // one of them, for its fields
}

func connectionLines(list string) engineLines {
	lines := engineLines{byID: make(map[int64]clientLine), any: shortLine}
	for text := range strings.Lines(list) {
		line := parseLine(text)
		lines.byID[line.number("id")] = line
		lines.any = line
	}
	return lines
}

// of returns the line of the client's dedicated connection, or one that only shows which fields there are.
func (l engineLines) of(s *Session) (line clientLine, dedicated bool) {
	if e := s.profile.engineID.Load(); e > 0 {
		if line, dedicated = l.byID[e]; dedicated {
			return line, true
		}
	}
	return l.any, false
}

// list turns the engine's list of its connections into that of the clients.
func (r *registry) list(asks *Session, engine string, f filter, now time.Time) string {
	var b strings.Builder
	show := func(line clientLine) {
		if f.matches(line) {
			b.WriteString(line.String())
			b.WriteByte('\n')
		}
	}
	for _, line := range asks.loop.group.otherClients(engine) {
		show(line)
	}
	lines, v := connectionLines(engine), view{asks, "client|list", now}
	for _, s := range r.sorted() {
		if s == f.leaveOut {
			continue
		}
		line, dedicated := lines.of(s)
		show(s.line(line, dedicated, v))
	}
	return b.String()
}

// otherClients are the lines of a far server's clients that do not come from here.
func (ls *Loops) otherClients(list string) []clientLine {
	if !ls.backend.Load().remote() {
		return nil
	}
	ours := ls.trackedEngineIDs()
	var others []clientLine
	for text := range strings.Lines(list) {
		if line := parseLine(text); !slices.Contains(ours, line.number("id")) {
			others = append(others, line)
		}
	}
	return others
}
