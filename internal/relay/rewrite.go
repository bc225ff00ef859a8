package relay

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// What a client says of itself is kept here, and so are the commands that show or change clients: an engine knows
// connections, which may stand for many clients or for none. Each such command still goes to the engine, which says
// whether it is allowed and well-formed; what it answers is then made true. Nothing here decides on a permission.

// noID is a client id that no engine gives out.
const noID = "9223372036854775807"

// special are the commands with more than a place.
var tracked = map[string]command{
	// Some engines (Redis 7.2 to 8.8, Valkey 7.2 to 8.1.1) say nothing to a login that fails while the connection has replies to
	// send.
	"auth":   {affinity: changesIdentity, pin: PinIdentity, prepare: prepareIdentityChange, identityAfter: identityAfterAuth, unpipelined: true},
	"hello":  {affinity: changesIdentity, pin: PinIdentity, prepare: prepareHello, identityAfter: identityAfterHello, unpipelined: true},
	"select": {affinity: changesIdentity, pin: PinIdentity, prepare: prepareIdentityChange, identityAfter: identityAfterSelect},
	"reset":  {affinity: resets, pin: PinState, ask: onReset, unpipelined: true},
	"quit":   {affinity: quits, pin: PinState},

	"multi":   {affinity: dedicated, pin: PinTransaction, ask: onMulti},
	"exec":    {affinity: dedicated, pin: PinTransaction, ask: onExec},
	"discard": {affinity: dedicated, pin: PinTransaction, ask: onDiscard},
	"watch":   {affinity: dedicated, pin: PinWatch, ask: onWatch},
	"unwatch": {affinity: dedicated, pin: PinWatch, ask: onUnwatch},

	"subscribe":    {affinity: dedicated, pin: PinPubSub, prepare: prepareSubscription},
	"psubscribe":   {affinity: dedicated, pin: PinPubSub, prepare: prepareSubscription},
	"ssubscribe":   {affinity: dedicated, pin: PinPubSub, prepare: prepareSubscription},
	"unsubscribe":  {affinity: dedicated, pin: PinPubSub, prepare: prepareSubscription},
	"punsubscribe": {affinity: dedicated, pin: PinPubSub, prepare: prepareSubscription},
	"sunsubscribe": {affinity: dedicated, pin: PinPubSub, prepare: prepareSubscription},
	"monitor":      {affinity: dedicated, pin: PinMonitor, ask: onMonitor},

	"slowlog":             {prepare: prepareCommandLog},
	"commandlog":          {prepare: prepareCommandLog},
	"info":                {ask: &replyHandler{complete: true, answer: showInfo}},
	"client|id":           {ask: &replyHandler{complete: true, answer: showID}},
	"client|getname":      {ask: &replyHandler{complete: true, answer: showName}},
	"client|setname":      {prepare: prepareSetName},
	"client|setinfo":      {prepare: prepareSetInfo},
	"client|info":         {ask: &replyHandler{complete: true, answer: showClient}},
	"client|list":         {prepare: prepareList},
	"client|kill":         {prepare: prepareKill},
	"client|unblock":      {prepare: prepareUnblock},
	"client|pause":        {prepare: preparePause},
	"client|unpause":      {ask: onUnpause},
	"client|getredir":     {ask: &replyHandler{complete: true, answer: showRedirect}},
	"client|trackinginfo": {ask: &replyHandler{complete: true, answer: showTracking}},
	"client|tracking":     {affinity: pinsUntilReset, pin: PinTracking, prepare: prepareTracking, blockUntil: awaitsTarget},
}

func isOK(reply []byte) bool     { return bytes.HasPrefix(reply, []byte("+OK")) }
func isQueued(reply []byte) bool { return bytes.HasPrefix(reply, []byte("+QUEUED")) }

// onLine is an ask that looks at replies of one line.
func onLine(f func(s *Session, reply []byte)) *replyHandler {
	return &replyHandler{answer: func(_ *upstream, s *Session, reply []byte) []byte {
		f(s, reply)
		return reply
	}}
}

