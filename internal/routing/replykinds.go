package routing

import (
	"slices"
	"strings"

	"github.com/sealane/sealane/internal/resp"
)

// Kinds is a set of first bytes of replies. The zero value allows all.
type Kinds uint16

const kindBytes = "+:$*_#,(=%~>"

func kindsOf(first string) Kinds {
	var k Kinds
	for i := range len(first) {
		k |= 1 << strings.IndexByte(kindBytes, first[i])
	}
	return k
}

// bitOf has the bit of each first byte; errors have all, other bytes none.
var bitOf = func() (bits [256]Kinds) {
	for i := range len(kindBytes) {
		bits[kindBytes[i]] = 1 << i
	}
	bits[resp.Error], bits[resp.BlobError] = ^Kinds(0), ^Kinds(0)
	bits[resp.Attribute] = ^Kinds(0) // the reply's own kind comes behind it
	return bits
}()

// Allows says whether a reply may begin with this byte.
func (k Kinds) Allows(first byte) bool { return k == 0 || k&bitOf[first] != 0 }

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

// addReplyKinds enters what the replies of commands are like.
func addReplyKinds(m map[string]*Command) {
	for allowed, names := range replyKinds {
		for _, name := range strings.Fields(names) {
			m[name].Replies = kindsOf(allowed)
		}
	}
	short := []string{"ping", "echo", "time", "type", "randomkey", "zscore"}
	for _, name := range strings.Fields(readOnlyCommands) {
		c := m[name]
		c.RetrySafe = true
		c.ReplySizeVaries = c.Replies != kindsOf(":") && !slices.Contains(short, name)
	}
}
