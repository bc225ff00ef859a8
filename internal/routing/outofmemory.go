package routing

import "strings"

// While the memory of an instance is used up, requests are refused as an engine refuses them that has reached maxmemory and can
// evict nothing. Which ones these are is the engine's own rule: the commands with the flag denyoom in COMMAND's reply, and between
// MULTI and EXEC every command, because what is queued takes memory too.

// denyOOM are the commands that all engines flag so. COMMAND is asked about those that are not known here.
const denyOOM = `
append bitfield bitop blmove brpoplpush copy decr decrby function|load function|restore geoadd georadius georadiusbymember
geosearchstore getset hincrby hincrbyfloat hmset hset hsetex hsetnx incr incrby incrbyfloat increx linsert lmove lpush lpushx lset
mset msetex msetnx pfadd pfdebug pfmerge psetex restore restore-asking rpoplpush rpush rpushx sadd sdiffstore set setbit setex
setnx setrange sinterstore sort sunionstore vadd vadd|cas xadd xsetid zadd zdiffstore zincrby zinterstore zrangestore zunionstore`

// enginesOwn are those of denyOOM that no client uses, so that table.go doesn't have them.
var enginesOwn = map[string]bool{"pfdebug": true, "restore-asking": true}

// readOnlyForms are the commands that run scripts and functions, and the form of each that lets them read only (Redis 7.0).
var readOnlyForms = map[string]string{"eval": "EVAL_RO", "evalsha": "EVALSHA_RO", "fcall": "FCALL_RO"}

// addOutOfMemory enters what becomes of commands while there is no memory.
func addOutOfMemory(m map[string]*Command) {
	for _, name := range strings.Fields(denyOOM) {
		if c := m[name]; c != nil {
			c.DenyOOM = true
		}
	}
	for name, form := range readOnlyForms {
		m[name].ReadOnlyForm = form
	}
	// Of XGROUP's subcommands these are flagged.
	group := m["xgroup"]
	creates, changes := *group, *group
	creates.DenyOOM, creates.Writes, changes.Writes = true, true, true
	group.variant = func(args [][]byte) *Command {
		switch {
		case len(args) < 2:
		case is(args[1], "create"), is(args[1], "createconsumer"):
			return &creates
		case is(args[1], "delconsumer"), is(args[1], "destroy"), is(args[1], "setid"):
			return &changes
		}
		return group
	}
}

// Refusal is what becomes of a request while there is no memory.
type Refusal uint8

const (
	// NotRefused: it is sent.
	NotRefused Refusal = iota
	// RefuseRequest: the client reads the error, and a transaction that it has begun is aborted by EXEC.
	RefuseRequest
	// RefuseExec: commands are queued that may not be executed now, so EXEC discards the transaction.
	RefuseExec
	// RefuseWrites: a script or function. It is sent in its ReadOnlyForm. Whether it writes is known only when it tries to.
	RefuseWrites
)

// RefusalOf says what becomes of a request that Route sends while there is no memory. c is the command by its name, however large the
// request is; name, in lower case, tells those apart that are Unknown.
func RefusalOf(st *State, c *Command, name []byte) Refusal {
	switch {
	case c == execCommand && st.QueuedDenyOOM:
		return RefuseExec
	case c == execCommand, c == discardCommand, c.Affinity == Resets, c.Affinity == Quits, c == Empty:
		return NotRefused
	case c.DenyOOM, st.Multi, st.Queuing, c == Unknown && enginesOwn[string(name)]:
		return RefuseRequest
	case c.ReadOnlyForm != "":
		return RefuseWrites
	}
	return NotRefused
}

var execCommand, discardCommand = Named("exec"), Named("discard")