var (
	onMulti = onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.multi, s.queued, s.queuedAny = true, nil, false
		}
	})
	// A command that the engine does not know either, or does not allow, leaves nothing behind: client libraries try what newer
	// engines have.
	onUnknown = onLine(func(s *Session, reply []byte) {
		s.unknownEffects--
		if !bytes.HasPrefix(reply, []byte("-ERR unknown ")) && !bytes.HasPrefix(reply, []byte("-NOPERM")) && !bytes.HasPrefix(reply, []byte("-NOAUTH")) {
			s.dirtyUntilReset, s.dirtyForGood = true, true
		}
	})
	onWatch   = onLine(func(s *Session, reply []byte) { s.watch = s.watch || isOK(reply) })
	onDiscard = onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.endTransaction()
		}
	})
	onUnwatch = onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.watch = false
		}
	})
	// Of the errors only EXECABORT ends a transaction: one that was never begun, or EXEC with an argument, does not.
	onExec = &replyHandler{exec: true, answer: func(u *upstream, s *Session, reply []byte) []byte {
		switch {
		case reply == nil:
		case reply[0] == '*' && s.queuedAny:
			reply = s.executed(u, reply)
		case reply[0] == '-' && !bytes.HasPrefix(reply, []byte("-EXECABORT")):
			return reply
		}
		s.endTransaction()
		return reply
	}}
	// inTransaction is for the requests between MULTI and EXEC that nothing else is to be done about.
	inTransaction = &replyHandler{answer: func(_ *upstream, s *Session, reply []byte) []byte {
		if reply != nil && isQueued(reply) {
			s.queued = append(s.queued, nil)
		}
		return reply
	}}
	// A login in a transaction may lack its answer among EXEC's, so who the client is from then on is not known.
	queuedLogin = onLine(func(s *Session, reply []byte) {
		if isQueued(reply) {
			s.queued = append(s.queued, nil)
			s.dirtyUntilReset, s.dirtyForGood = true, true
		}
	})
	onMonitor = onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.subscriber.monitor = true
			s.loop.group.monitors.add(s)
			s.isSubscriber.Store(true)
		} else if isQueued(reply) {
			s.passRest()
		}
	})
	onReset = onLine(func(s *Session, reply []byte) {
		if !bytes.HasPrefix(reply, []byte("+RESET")) {
			s.resetting = false
			return
		}
		s.hasReset()
	})
	onUnpause = onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.loop.group.pausedUntil.Store(0)
		}
	})
)

// count is for how many requests an ask is.
func (a *replyHandler) requests() int {
	if a == nil {
		return 1
	}
	return max(1, a.count)
}

// later is an ask that waits for EXEC, if the engine queues the request. Of several requests that are one to the client,
// one reply is shown: a refusal, if there is one.
func (a *replyHandler) later() *replyHandler {
	var replies [][]byte
	return &replyHandler{complete: a.complete, count: a.count, answer: func(u *upstream, s *Session, reply []byte) []byte {
		if a.requests() > 1 {
			if replies = append(replies, bytes.Clone(reply)); len(replies) < a.requests() {
				return nil
			}
		} else {
			replies = [][]byte{reply}
		}
		queued := 0
		for _, r := range replies {
			if r != nil && isQueued(r) {
				s.queued, s.queuedAny = append(s.queued, a), true
				queued++
			} else {
				reply = r
			}
		}
		if queued > 0 {
			return reply
		}
		for _, r := range replies {
			reply = a.answer(u, s, r)
		}
		return reply
	}}
}

// executed does with the replies in EXEC's what would have been done with each by itself.
func (s *Session) executed(u *upstream, reply []byte) []byte {
	v, n, err := resp.ParseReply(reply, resp.Limits{MaxBulk: maxBufferedReply})
	if err != nil || n != len(reply) || len(v.Elems) != len(s.queued) {
		s.dirtyUntilReset = true // what it has come to is not known
		return reply
	}
	var all []byte
	left := len(v.Elems)
	for i, a := range s.queued {
		one := resp.Append(nil, v.Elems[i])
		if a != nil {
			if one = a.answer(u, s, one); one == nil {
				left--
			}
		}
		all = append(all, one...)
	}
	out := strconv.AppendInt([]byte{'*'}, int64(left), 10)
	return append(append(out, '\r', '\n'), all...)
}

func (s *Session) hasReset() {
	s.endTransaction()
	s.dirtyForGood = s.dirtyForGood && !s.resetting // the connection is left, with all that is on it
	s.dirtyUntilReset, s.resetting = s.dirtyForGood, false
	s.loop.group.monitors.remove(s)
	s.subscriber = subscriber{pendingConfirmations: s.subscriber.pendingConfirmations}
	s.isSubscriber.Store(false)
	s.auth, s.secret = s.loop.group.backend.Load().Auth, nil // the engine has logged it out, if there is anything to log in to
	s.redirect.Store(0)
	s.setIdentity(s.identity.afterReset())
}

