package relay

import (
	"bytes"
	"slices"
	"strings"

	"github.com/sealane/sealane/internal/resp"
)

// What commands.go doesn't know is asked of the engine, when the first shared connection to it is made: COMMAND tells the
// flags and the ACL categories of each command and subcommand. They prove little, so that little is what is believed:
//
// A command of the engine's own that is flagged readonly or write works on the data. If it may also be called by scripts
// (no noscript) and within transactions (no no_multi), is not blocking, and is not of the categories whose commands change
// connections, then it leaves nothing behind, is answered once and does not wait: it may be shared.
//
// A module's is never shared: modules may block clients without a flag (VSIM does). One that works on data gets a
// connection of its own for as long as it takes, and so does what else the engine has that is of no such category. What
// these may have left there is nothing that their client counts on; RESET removes it before anybody else comes.
//
// All others may be made to change the connection for what the client asks next. Their client keeps its connection.

// learnt are the commands of one engine by their names, in lower case and with their subcommands: "client|list".
type engineCommands struct {
	engine   string
	commands map[string]*command
}

var commandsRequest = resp.AppendCommand(nil, "COMMAND")

// find returns the command of a request whose first two arguments are these, in lower case.
func (l *loop) find(name, second []byte) *command {
	c := find(name, second)
	if c != unknown {
		return c
	}
	known := l.group.commands.Load()
	if known == nil {
		return c
	}
	if k := known.commands[string(name)]; k != nil && k != container {
		return k
	} else if k == container && second != nil {
		if k := known.commands[string(name)+"|"+string(second)]; k != nil {
			return k
		}
	}
	return c
}

// container stands for a command that is only known with its subcommands.
var container = &command{name: "NULL"}

// knows says whether an engine's commands have been learnt.
func (ls *Loops) hasCommands(engine string) bool {
	known := ls.commands.Load()
	return known != nil && known.engine == engine
}

// forget is called when an engine has gone: the next one of that name may be another version.
func (ls *Loops) dropCommands(engine string) {
	if known := ls.commands.Load(); known != nil && known.engine == engine {
		ls.commands.CompareAndSwap(known, nil)
	}
}

// learn asks for the engine's commands, if they are not known yet and nobody asks. The connection is not ready before they
// are.
func (u *upstream) fetchCommands() {
	g := u.loop.group
	if !u.shared || g.hasCommands(u.key.engine) || !g.fetching.CompareAndSwap(nil, u) && g.fetching.Load() != u {
		return
	}
	u.setupPending++
	_, _ = u.Write(commandsRequest)
	u.pendingReplies.push(pendingReply{count: 1, handler: onCommands})
}

var onCommands = &replyHandler{complete: true}

func init() {
	onCommands.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		// Whose user may not ask learns nothing; another's may.
		if v, n, err := resp.ParseReply(reply, resp.Limits{}); err == nil && n == len(reply) && v.Kind == resp.Array {
			u.loop.group.commands.Store(&engineCommands{u.key.engine, parseCommandInfo(v.Elems)})
		}
		u.commandsFetched()
		u.setupReplied()
		return nil
	}
}

// asksNoMore lets those go on that waited for what the engine says of its commands, whether it has or not.
func (u *upstream) commandsFetched() {
	if !u.loop.group.fetching.CompareAndSwap(u, nil) {
		return
	}
	for _, l := range u.loop.group.all {
		l.post(func() {
			for _, s := range l.awaitingCommands {
				if !s.closed {
					l.again(&s.conn.socket)
				}
			}
			l.awaitingCommands = nil
		})
	}
}

// awaitsCommands says that it has to be known first whether the engine knows a command.
func (s *Session) blockUntilCommands(b *Backend) bool {
	if s.cmd != unknown || !b.Multiplexed || s.dedicated != nil || s.passingHead || s.loop.group.hasCommands(b.Engine) {
		return false
	}
	u := s.loop.sharedConn(s, s.cmd)
	if s.loop.group.fetching.Load() != nil {
		s.loop.awaitingCommands = append(s.loop.awaitingCommands, s)
		return true
	}
	if u.ready || u.closed {
		return false
	}
	if s.blockedOn != u {
		s.blockedOn = u
		u.blocked = append(u.blocked, s)
	}
	return true
}

