package routing

import "strings"

// Behind a read endpoint there is a replica. Requests that write are refused as a replica refuses them, whatever the engine would do,
// because it may have become the primary a moment ago. Which requests these are is the engine's own rule: the commands with the flag
// write in COMMAND's reply. PUBLISH is not among them: a replica passes a message on to its own subscribers.

// writes are the commands that engines flag so. COMMAND is asked about those that are not known here.
const writes = `
append bitfield bitop blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax bzpopmin copy decr decrby del delex delifeq expire expireat
flushall flushdb function|delete function|flush function|load function|restore geoadd georadius georadiusbymember geosearchstore getdel
getex getset hdel hexpire hexpireat hgetdel hgetex hincrby hincrbyfloat hmset hpersist hpexpire hpexpireat hset hsetex hsetnx incr incrby
incrbyfloat increx linsert lmove lmpop lpop lpush lpushx lrem lset ltrim migrate move mset msetex msetnx persist pexpire pexpireat pfadd
pfmerge psetex rename renamenx restore rpop rpoplpush rpush rpushx sadd sdiffstore set setbit setex setnx setrange sinterstore smove
sort spop srem sunionstore swapdb unlink vadd vadd|cas vrem vsetattr xack xackdel xadd xautoclaim xclaim xdel xdelex xreadgroup
xreadgroup|block xsetid xtrim zadd zdiffstore zincrby zinterstore zmpop zpopmax zpopmin zrangestore zrem zremrangebylex zremrangebyrank
zremrangebyscore zunionstore`

// addWrites enters which commands write. It comes before the variants of single commands, which are copies.
func addWrites(m map[string]*Command) {
	for _, name := range strings.Fields(writes) {
		m[name].Writes = true
	}
	// Of CLUSTER's subcommands this one is flagged (Valkey 9).
	cluster := m["cluster"]
	flushSlot := *cluster
	flushSlot.Writes = true
	cluster.variant = func(args [][]byte) *Command {
		if len(args) > 1 && is(args[1], "flushslot") {
			return &flushSlot
		}
		return cluster
	}
}

// ReadOnlyRefusalOf says what becomes of a request that Route sends where clients may only read. c and name are as in RefusalOf.
func ReadOnlyRefusalOf(st *State, c *Command, name []byte) Refusal {
	switch {
	case c == execCommand && st.QueuedWrite:
		return RefuseExec
	case c.Writes, c == Unknown && enginesOwn[string(name)]:
		return RefuseRequest
	case c.ReadOnlyForm != "":
		return RefuseWrites
	}
	return NotRefused
}

// MayWrite says that the command writes, or is a script or function that may.
func (c *Command) MayWrite() bool { return c.Writes || c.ReadOnlyForm != "" }
