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
type learnt struct {
	engine   string
	commands map[string]*command
}

var askCommands = resp.AppendCommand(nil, "COMMAND")

// find returns the command of a request whose first two arguments are these, in lower case.
func (l *loop) find(name, second []byte) *command {
	c := find(name, second)
	if c != unknown {
		return c
	}
	known := l.group.learnt.Load()
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
func (ls *Loops) knows(engine string) bool {
	known := ls.learnt.Load()
	return known != nil && known.engine == engine
}

// forget is called when an engine has gone: the next one of that name may be another version.
func (ls *Loops) forget(engine string) {
	if known := ls.learnt.Load(); known != nil && known.engine == engine {
		ls.learnt.CompareAndSwap(known, nil)
	}
}

// learn asks for the engine's commands, if they are not known yet and nobody asks. The connection is not ready before they
// are.
func (u *upstream) learn() {
	g := u.loop.group
	if !u.shared || g.knows(u.key.engine) || !g.learning.CompareAndSwap(nil, u) && g.learning.Load() != u {
		return
	}
	u.setup++
	_, _ = u.Write(askCommands)
	u.queue.push(waiter{n: 1, ask: askLearnt})
}

var askLearnt = &ask{whole: true}

func init() {
	askLearnt.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		// Whose user may not ask learns nothing; another's may.
		if v, n, err := resp.ParseReply(reply, resp.Limits{}); err == nil && n == len(reply) && v.Kind == resp.Array {
			u.loop.group.learnt.Store(&learnt{u.key.engine, learnCommands(v.Elems)})
		}
		u.asksNoMore()
		u.setUp()
		return nil
	}
}

// asksNoMore lets those go on that waited for what the engine says of its commands, whether it has or not.
func (u *upstream) asksNoMore() {
	if !u.loop.group.learning.CompareAndSwap(u, nil) {
		return
	}
	for _, l := range u.loop.group.all {
		l.post(func() {
			for _, s := range l.awaiting {
				if !s.over {
					l.again(&s.client.socket)
				}
			}
			l.awaiting = nil
		})
	}
}

// awaitsCommands says that it has to be known first whether the engine knows a command.
func (s *Session) awaitsCommands(b *Backend) bool {
	if s.cmd != unknown || !b.Multiplexed || s.own != nil || s.partial || s.loop.group.knows(b.Engine) {
		return false
	}
	u := s.loop.sharedFor(s, s.cmd)
	if s.loop.group.learning.Load() != nil {
		s.loop.awaiting = append(s.loop.awaiting, s)
		return true
	}
	if u.ready || u.closed {
		return false
	}
	if s.waitsFor != u {
		s.waitsFor = u
		u.wake = append(u.wake, s)
	}
	return true
}

// learnCommands reads the reply to COMMAND. A list that is not understood teaches nothing.
func learnCommands(list []resp.Value) map[string]*command {
	all := make(map[string]*command)
	for _, v := range list {
		d, ok := describedBy(v)
		if !ok {
			continue
		}
		if len(d.subcommands) == 0 {
			all[d.name] = d.command()
			continue
		}
		all[d.name] = container
		for _, sub := range d.subcommands {
			if d, ok := describedBy(sub); ok {
				all[d.name] = d.command()
			}
		}
	}
	return all
}

// description is what COMMAND says of a command.
type description struct {
	name              string
	flags, categories []string // in lower case; categories have their @
	subcommands       []resp.Value
}

// describedBy reads an element of COMMAND's reply: name, arity, flags, first key, last key, step, categories, hints, key
// specifications, subcommands. The last three are there from Redis 7.0 on.
func describedBy(v resp.Value) (d description, ok bool) {
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

func (d *description) flagged(flags ...string) bool { return haveOneOf(d.flags, flags) }

func (d *description) isOf(categories ...string) bool { return haveOneOf(d.categories, categories) }

func haveOneOf(all, some []string) bool {
	return slices.ContainsFunc(some, func(one string) bool { return slices.Contains(all, one) })
}

// command is what follows from a description; nil: nothing.
func (d *description) command() *command {
	data, own := d.flagged("readonly", "write"), !d.flagged("module") && len(d.categories) > 0
	if !data && !own || d.flagged("admin", "pubsub", "no_auth") || d.isOf("@connection", "@transaction", "@pubsub", "@admin") {
		return nil
	}
	reads := own && d.flagged("readonly")
	c := &command{name: d.name, place: onOwn, pin: PinUnknown, cleans: true, readOnly: reads, readsValue: reads}
	proven := data && own && !d.flagged("noscript", "no_multi", "asking") && !d.isOf("@scripting", "@dangerous")
	switch {
	case proven && !d.flagged("blocking") && !d.isOf("@blocking"):
		c.place, c.pin, c.cleans = onShared, "", false
	case proven:
		c.pin, c.cleans = PinBlocking, false
	case d.isOf("@scripting"):
		c.pin = PinScript
	}
	return c
}

// clean makes a connection as good as new, on which something may have been left: RESET, and all that its key needs.
func (u *upstream) clean() {
	u.unclean, u.ready, u.cleaning = false, false, true
	u.setup++
	_, _ = u.Write(askReset)
	u.queue.push(waiter{n: 1, ask: askCleaned})
	if u.flush() != nil {
		u.loop.again(&u.socket)
	}
}

var (
	askReset   = resp.AppendCommand(nil, "RESET")
	askCleaned = &ask{whole: true}
)

func init() {
	askCleaned.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		if !bytes.HasPrefix(reply, []byte("+RESET")) {
			u.fail(&SetupError{string(reply)}) // Redis 6.0 has no RESET
			return nil
		}
		u.setup--
		u.called = ""
		u.prepare()
		return nil
	}
}