// learnCommands reads the reply to COMMAND. A list that is not understood teaches nothing.
func parseCommandInfo(list []resp.Value) map[string]*command {
	all := make(map[string]*command)
	for _, v := range list {
		d, ok := parseOneCommand(v)
		if !ok {
			continue
		}
		if len(d.subcommands) == 0 {
			all[d.name] = d.command()
			continue
		}
		all[d.name] = container
		for _, sub := range d.subcommands {
			if d, ok := parseOneCommand(sub); ok {
				all[d.name] = d.command()
			}
		}
	}
	return all
}

// description is what COMMAND says of a command.
type commandInfo struct {
	name              string
	flags, categories []string // in lower case; categories have their @
	subcommands       []resp.Value
}

// describedBy reads an element of COMMAND's reply: name, arity, flags, first key, last key, step, categories, hints, key
// specifications, subcommands. The last three are there from Redis 7.0 on.
func parseOneCommand(v resp.Value) (d commandInfo, ok bool) {
	if len(v.Elems) < 7 {
		return d, false
	}
	d.name = strings.ToLower(v.Elems[0].Str)
	d.flags, d.categories = words(v.Elems[2]), words(v.Elems[6])
	if len(v.Elems) > 9 {
		d.subcommands = v.Elems[9].Elems
	}
	return d, d.name != ""
}

func words(list resp.Value) []string {
	all := make([]string, len(list.Elems))
	for i, e := range list.Elems {
		all[i] = strings.ToLower(e.Str)
	}
	return all
}

func (d *commandInfo) flagged(flags ...string) bool { return haveOneOf(d.flags, flags) }

func (d *commandInfo) isOf(categories ...string) bool { return haveOneOf(d.categories, categories) }

func haveOneOf(all, some []string) bool {
	return slices.ContainsFunc(some, func(one string) bool { return slices.Contains(all, one) })
}

// command is what follows from a description; nil: nothing.
func (d *commandInfo) command() *command {
	data, own := d.flagged("readonly", "write"), !d.flagged("module") && len(d.categories) > 0
	if !data && !own || d.flagged("admin", "pubsub", "no_auth") || d.isOf("@connection", "@transaction", "@pubsub", "@admin") {
		return nil
	}
	reads := own && d.flagged("readonly")
	c := &command{name: d.name, affinity: dedicated, pin: PinUnknown, resetBeforeReuse: true, retrySafe: reads, replySizeVaries: reads}
	proven := data && own && !d.flagged("noscript", "no_multi", "asking") && !d.isOf("@scripting", "@dangerous")
	switch {
	case proven && !d.flagged("blocking") && !d.isOf("@blocking"):
		c.affinity, c.pin, c.resetBeforeReuse = shareable, "", false
	case proven:
		c.pin, c.resetBeforeReuse = PinBlocking, false
	case d.isOf("@scripting"):
		c.pin = PinScript
	}
	return c
}

// clean makes a connection as good as new, on which something may have been left: RESET, and all that its key needs.
func (u *upstream) reset() {
	u.needsReset, u.ready, u.resetting = false, false, true
	u.setupPending++
	_, _ = u.Write(resetRequest)
	u.pendingReplies.push(pendingReply{count: 1, handler: onPoolReset})
	if u.Flush() != nil {
		u.loop.again(&u.socket)
	}
}

var (
	resetRequest = resp.AppendCommand(nil, "RESET")
	onPoolReset  = &replyHandler{complete: true}
)

func init() {
	onPoolReset.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		if !bytes.HasPrefix(reply, []byte("+RESET")) {
			u.fail(&SetupError{string(reply)}) // Redis 6.0 has no RESET
			return nil
		}
		u.setupPending--
		u.connName = ""
		u.prepare()
		return nil
	}
}
