package relay

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// A shared connection relies on one reply per request, in order. Commands whose answer may fail to come never are on one
// (commands.go). This file is the net below that: where replies stop matching requests, whatever the reason, the
// connection is closed with all that wait on it, and what it said last reaches nobody.

// kinds is a set of first bytes of replies. The zero value allows all.
type kinds uint16

const kindBytes = "+:$*_#,(=%~>"

func kindsOf(first string) kinds {
	var k kinds
	for i := range len(first) {
		k |= 1 << strings.IndexByte(kindBytes, first[i])
	}
	return k
}

// bitOf has the bit of each first byte; errors have all, other bytes none.
var bitOf = func() (bits [256]kinds) {
	for i := range len(kindBytes) {
		bits[kindBytes[i]] = 1 << i
	}
	bits[resp.Error], bits[resp.BlobError] = ^kinds(0), ^kinds(0)
	bits[resp.Attribute] = ^kinds(0) // the reply's own kind comes behind it
	return bits
}()

// allows says whether a reply may begin with this byte.
func (k kinds) allows(first byte) bool { return k == 0 || k&bitOf[first] != 0 }

// replyKinds are the kinds that the engines answer with. A command that is not here may be answered with any.
var replyKinds = map[string]string{
	// Integers.
	":": `append bitcount bitpos decr decrby getbit incr incrby msetnx setbit setnx setrange strlen
		copy del exists expire expireat expiretime move persist pexpire pexpireat pexpiretime pttl renamenx touch ttl unlink
		hdel hexists hincrby hlen hset hsetnx hstrlen linsert llen lpush lpushx lrem rpush rpushx
		sadd scard sdiffstore sintercard sinterstore sismember smove srem sunionstore
		zcard zcount zdiffstore zintercard zinterstore zlexcount zrangestore zrem zremrangebylex zremrangebyrank zremrangebyscore
		zunionstore geoadd geosearchstore pfadd pfcount xack xdel xlen xtrim dbsize lastsave publish spublish`,
	// Strings, which may be missing.
	"$_": `get getdel getex getrange getset substr dump hget lindex rpoplpush lmove hincrbyfloat incrbyfloat echo`,
	// Words.
	"+": `mset psetex setex hmset lset ltrim rename pfmerge type flushall flushdb swapdb`,
	// Lists, also RESP3's sets and maps, and RESP2's missing list.
	"*~%_": `mget hgetall hkeys hmget hvals keys scan hscan sscan zscan smembers smismember sdiff sinter sunion lrange
		zmscore zrange zrangebylex zrangebyscore zrevrange zrevrangebylex zrevrangebyscore zdiff zinter zunion
		geohash geopos georadius_ro georadiusbymember_ro geosearch xrange xrevrange time`,
}

// readOnlyCommands are those that change nothing, so that they may be asked twice.
const readOnlyCommands = `
bitcount bitfield_ro bitpos get getbit getrange lcs mget strlen substr dump exists expiretime keys pexpiretime pttl randomkey scan
sort_ro ttl type hexists hget hgetall hkeys hlen hmget hrandfield hscan hstrlen hvals hexpiretime hpexpiretime hpttl httl
lindex llen lpos lrange scard sdiff sinter sintercard sismember smembers smismember srandmember sscan sunion
zcard zcount zdiff zinter zintercard zlexcount zmscore zrandmember zrange zrangebylex zrangebyscore zrank zrevrange
zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion geodist geohash geopos georadius_ro georadiusbymember_ro geosearch
pfcount xlen xpending xrange xrevrange ping echo time dbsize`

func init() {
	for allowed, names := range replyKinds {
		for _, name := range strings.Fields(names) {
			commands[name].replies = kindsOf(allowed)
		}
	}
	for _, name := range strings.Fields(readOnlyCommands) {
		c := commands[name]
		c.retrySafe = true
		c.replySizeVaries = c.replies != kindsOf(":") && !slices.Contains([]string{"ping", "echo", "time", "type", "randomkey", "zscore"}, name)
	}
}