// afterReset is what RESET leaves: engines that know a library's name (from 7.2 on) keep it.
func (id identity) afterReset() identity {
	return identity{proto: 2, libName: id.libName, libVer: id.libVer}
}

func (s *Session) endTransaction() {
	s.multi, s.watch, s.queued, s.queuedAny = false, false, nil, false
}

// become is called when the engine has accepted who the client is.
func (s *Session) setIdentity(id identity) {
	s.identity, s.shared = id, nil
	if s.dedicated != nil {
		s.dedicated.key = s.keyFor(&Backend{Engine: s.dedicated.key.engine}, id)
	}
	s.publish()
}

// publish shows others what the client has become.
func (s *Session) publish() {
	shown := s.identity
	s.published.Store(&shown)
}

// leadAuth says who AUTH would make of a client.
func identityAfterAuth(id identity, args [][]byte) (identity, bool) {
	switch len(args) {
	case 2:
		id.user = "default"
	case 3:
		id.user = string(args[1])
	default:
		return id, false
	}
	return id, true
}

func identityAfterSelect(id identity, args [][]byte) (identity, bool) {
	if len(args) != 2 {
		return id, false
	}
	n, err := strconv.Atoi(string(args[1]))
	if err != nil || itoa(n) != string(args[1]) || n < 0 {
		return id, false
	}
	id.db = n
	return id, true
}

// leadHello knows the requests that fail as a whole or not at all.
func identityAfterHello(id identity, args [][]byte) (identity, bool) {
	if len(args) == 1 {
		return id, true
	}
	if v := string(args[1]); v != "2" && v != "3" {
		return id, false
	}
	id.proto = int(args[1][0] - '0')
	args = args[2:]
	if len(args) >= 3 && equalFold(args[0], "auth") {
		id.user = string(args[1])
		args = args[3:]
	}
	if len(args) >= 2 && equalFold(args[0], "setname") && isName(args[1]) {
		id.name = string(args[1])
		args = args[2:]
	}
	return id, len(args) == 0
}

// loggedIn are the credentials in a request that the engine has accepted; nil where there are none.
func credentialsIn(args [][]byte) credentials {
	switch {
	case equalFold(args[0], "auth") && len(args) == 2:
		return credentials{string(args[1])}
	case equalFold(args[0], "auth") && len(args) == 3:
		return credentials{string(args[1]), string(args[2])}
	case equalFold(args[0], "hello") && len(args) >= 5 && equalFold(args[2], "auth"):
		return credentials{string(args[3]), string(args[4])}
	}
	return nil
}

func prepareIdentityChange(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) == 0 {
		return raw, nil
	}
	moved := s.onIdentityReply(args)
	return raw, &replyHandler{complete: true, answer: func(u *upstream, s *Session, reply []byte) []byte {
		reply = u.loginAnswer(reply)
		moved(u, reply)
		return reply
	}}
}

func prepareHello(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	moved := s.onIdentityReply(args)
	return raw, &replyHandler{complete: true, answer: func(u *upstream, s *Session, reply []byte) []byte {
		reply = u.loginAnswer(reply)
		moved(u, reply)
		return withField(reply, "id", func(resp.Value) resp.Value {
			return resp.Value{Kind: resp.Integer, Int: s.id}
		})
	}}
}

// mover returns what notes what became of AUTH, HELLO or SELECT. Where it leads is only known when its turn has come:
// what was asked before may be such a request as well, or change the name.
func (s *Session) onIdentityReply(args [][]byte) func(u *upstream, reply []byte) {
	leads, secret := s.cmd.identityAfter, credentialsIn(args)
	kept := make([][]byte, len(args))
	for i, a := range args {
		kept[i] = bytes.Clone(a)
	}
	return func(u *upstream, reply []byte) {
		next, known := leads(s.identity, kept)
		s.identityReplied(u, next, known, secret, reply)
	}
}

