package relay

import "strings"

// A request may go over a shared connection only if it is known to leave nothing behind on it, to be answered by
// exactly one reply, and never to wait for anything. What is not in this table is asked of the engine (commandinfo.go); what that
// doesn't tell has a connection of its own, for good.

// command is what is to be known of one.
type command struct {
	name     string // as CLIENT LIST shows it
	affinity affinity
	pin      Pin
	// cleans says that the connection is to be cleaned by RESET before anybody else has it.
	resetBeforeReuse bool
	// mayBlock: with some arguments it is another command.
	hasVariant bool
	// prepare, where given, looks at the request when it is its turn: what the engine gets, and what becomes of the reply.
	// It may return the request as it is.
	prepare func(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler)
	ask     *replyHandler // where there is no prepare
	// awaits says that the request has to wait for something, and sees to it; dispatch is tried again then.
	blockUntil func(s *Session, args [][]byte) bool
	// leads says what a client would become by it, and whether that is all that can happen.
	identityAfter func(identity, [][]byte) (identity, bool)
	// alone: the engine's answer, or whether there is one, depends on what else is on the connection. The request is sent
	// once everything before it is answered, and nothing follows it until it is answered itself.
	unpipelined bool
	// anyDB: it does the same in every database.
	anyDB bool
	// readOnly: to ask it twice does no harm.
	retrySafe bool
	// readsValue: its replies are as long as what is stored.
	replySizeVaries bool
	// replies are the kinds that an answer may be of, errors apart. Empty: any.
	replies kinds
}

type affinity uint8

const (
	shareable       affinity = iota // leaves nothing behind
	dedicated                       // needs a connection of its own, and is done with it at the end of its state
	changesIdentity                 // changes what the client's key is: AUTH, HELLO, SELECT
	resets                          // RESET
	quits                           // QUIT
	pinsUntilReset                  // leaves what only RESET, or the end of the connection, undoes
	pins                            // leaves what only the end of the connection undoes, or what is not known
	passthrough                     // what follows is no request and reply
)

// Pin says why a client has an engine connection of its own. The set is closed, so it may label a metric.
type Pin string

const (
	PinPath        Pin = "path" // the instance is not multiplexed
	PinTransaction Pin = "transaction"
	PinWatch       Pin = "watch"
	PinBlocking    Pin = "blocking"
	PinScript      Pin = "script"
	PinPubSub      Pin = "pubsub"
	PinMonitor     Pin = "monitor"
	PinTracking    Pin = "tracking"
	PinIdentity    Pin = "identity" // AUTH, HELLO, SELECT to where no connection is yet; who has not logged in
	PinState       Pin = "state"    // CLIENT REPLY, NO-EVICT, SCRIPT DEBUG and the like
	PinLarge       Pin = "large"    // a request too long to keep others waiting
	PinReplies     Pin = "replies"  // replies too long to keep others waiting, or that the client does not read
	PinPause       Pin = "pause"    // CLIENT PAUSE is in force
	PinUnknown     Pin = "unknown"  // a command that this version does not know
	PinProtocol    Pin = "protocol" // what the engine is to call an error
)

// Pins are all of them.
var Pins = []Pin{PinPath, PinTransaction, PinWatch, PinBlocking, PinScript, PinPubSub, PinMonitor, PinTracking, PinIdentity,
	PinState, PinLarge, PinReplies, PinPause, PinUnknown, PinProtocol}

// stateless are the commands that a shared connection may carry.
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

var commands = func() map[string]*command {
	m := make(map[string]*command)
	add := func(place affinity, pin Pin, names string) {
		for _, n := range strings.Fields(names) {
			m[n] = &command{name: n, affinity: place, pin: pin}
		}
	}
	add(shareable, "", stateless)
	add(dedicated, PinBlocking, `blpop brpop brpoplpush blmove blmpop bzpopmin bzpopmax bzmpop xread|block xreadgroup|block wait waitaof
		migrate debug shutdown failover module cluster vadd|cas vsim`) // vadd with CAS and vsim block, and no flag says so
	add(shareable, "", "xread xreadgroup script")
	// While a script runs the engine answers others with BUSY; behind it on the same connection they would hang.
	add(dedicated, PinScript, "eval eval_ro evalsha evalsha_ro fcall fcall_ro")
	add(pinsUntilReset, PinState, "asking readonly readwrite client|caching client|import-source")
	add(pins, PinState, "client|no-evict client|no-touch client|capa") // RESET leaves the first before 7.2, the last always
	// RESET does not end the debugger, and what it says is no reply.
	add(passthrough, PinState, "sync psync replconf client|reply script|debug")
	add(shareable, "", "client client|help script|kill function|kill")
	for _, name := range []string{"sync", "psync"} {
		m[name].unpipelined = true // refused while the connection has replies to send
	}
	for _, name := range []string{"script|kill", "function|kill"} {
		m[name].anyDB = true
	}
	m["xread"].hasVariant, m["xreadgroup"].hasVariant, m["vadd"].hasVariant = true, true, true
	m["client|reply"].hasVariant = true
	for name, c := range tracked {
		c.name = name
		m[name] = &c
	}
	return m
}()

// Those that have no entry of their own.
var (
	unknown        = &command{name: "NULL", affinity: pins, pin: PinUnknown, ask: onUnknown}
	unparsedInline = &command{name: "NULL", affinity: pins, pin: PinUnknown}
	emptyRequest   = &command{name: "NULL", affinity: shareable}
	largeRequest   = &command{name: "NULL", affinity: dedicated, pin: PinLarge}
	replyOn        = &command{name: "client|reply", affinity: shareable} // replies are on, else nothing would be looked at
	protocolError  = &command{name: "NULL", affinity: passthrough, pin: PinProtocol}
)

// containers are the commands whose subcommands differ in what they leave behind.
func isContainer(name []byte) bool {
	return string(name) == "client" || string(name) == "script" || string(name) == "function"
}

// find returns the command of a request whose first two arguments are these, in lower case.
func find(name, second []byte) *command {
	if isContainer(name) && second != nil {
		var both [2 * 24]byte
		key := append(append(append(both[:0], name...), '|'), second...)
		if c := commands[string(key)]; c != nil {
			return c
		}
		if string(name) == "client" && len(second) > 0 {
			return unknown // a newer engine's, and what it does is not known here
		}
	}
	if c := commands[string(name)]; c != nil {
		return c
	}
	return unknown
}
