package relay

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/clientlist"
	"github.com/sealane/sealane/internal/resp"
)

// CLIENT LIST and CLIENT KILL. The engine is asked first whether it would do what the client wants, in words that match no
// connection there: so it says what is allowed, which filters there are and what is wrong with them. Which clients are meant is
// then decided here, by what CLIENT LIST shows of each.

var (
	listRequest    = resp.AppendCommand(nil, "CLIENT", "LIST")
	manyIDsRequest = resp.AppendCommand(nil, "CLIENT", "KILL", "ID", clientlist.NoID, clientlist.NoID)
	syntaxError    = []byte("-ERR syntax error\r\n")
)

// selection says which clients are meant.
type selection struct {
	clientlist.Filter
	except *Session // who asks, with SKIPME yes
}

// clientView is who looks at clients, by which command, and when.
type clientView struct {
	by      *Session
	command string
	now     time.Time
}

// of is what is known of a client. When the engine shows a client to itself, it has not done the commands yet that are in
// flight.
func (v clientView) of(s *Session) *clientlist.Client {
	id, a := s.profile.identity.Load(), &s.activity
	c := &clientlist.Client{
		ID: s.id, Addr: s.cfg.address(s.cfg.Remote), LAddr: s.cfg.address(s.cfg.Local), FD: s.conn.FD(),
		Name: id.Name, LibName: id.LibName, LibVer: id.LibVer, User: s.userName(id), DB: id.DB, Proto: id.Proto,
		Age: v.now.Sub(s.began), Idle: v.now.Sub(time.Unix(0, a.lastRequest.Load())),
		BytesIn: a.bytesIn.Load(), BytesOut: a.bytesOut.Load(), Commands: a.commands.Load(), LastCommand: s.lastCommandName(),
		UnixSocket: s.cfg.Path != "", Monitor: s.loop.group.monitors.Watches(s.id), Subscriber: s.profile.subscriber.Load(),
		RedirectedTo: s.redirectedTo,
	}
	if s == v.by {
		c.LastCommand = v.command // it may have gone on
		c.Commands -= uint64(s.state.InFlight()) + 1
	}
	return c
}

func prepareList(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) == 2 {
		return raw, &replyHandler{complete: true, answer: func(_ *upstream, s *Session, reply []byte) []byte {
			return withText(reply, func(text string) string { return s.listClients(text, selection{}) })
		}}
	}
	f, words := clientlist.ParseFilter(args[2:])
	sel := selection{Filter: f}
	if strings.EqualFold(f.Value("skipme"), "yes") {
		sel.except = s
	}
	out := resp.AppendCommand(nil, append([]string{"CLIENT", "LIST"}, words...)...)
	return append(out, listRequest...), together(2, func(_ *upstream, s *Session, replies [][]byte) []byte {
		switch {
		case isError(replies[0]):
			return replies[0]
		case f.Unknown:
			return syntaxError // the engine knows more filters than are known here
		}
		return withText(replies[1], func(text string) string { return s.listClients(text, sel) })
	})
}

func isError(reply []byte) bool { return reply[0] == '-' || reply[0] == '!' }

// kill is one CLIENT KILL.
type kill struct {
	selection
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
		k.Filter = clientlist.ByAddress(string(args[2]))
	} else if k.Filter, words = clientlist.ParseFilter(args[2:]); !strings.EqualFold(k.Value("skipme"), "no") {
		k.except = s
	}
	remote := s.loop.group.backend.Load().remote()
	if remote && k.isOther(s.loop.group) {
		return raw, nil
	}
	// What comes first can't be taken for something else by what follows.
	out := resp.AppendCommand(nil, append([]string{"CLIENT", "KILL", "ID", clientlist.NoID, "SKIPME", "yes"}, words...)...)
	n := 1
	if k.IDWords > 1 {
		k.manyIDs = n
		out = append(out, manyIDsRequest...)
		n++
	}
	if remote || k.Has(clientlist.OfTheConnection...) {
		k.list = n
		out = append(out, listRequest...)
		n++
	}
	return out, together(n, k.answer)
}

