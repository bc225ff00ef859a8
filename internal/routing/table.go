package routing

import (
	"slices"
	"strings"
)

// Which commands may share a connection, and which need a dedicated one, with the reason (Pin). What the words mean is in command.go. A
// dedicated connection goes back once nothing is left on it: see Release. Other reasons come from the moment, not from the command: the
// path, CLIENT PAUSE, long requests and replies (Route).

// stateless are the commands that leave nothing behind.
const stateless = `
append bitcount bitfield bitfield_ro bitop bitpos decr decrby get getbit getdel getex getrange getset incr incrby
incrbyfloat lcs mget mset msetnx psetex set setbit setex setnx setrange strlen substr msetex delifeq
delex digest increx
copy del dump exists expire expireat expiretime keys move object persist pexpire pexpireat pexpiretime pttl randomkey
rename renamenx restore scan sort sort_ro touch ttl type unlink
hdel hexists hexpire hexpireat hexpiretime hget hgetall hgetdel hgetex hincrby hincrbyfloat hkeys hlen hmget hmset hpersist
hpexpire hpexpireat hpexpiretime hpttl hrandfield hscan hset hsetex hsetnx hstrlen httl hvals
lindex linsert llen lmove lmpop lpop lpos lpush lpushx lrange lrem lset ltrim rpop rpoplpush rpush rpushx
sadd scard sdiff sdiffstore sinter sintercard sinterstore sismember smembers smismember smove spop srandmember srem sscan
sunion sunionstore
zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard zinterstore zlexcount zmpop zmscore zpopmax zpopmin
zrandmember zrange zrangebylex zrangebyscore zrangestore zrank zrem zremrangebylex zremrangebyrank zremrangebyscore
zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion zunionstore
geoadd geodist geohash geopos georadius georadius_ro georadiusbymember georadiusbymember_ro geosearch geosearchstore
pfadd pfcount pfmerge
xack xackdel xadd xautoclaim xclaim xdel xdelex xgroup xinfo xlen xpending xrange xrevrange xsetid xtrim
vadd vcard vdim vemb vgetattr vinfo vismember vlinks vrandmember vrange vrem vsetattr
ping echo time dbsize lastsave lolwut command memory latency role config acl publish spublish pubsub
flushall flushdb swapdb function save bgsave bgrewriteaof`

// handled are the commands of which package relay changes the request or the reply, or looks at it.
var handled = map[string]Command{
	// Some engines (Redis 7.2 to 8.8, Valkey 7.2 to 8.1.1) say nothing to a login that fails while the connection has replies to
	// send.
	"auth":   {Affinity: ChangesIdentity, Pin: PinIdentity, IdentityAfter: identityAfterAuth, Unpipelined: true},
	"hello":  {Affinity: ChangesIdentity, Pin: PinIdentity, IdentityAfter: identityAfterHello, Unpipelined: true},
	"select": {Affinity: ChangesIdentity, Pin: PinIdentity, IdentityAfter: identityAfterSelect},
	"reset":  {Affinity: Resets, Pin: PinState, Unpipelined: true},

	"multi":   {Affinity: Dedicated, Pin: PinTransaction},
	"exec":    {Affinity: Dedicated, Pin: PinTransaction},
	"discard": {Affinity: Dedicated, Pin: PinTransaction},
	"watch":   {Affinity: Dedicated, Pin: PinWatch},
	"unwatch": {Affinity: Dedicated, Pin: PinWatch},

	"subscribe":    {Affinity: Dedicated, Pin: PinPubSub},
	"psubscribe":   {Affinity: Dedicated, Pin: PinPubSub},
	"ssubscribe":   {Affinity: Dedicated, Pin: PinPubSub},
	"unsubscribe":  {Affinity: Dedicated, Pin: PinPubSub},
	"punsubscribe": {Affinity: Dedicated, Pin: PinPubSub},
	"sunsubscribe": {Affinity: Dedicated, Pin: PinPubSub},
	"monitor":      {Affinity: Dedicated, Pin: PinMonitor},

	"wait":    {Affinity: Dedicated, Pin: PinBlocking},
	"waitaof": {Affinity: Dedicated, Pin: PinBlocking},

	"slowlog":              {},
	"commandlog":           {},
	"info":                 {},
	"client|id":            {},
	"client|getname":       {},
	"client|setname":       {},
	"client|setinfo":       {},
	"client|info":          {},
	"client|list":          {},
	"client|kill":          {},
	"client|unblock":       {},
	"client|pause":         {},
	"client|unpause":       {},
	"client|getredir":      {},
	"client|trackinginfo":  {},
	"client|tracking":      {Affinity: DirtiesUntilReset, Pin: PinTracking},
	"client|import-source": {Affinity: DirtiesUntilReset, Pin: PinState},
	"readonly":             {Affinity: DirtiesUntilReset, Pin: PinState},
	"readwrite":            {Affinity: DirtiesUntilReset, Pin: PinState},
	"client|caching":       {Affinity: DirtiesUntilReset, Pin: PinState},
	"client|no-evict":      {Affinity: DirtiesForGood, Pin: PinState}, // RESET leaves it before 7.2
	"client|no-touch":      {Affinity: DirtiesForGood, Pin: PinState},
	"client|capa":          {Affinity: DirtiesForGood, Pin: PinState}, // RESET always leaves it
}