// nowIs notes what became of AUTH, HELLO or SELECT.
func (s *Session) identityReplied(u *upstream, next identity, known bool, secret credentials, reply []byte) {
	failed := reply[0] == '-'
	accepted := isOK(reply) || reply[0] == '*' || reply[0] == '%' // HELLO's answer is a list
	switch {
	case isQueued(reply), !known && (!failed || secret != nil), !accepted && !failed:
		s.dirtyUntilReset = true // what it comes to is not followed
	case failed:
		if s.dedicated == u && s.isBorrowed(u) {
			s.releaseDedicated() // it was one of what the client did not become
		}
	default:
		if secret != nil {
			s.secret = secret
			u.letsInWithoutAuth = true
		}
		before, anothers := u.key, s.dedicated == u && s.isBorrowed(u)
		s.setIdentity(next)
		if anothers {
			if u.key.db = before.db; isOK(reply) {
				u.key.proto = before.proto // only HELLO changes it
			}
			if s.isBorrowed(u) {
				s.releaseDedicated() // it has logged in, and the client goes on with one in its own database and protocol
				break
			}
		}
		if u.id == idUnknown && u.client == s {
			u.askEngineID()
			u.flushLater()
		}
	}
}

func prepareSetName(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) != 3 {
		return raw, nil
	}
	name := string(args[2])
	// A connection that stands for many has a name of its own at a server which others look at too.
	if b := s.loop.group.backend.Load(); b.remote() && s.dedicated == nil && isName(args[2]) {
		raw = resp.AppendCommand(nil, "CLIENT", "SETNAME", b.Name)
	}
	return raw, &replyHandler{answer: func(u *upstream, s *Session, reply []byte) []byte {
		if isOK(reply) {
			s.identity.name = name
			s.publish()
			if u.client == s {
				u.connName = name
			}
		}
		return reply
	}}
}

func prepareSetInfo(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) != 4 {
		return raw, nil
	}
	value, version := string(args[3]), equalFold(args[2], "lib-ver")
	return raw, onLine(func(s *Session, reply []byte) {
		if !isOK(reply) {
			// Engines before 7.2 don't know the command.
			if !version && isName([]byte(value)) {
				s.claimedLibrary.Store(&value)
			}
			return
		}
		if version {
			s.identity.libVer = value
		} else {
			s.identity.libName = value
		}
		s.publish()
	})
}

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
	case s.identity.name != "":
		return resp.Append(nil, resp.Value{Kind: resp.Bulk, Str: s.identity.name})
	case s.identity.proto == 3:
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
		return s.line(parseLine(text), !u.shared, view{s, "client|info", s.loop.now}).String() + "\n"
	})
}

func prepareUnblock(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) < 3 {
		return raw, nil
	}
	return withArgument(args, 2, s.loop.group.clients.engineID(args[2], s.loop.group.trackedEngineIDs())), nil
}

func prepareTracking(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	target := int64(0)
	for i := 3; i+1 < len(args); i++ {
		if equalFold(args[i], "redirect") {
			target = number(string(args[i+1]))
			raw = withArgument(args, i+1, s.loop.group.clients.engineID(args[i+1], s.loop.group.trackedEngineIDs()))
			break
		}
	}
	return raw, onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.redirect.Store(target)
		}
	})
}

// awaitsTarget gives the client that is to be sent the invalidations a connection of its own first.
func awaitsTarget(s *Session, args [][]byte) bool {
	for i := 3; i+1 < len(args); i++ {
		if !equalFold(args[i], "redirect") {
			continue
		}
		if target := s.loop.group.clients.find(args[i+1]); target != nil && target.engineID.Load() == 0 {
			if target == s {
				return false // its own is on its way
			}
			target.loop.post(func() {
				target.needDedicated = append(target.needDedicated, s)
				target.maybeClose()
				target.loop.again(&target.conn.socket)
			})
			return true
		}
	}
	return false
}

func showRedirect(_ *upstream, s *Session, reply []byte) []byte {
	if n := integer(reply[1:]); reply[0] == ':' && n > 0 {
		return appendInteger(nil, s.redirectedTo(n))
	}
	return reply
}

func showTracking(_ *upstream, s *Session, reply []byte) []byte {
	return withField(reply, "redirect", func(v resp.Value) resp.Value {
		if v.Int > 0 {
			v.Int = s.redirectedTo(v.Int)
		}
		return v
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

// isName is the engine's rule for the names of clients.
func isName(name []byte) bool {
	for _, c := range name {
		if c < '!' || c > '~' {
			return false
		}
	}
	return true
}

func equalFold(arg []byte, word string) bool { return strings.EqualFold(string(arg), word) }

func withArgument(args [][]byte, at int, value string) []byte {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = string(a)
	}
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
