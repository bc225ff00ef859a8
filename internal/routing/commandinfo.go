package routing

import (
	"slices"
	"strings"

	"github.com/sealane/sealane/internal/resp"
)

// What table.go doesn't have is asked of the engine, when the first shared connection to it is made: COMMAND tells the
// flags and the ACL categories of each command and subcommand. Little follows from them:
//
// A command of the engine's own that is flagged readonly or write works on the data. If it may also be called by scripts
// (no noscript) and within transactions (no no_multi), is not blocking, and is not of the categories whose commands change
// connections, then it leaves nothing behind, is answered once and does not wait: it may be shared.
//
// A module's is never shared: modules may block clients without a flag (VSIM does). One that works on data gets a
// dedicated connection for as long as it takes, and so does what else the engine has that is of no such category. What
// these may have left there is nothing that their client counts on; RESET removes it before another client has the connection.
//
// All others may be made to change the connection for what the client asks next. Their client keeps its connection.

// EngineCommands are the commands of one engine by their names, in lower case and with their subcommands: "client|list".
type EngineCommands map[string]*Command

func (e EngineCommands) find(name, second []byte) *Command {
	if c := e[string(name)]; c != nil && c != container {
		return c
	} else if c == container && second != nil {
		if c := e[string(name)+"|"+string(second)]; c != nil {
			return c
		}
	}
	return Unknown
}

// container stands for a command that is only known with its subcommands.
var container = &Command{Name: "NULL"}

// ParseCommandInfo reads the reply to COMMAND. What is not understood of it is left out.
func ParseCommandInfo(list []resp.Value) EngineCommands {
	all := make(EngineCommands)
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

// commandInfo is what COMMAND says of a command.
type commandInfo struct {
	name              string
	flags, categories []string // in lower case; categories have their @
	subcommands       []resp.Value
}

// parseOneCommand reads an element of COMMAND's reply: name, arity, flags, first key, last key, step, categories, hints, key
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
func (d *commandInfo) command() *Command {
	data, own := d.flagged("readonly", "write"), !d.flagged("module") && len(d.categories) > 0
	if !data && !own || d.flagged("admin", "pubsub", "no_auth") || d.isOf("@connection", "@transaction", "@pubsub", "@admin") {
		return nil
	}
	reads := own && d.flagged("readonly")
	c := &Command{Name: d.name, Affinity: Dedicated, Pin: PinUnknown, ResetBeforeReuse: true, RetrySafe: reads, ReplySizeVaries: reads,
		DenyOOM: d.flagged("denyoom"), Writes: d.flagged("write")}
	proven := data && own && !d.flagged("noscript", "no_multi", "asking") && !d.isOf("@scripting", "@dangerous")
	switch {
	case proven && !d.flagged("blocking") && !d.isOf("@blocking"):
		c.Affinity, c.Pin, c.ResetBeforeReuse = Shareable, "", false
	case proven:
		c.Pin, c.ResetBeforeReuse = PinBlocking, false
	case d.isOf("@scripting"):
		c.Pin = PinScript
	}
	return c
}