var errMismatched = errors.New("the engine's replies no longer match the requests")

// canary is a request of which the answer is known before. It shows that replies and requests still match.
type canary struct {
	request, reply []byte
	shown          string // the request, as MONITOR shows it
}

// canaryPace is how often it is sent over a shared connection that is in use.
const canaryInterval = 100 * time.Millisecond

// newCanary makes one that no client can know, and thus no value can be.
func newCanary() canary {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // it never fails
	word := "sealane-" + hex.EncodeToString(random)
	return canary{
		request: resp.AppendCommand(nil, "ECHO", word),
		reply:   resp.Append(nil, resp.Value{Kind: resp.Bulk, Str: word}),
		shown:   `"ECHO" "` + word + `"`,
	}
}

// sendCanary puts one behind what a shared connection is about to send, if the last was some time ago.
func (u *upstream) sendCanary() {
	now := u.loop.now
	if !u.shared || !u.letsInWithoutAuth || !u.ready || u.canaryDenied || u.canaryPending || now.Sub(u.canarySent) < canaryInterval {
		return
	}
	u.canarySent, u.canaryPending = now, true
	_, _ = u.Write(u.loop.group.canary.request)
	u.pendingReplies.push(pendingReply{count: 1, handler: onCanary})
}

// checkShared sends one over the shared connections where clients wait although nothing else is asked any more.
func (l *loop) canaryIdleShared() {
	for u := range l.upstreams {
		if u.shared && u.pendingReplies.len > 0 {
			u.flushLater() // which sends it
		}
	}
}

var onCanary = &replyHandler{complete: true, answer: func(u *upstream, _ *Session, reply []byte) []byte {
	u.canaryPending = false
	switch {
	case bytes.HasPrefix(reply, []byte("-NOPERM")):
		u.canaryDenied = true // the user may not ask for it
	case reply[0] == '-': // an engine that is busy says so to everything
	case !bytes.Equal(reply, u.loop.group.canary.reply):
		u.fail(errMismatched)
	}
	return nil
}}

// isCanary says whether a reply that is not complete may be that to the canary.
func (u *upstream) isCanary(begins, goesOn []byte) bool {
	expected := u.loop.group.canary.reply
	return u.canaryPending && bytes.HasPrefix(expected, begins) && bytes.HasPrefix(expected[len(begins):], goesOn)
}

// matches says whether a reply that begins with b can be the answer that w waits for.
func (u *upstream) replyFits(w *pendingReply, b []byte) bool {
	if u.canaryPending && bytes.HasPrefix(b, u.loop.group.canary.reply) {
		return false // it is not w's
	}
	return w.command == nil || w.command.replies.allows(b[0])
}

// A login may go unanswered also where it is alone: while the engine has messages to send, for a subscription or for tracking.
// There it is followed by a canary, whose reply tells.

// followLogin sends the canary.
func (s *Session) sendLoginFence() {
	_, _ = s.dedicated.Write(s.loop.group.canary.request)
	s.dedicated.pendingReplies.push(pendingReply{count: 1, handler: onFence})
	s.dedicated.flushLater()
}

var onFence = &replyHandler{complete: true, answer: func(*upstream, *Session, []byte) []byte { return nil }}

var noReplyToLogin = []byte("-WRONGPASS invalid username-password pair or user is disabled.\r\n")

// loginAnswer returns what the engine says, or would have said, to a login whose waiter has left the queue.
func (u *upstream) loginAnswer(reply []byte) []byte {
	if !bytes.Equal(reply, u.loop.group.canary.reply) && !bytes.HasPrefix(reply, []byte("-NOPERM")) {
		return reply
	}
	if w := u.pendingReplies.head(); w != nil && w.client == nil {
		u.pendingReplies.pop()
	}
	return noReplyToLogin
}