// isOther says that a client of the remote server is meant which does not come from here, by its id.
func (k *kill) isOther(g *Loops) bool {
	if len(k.IDs) != 1 || k.IDWords != 1 || !k.OnlyIDs() {
		return false
	}
	return g.clients.find([]byte(strconv.FormatInt(k.LastID, 10))) == nil && !slices.Contains(g.trackedEngineIDs(), k.LastID)
}

func (k *kill) answer(u *upstream, s *Session, replies [][]byte) []byte {
	if replies[0][0] != ':' {
		return replies[0]
	}
	if k.Unknown {
		return syntaxError // the engine knows more filters than are known here
	}
	if k.manyIDs > 0 && isError(replies[k.manyIDs]) {
		k.AsRedis()
	}
	list := ""
	if k.list > 0 {
		reply := replies[k.list]
		if isError(reply) && (s.loop.group.backend.Load().remote() || k.Has("flags", "capa")) {
			return reply // who may not see the clients can't choose among them
		}
		withText(reply, func(text string) string { list = text; return text })
	}
	n := k.killOthers(u, list) + k.killClients(s, list)
	switch {
	case !k.byAddress:
		return appendInteger(nil, int64(n))
	case n == 0:
		return []byte("-ERR No such client\r\n")
	}
	return []byte("+OK\r\n")
}

// killClients ends the clients that are meant. The one that asks gets its answer first.
func (k *kill) killClients(by *Session, list string) int {
	n := 0
	lines, v := connectionLines(list), clientView{by, "client|kill", by.loop.now}
	for _, s := range by.loop.group.clients.sorted() {
		engine, dedicated := lines.of(s)
		if s == k.except || !k.Matches(v.of(s).Line(engine, dedicated)) {
			continue
		}
		n++
		if s == by {
			s.quit(Killed)
			continue
		}
		s.loop.post(func() { s.closeNotify(Killed) })
	}
	return n
}

// killOthers ends those clients of a remote server that do not come from here: each by its id, so that it can be no connection
// of ours.
func (k *kill) killOthers(u *upstream, list string) int {
	n := 0
	for _, line := range u.loop.group.otherClients(list) {
		if k.Matches(line) {
			n++
			u.ask(resp.AppendCommand(nil, "CLIENT", "KILL", "ID", line.Get("id")), onOptional)
			u.flushLater()
		}
	}
	return n
}

// engineLines are the lines of the engine's CLIENT LIST.
type engineLines struct {
	byID map[int64]clientlist.Line
	any  clientlist.Line // one of them, for its fields
}

func connectionLines(list string) engineLines {
	lines := engineLines{byID: make(map[int64]clientlist.Line), any: clientlist.Short}
	for text := range strings.Lines(list) {
		line := clientlist.Parse(text)
		lines.byID[line.Number("id")] = line
		lines.any = line
	}
	return lines
}

// of returns the line of the client's dedicated connection, or one that only shows which fields there are.
func (l engineLines) of(s *Session) (line clientlist.Line, dedicated bool) {
	if e := s.profile.engineID.Load(); e > 0 {
		if line, dedicated = l.byID[e]; dedicated {
			return line, true
		}
	}
	return l.any, false
}

// listClients turns the engine's list of its connections into that of the clients.
func (s *Session) listClients(engine string, sel selection) string {
	var b strings.Builder
	show := func(line clientlist.Line) {
		if sel.Matches(line) {
			b.WriteString(line.String())
			b.WriteByte('\n')
		}
	}
	for _, line := range s.loop.group.otherClients(engine) {
		show(line)
	}
	lines, v := connectionLines(engine), clientView{s, "client|list", s.loop.now}
	for _, c := range s.loop.group.clients.sorted() {
		if c == sel.except {
			continue
		}
		line, dedicated := lines.of(c)
		show(v.of(c).Line(line, dedicated))
	}
	return b.String()
}

// otherClients are the lines of a remote server's clients that do not come from here.
func (ls *Loops) otherClients(list string) []clientlist.Line {
	if !ls.backend.Load().remote() || ls.idsUntold.Load() {
		return nil // none, or they can't be told from our own connections
	}
	ours := ls.trackedEngineIDs()
	var others []clientlist.Line
	for text := range strings.Lines(list) {
		if line := clientlist.Parse(text); !slices.Contains(ours, line.Number("id")) {
			others = append(others, line)
		}
	}
	return others
}