// table has every command that is known here, by its name in lower case: "get", "client|list".
var table = func() map[string]*Command {
	m := make(map[string]*Command)
	add := func(a Affinity, pin Pin, names string) {
		for _, n := range strings.Fields(names) {
			m[n] = &Command{Name: n, Affinity: a, Pin: pin}
		}
	}
	add(Shareable, "", stateless)
	add(Dedicated, PinBlocking, `blpop brpop brpoplpush blmove blmpop bzpopmin bzpopmax bzmpop xread|block xreadgroup|block
		migrate debug shutdown failover module cluster vadd|cas vsim`) // vadd with CAS and vsim block, and no flag says so
	add(Shareable, "", "xread xreadgroup script")
	// While a script runs the engine answers others with BUSY; behind it on the same connection they would hang.
	add(Dedicated, PinScript, "eval eval_ro evalsha evalsha_ro fcall fcall_ro")
	add(DirtiesUntilReset, PinState, "asking")
	// RESET does not end the debugger, and what it says is no reply.
	add(PassesThrough, PinState, "sync psync replconf script|debug")
	m["client|reply"] = ReplyOn
	add(Quits, PinState, "quit")
	add(Shareable, "", "client client|help script|kill function|kill function|load function|restore function|delete function|flush")
	for _, name := range []string{"sync", "psync"} {
		m[name].Unpipelined = true // refused while the connection has replies to send
	}
	for _, name := range []string{"script|kill", "function|kill"} {
		m[name].AnyDB = true
	}
	for name, c := range handled {
		c.Name, c.Handled = name, true
		m[name] = &c
	}
	for name, t := range timeouts {
		m[name].timeout = &t
	}
	addWrites(m)
	addVariants(m)
	addReplyKinds(m)
	addOutOfMemory(m)
	addRepeatable(m)
	return m
}()

// addVariants enters which arguments make another command of one.
func addVariants(m map[string]*Command) {
	// BLOCK and CAS stand before other arguments, but a group, a consumer or an element may be called that too: a key called
	// BLOCK costs a connection, a block that is overlooked would hold up everybody.
	for name, word := range map[string]string{"xread": "block", "xreadgroup": "block", "vadd": "cas"} {
		c, variant := m[name], m[name+"|"+word]
		c.variant = func(args [][]byte) *Command {
			if slices.ContainsFunc(args, func(a []byte) bool { return is(a, word) }) {
				return variant
			}
			return c
		}
	}
	ReplyOn.variant = func(args [][]byte) *Command {
		switch {
		case len(args) == 3 && is(args[2], "off"):
			return ReplyOff
		case len(args) == 3 && is(args[2], "skip"):
			return ReplySkip
		}
		return ReplyOn
	}
}

// Commands that have no entry of their own.
var (
	// Unknown is one that nothing is known of.
	Unknown = &Command{Name: "NULL", Affinity: DirtiesForGood, Pin: PinUnknown, Handled: true}
	// Unparsed is an inline request that is not understood.
	Unparsed = &Command{Name: "NULL", Affinity: DirtiesForGood, Pin: PinUnknown}
	// Empty is a request without a word, to which the engine says nothing.
	Empty = &Command{Name: "NULL", Affinity: Shareable}
	// Large is a request whose head can't be looked at.
	Large = &Command{Name: "NULL", Affinity: Dedicated, Pin: PinLarge}
	// ProtocolError is what the engine is to call an error.
	ProtocolError = &Command{Name: "NULL", Affinity: PassesThrough, Pin: PinProtocol}

	// OutcomeUnknown stands for a request that may have been executed by an engine that has ended. Package relay says when.
	OutcomeUnknown = &Command{Name: "NULL", Affinity: Shareable, Handled: true}

	// CLIENT REPLY is one of three commands, by its argument. What it asks for is done by package relay, but not in a transaction: so it
	// has to be known whether there is one.
	ReplyOn   = &Command{Name: "client|reply", Affinity: Shareable, Handled: true}
	ReplyOff  = &Command{Name: "client|reply", Affinity: Dedicated, Pin: PinState, Handled: true, Unpipelined: true}
	ReplySkip = &Command{Name: "client|reply", Affinity: Dedicated, Pin: PinState, Handled: true, Unpipelined: true}
)

// SetsReplyMode says that a command is about whether those behind it are answered.
func (c *Command) SetsReplyMode() bool { return c == ReplyOn || c == ReplyOff || c == ReplySkip }

// Find returns the command of a request whose first two arguments are these, in lower case. engine is what its engine has said of its
// commands; nil: nothing.
func Find(name, second []byte, engine EngineCommands) *Command {
	if c := find(name, second); c != Unknown || engine == nil {
		return c
	}
	return engine.find(name, second)
}

func find(name, second []byte) *Command {
	if IsContainer(name) && second != nil {
		var both [2 * 24]byte
		key := append(append(append(both[:0], name...), '|'), second...)
		if c := table[string(key)]; c != nil {
			return c
		}
		if string(name) == "client" && len(second) > 0 {
			return Unknown // a newer engine's, and what it does is not known here
		}
	}
	if c := table[string(name)]; c != nil {
		return c
	}
	return Unknown
}

// Named returns the command with a name of the table, such as "client|list"; Unknown where there is none.
func Named(name string) *Command {
	if c := table[name]; c != nil {
		return c
	}
	return Unknown
}

// IsContainer says whether a command's subcommands differ in what they leave behind.
func IsContainer(name []byte) bool {
	return string(name) == "client" || string(name) == "script" || string(name) == "function"
}

func is(arg []byte, word string) bool { return strings.EqualFold(string(arg), word) }
