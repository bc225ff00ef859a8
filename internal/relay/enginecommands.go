package relay

import (
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// What package routing has no entry for is asked of the engine, when the first shared connection to it is made.

// engineCommands are what an engine has said of its commands.
type engineCommands struct {
	engine   string
	commands routing.EngineCommands
}

var commandsRequest = resp.AppendCommand(nil, "COMMAND")

// find returns the command of a request whose first two arguments are these, in lower case.
func (l *loop) find(name, second []byte) *routing.Command {
	var known routing.EngineCommands
	if e := l.group.commands.Load(); e != nil {
		known = e.commands
	}
	return routing.Find(name, second, known)
}

// hasCommands says whether an engine has said what its commands are.
func (ls *Loops) hasCommands(engine string) bool {
	known := ls.commands.Load()
	return known != nil && known.engine == engine
}

// dropCommands is called when an engine has gone: the next one of that name may be another version.
func (ls *Loops) dropCommands(engine string) {
	if known := ls.commands.Load(); known != nil && known.engine == engine {
		ls.commands.CompareAndSwap(known, nil)
	}
}

// fetchCommands asks for the engine's commands, if they are not known yet and nobody asks. The connection is not ready before they
// are.
func (u *upstream) fetchCommands() {
	g := u.loop.group
	if !u.shared || g.hasCommands(u.key.engine) || !g.fetching.CompareAndSwap(nil, u) && g.fetching.Load() != u {
		return
	}
	u.setupPending++
	u.ask(commandsRequest, onCommands)
}

var onCommands = &replyHandler{complete: true}

func init() {
	onCommands.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		// Whose user may not ask is told nothing; another's may.
		if v, n, err := resp.ParseReply(reply, resp.Limits{}); err == nil && n == len(reply) && v.Kind == resp.Array {
			u.loop.group.commands.Store(&engineCommands{u.key.engine, routing.ParseCommandInfo(v.Elems)})
		}
		u.commandsFetched()
		u.setupReplied()
		return nil
	}
}

// commandsFetched lets those go on that waited for what the engine says of its commands, whether it has or not.
func (u *upstream) commandsFetched() {
	if !u.loop.group.fetching.CompareAndSwap(u, nil) {
		return
	}
	for _, l := range u.loop.group.all {
		l.post(func() {
			for _, s := range l.awaitingCommands {
				if s.phase != closed {
					s.conn.requeue()
				}
			}
			l.awaitingCommands = nil
		})
	}
}

// blockUntilCommands makes a request wait until it is known whether the engine knows its command, and says whether it has to.
func (s *Session) blockUntilCommands(b *Backend) bool {
	if s.input.cmd != routing.Unknown || !(b.Multiplexed && s.dedicated == nil || b.ReadOnly) || s.input.passingHead || s.loop.group.hasCommands(b.Engine) {
		return false
	}
	u := s.loop.sharedConn(s, s.input.cmd)
	if s.loop.group.fetching.Load() != nil {
		s.loop.awaitingCommands = append(s.loop.awaitingCommands, s)
		return true
	}
	if u.ready || u.closed {
		return false
	}
	u.block(s)
	return true
}
