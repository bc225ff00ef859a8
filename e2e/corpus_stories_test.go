package e2e_test

import (
	"fmt"
	"strings"
)

// stories are tests that need more than one connection, more or fewer than one reply to a command, or bytes that no client
// library would send. Each runs in RESP2 and RESP3.
var stories = []struct {
	name string
	play func(p *player)
}{
	{"MULTI", multiStory},
	{"MULTI and commands that change the connection", multiStateStory},
	{"WATCH", watchStory},
	{"scripts from another connection", scriptStory},
	{"SUBSCRIBE", subscribeStory},
	{"PSUBSCRIBE and both", patternStory},
	{"SSUBSCRIBE", shardStory},
	{"subscribed, then RESET or QUIT", subscribedEndStory},
	{"blocking commands", blockingStory},
	{"blocked clients are served in turn", turnStory},
	{"a pipeline behind a blocking command", blockedPipelineStory},
	{"CLIENT UNBLOCK", unblockStory},
	{"a blocked client goes away", blockedGoneStory},
	{"XREAD BLOCK", streamStory},
	{"CLIENT REPLY", replyStory},
	{"CLIENT TRACKING", trackingStory},
	{"CLIENT TRACKING with a redirection", redirectStory},
	{"HELLO", helloStory},
	{"SELECT", selectStory},
	{"RESET", resetStory},
	{"QUIT", quitStory},
	{"MONITOR", monitorStory},
	{"inline commands", inlineStory},
	{"protocol errors", protocolErrorStory},
	{"big values", bigValueStory},
	{"big pipelines", bigPipelineStory},
	{"who a client is, said in one go", introductionStory},
	{"byte by byte", byteStory},
	{"nothing of a client is left to the next", leftoverStory},
	{"clients in turn on one engine", interleavedStory},
}

// pipeline encodes several commands.
func pipeline(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		b.Write(command(words(line)...))
	}
	return b.String()
}

func (c *peer) all(lines ...string) {
	for _, line := range lines {
		c.do(line)
	}
}

// close ends the connection from the client's side.
func (c *peer) close() { c.wire.Close() }

// id asks for the connection's id, which is not compared.
func (c *peer) id() string {
	c.send("CLIENT ID")
	return strings.Trim(string(c.wire.frames(1)), ":\r\n")
}

// doSecret is do for a command that the log shows in another form.
func (c *peer) doSecret(shown, line string) {
	c.send(line)
	c.record(shown, c.wire.frames(1))
}

func multiStory(p *player) {
	c := p.client()
	c.all("MULTI", "SET a 1", "INCR a", "LPUSH a x", "GET a", "HGETALL none", "EXEC", "GET a")
	c.all("MULTI", "EXEC", "EXEC")
	c.all("MULTI", "NOSUCH", "GET a", "EXEC")
	c.all("MULTI", "GET", "EXEC", "GET a")
	c.all("MULTI", "MULTI", "SET a 2", "WATCH a", "EXEC")
	c.all("MULTI", "SET a 3", "DISCARD", "GET a", "DISCARD")
	c.all("MULTI", "EVAL \"return redis.call('INCR','a')\" 0", "PING", "ECHO x", "BLPOP none 0", "XREAD BLOCK 0 STREAMS none $", "WAIT 1 0", "EXEC")
	c.all("MULTI", "CONFIG SET timeout 1", "EXEC")
	c.all("MULTI", "MONITOR", "DISCARD")
	c.raw(6, pipeline("MULTI", "SET p 1", "GET p", "INCR p", "EXEC", "GET p"))
	// Many requests follow, whole ones and pieces that share a write.
	c.raw(300, strings.Repeat(pipeline("MULTI", "INCR n", "EXEC"), 100))
	c.raw(1, pipeline("MULTI"))
	c.raw(2, pipeline("INCR n", "INCR n"))
	other := p.client()
	other.all("GET n", "INCR n")
	c.raw(2, pipeline("EXEC", "GET n"))
}

func multiStateStory(p *player) {
	c := p.client()
	c.all("MULTI", "SELECT 1", "SET in-1 v", "EXEC", "GET in-1", "SELECT 0", "GET in-1")
	c.all("MULTI", "CLIENT SETNAME multi", "CLIENT GETNAME", "EXEC", "CLIENT GETNAME")
	c.all("MULTI", "HELLO 3", "HGETALL none", "EXEC", "HGETALL none")
	c.all("MULTI", "RESET", "EXEC", "HGETALL none")
	c.all("MULTI", "SUBSCRIBE in-multi", "EXEC", "PING", "PING x")
	p.client().do("PUBLISH in-multi m")
	c.gets(1, "a message")
	quits := p.client()
	quits.all("MULTI", "SET q 1")
	quits.send("QUIT")
	quits.ends("QUIT in MULTI")
	p.client().do("GET q")
}

func watchStory(p *player) {
	c, other := p.client(), p.client()
	c.all("SET w 1", "WATCH w")
	other.do("SET w 2")
	c.all("MULTI", "SET w mine", "EXEC", "GET w")
	c.all("MULTI", "SET w mine", "EXEC", "GET w") // no key is watched any more
	c.all("WATCH w", "UNWATCH")
	other.do("SET w 3")
	c.all("MULTI", "GET w", "EXEC")
	c.do("WATCH w")
	other.do("GET w")
	c.all("MULTI", "GET w", "EXEC")
	c.do("WATCH w none")
	other.do("SET none now")
	c.all("MULTI", "GET w", "DISCARD", "MULTI", "GET w", "EXEC")
	c.all("WATCH w", "SET w own", "MULTI", "GET w", "EXEC")
	c.do("WATCH w")
	other.do("FLUSHALL")
	c.all("MULTI", "GET w", "EXEC")
	c.do("WATCH other-db")
	other.all("SELECT 1", "SET other-db 1", "SELECT 0")
	c.all("MULTI", "PING", "EXEC")
	c.do("WATCH mid")
	c.all("MULTI", "GET mid")
	other.do("SET mid 1")
	c.do("EXEC")
	c.do("WATCH mid")
	other.do("SET mid 2")
	c.all("RESET", "MULTI", "PING", "EXEC")
}

func scriptStory(p *player) {
	c, other := p.client(), p.client()
	c.do("SCRIPT LOAD \"return {KEYS[1], ARGV[1]}\"")
	other.all("EVALSHA dc92c9ae9ca60bddfd5a2e8d9db0b9f0a0e2cbfe 1 k a", "EVALSHA 4ca238f611c9d0ae4e9a75a5dbac22aedc1e44df 1 k a", "SCRIPT EXISTS 4ca238f611c9d0ae4e9a75a5dbac22aedc1e44df")
	other.do("EVAL \"return redis.sha1hex('x')\" 0")
	c.do("FUNCTION LOAD \"#!lua name=shared\\nredis.register_function('shared', function(keys, args) return redis.call('INCR', keys[1]) end)\"")
	other.all("FCALL shared 1 n", "FCALL shared 1 n", "FCALL_RO shared 1 n")
	c.do("EVAL \"redis.call('SELECT', 1); return redis.call('SET', 'in-script', 'v')\" 0")
	c.all("GET in-script", "SELECT 1", "GET in-script")
	c.do("EVAL \"return redis.call('PUBLISH', 'c', 'm')\" 0")
	c.do("EVAL \"local t = {} for i = 1, 1000 do t[i] = i end return t\" 0")
}

func subscribeStory(p *player) {
	c, other := p.client(), p.client()
	c.doN(2, "SUBSCRIBE a b")
	c.do("SUBSCRIBE a")
	other.all("PUBLISH a hello", "PUBLISH b \"\\x00\\r\\n\"", "PUBLISH none x", "PUBSUB NUMSUB a b none", "PUBSUB CHANNELS a*")
	c.gets(2, "messages")
	// With a subscription, RESP2 allows only a few commands and RESP3 allows all.
	c.all("GET k", "SET k v", "PING", "PING x", "ECHO x", "MULTI", "EXEC", "BLPOP none 0.01", "CLIENT GETNAME", "HELLO 3", "SELECT 1", "NOSUCH", "SUBSCRIBE")
	other.raw(100, strings.Repeat(pipeline("PUBLISH a message"), 100))
	c.gets(100, "a hundred messages")
	c.do("UNSUBSCRIBE a")
	c.doN(2, "UNSUBSCRIBE none a")
	other.do("PUBLISH a nobody")
	c.do("UNSUBSCRIBE") // from the one that is left
	c.do("UNSUBSCRIBE") // from none
	c.all("PUNSUBSCRIBE", "SUNSUBSCRIBE", "GET k", "INCR n")
	c.raw(4, pipeline("SUBSCRIBE again", "PING", "UNSUBSCRIBE again", "INCR n"))
	// A client can publish to its own channel in RESP3 only.
	if p.protocol == 3 {
		c.do("SUBSCRIBE own")
		c.doN(2, "PUBLISH own me")
		c.doN(2, "EVAL \"return redis.call('PUBLISH', 'own', 'me')\" 0")
	}
}

func patternStory(p *player) {
	c, other := p.client(), p.client()
	c.doN(2, "PSUBSCRIBE n* ?x")
	c.do("SUBSCRIBE news")
	other.all("PUBLISH news 1", "PUBLISH ax 2", "PUBLISH none-of-them 3", "PUBSUB NUMPAT")
	c.gets(4, "messages")
	c.do("PUNSUBSCRIBE n*")
	other.do("PUBLISH news 4")
	c.gets(1, "a message")
	c.do("UNSUBSCRIBE")
	c.do("PUNSUBSCRIBE")
	c.all("PUNSUBSCRIBE", "SET k v", "PSUBSCRIBE")
	other.do("PUBSUB NUMPAT")
}

func shardStory(p *player) {
	c, other := p.client(), p.client()
	c.doN(2, "SSUBSCRIBE s1 s2")
	other.all("SPUBLISH s1 hello", "PUBLISH s1 not-this", "PUBSUB SHARDNUMSUB s1 s2")
	c.gets(1, "a message")
	c.do("SUBSCRIBE s1")
	other.all("SPUBLISH s1 1", "PUBLISH s1 2")
	c.gets(2, "messages")
	c.do("SUNSUBSCRIBE s1")
	c.do("SUNSUBSCRIBE")
	c.do("SUNSUBSCRIBE")
	c.all("UNSUBSCRIBE s1", "GET k")
}

func subscribedEndStory(p *player) {
	c, other := p.client(), p.client()
	c.do("SUBSCRIBE gone")
	c.all("RESET", "GET k")
	other.do("PUBLISH gone x")
	c.doN(1, "SUBSCRIBE gone")
	c.send("QUIT")
	c.ends("QUIT")
	eventuallyNobody(p, "gone")
	d := p.client()
	d.do("SUBSCRIBE gone")
	d.close()
	eventuallyNobody(p, "gone")
	other.do("PUBLISH gone x")
}

// eventuallyNobody waits until the engine has no subscriber.
func eventuallyNobody(p *player, channel string) {
	p.t.Helper()
	eventually(p.t, wireTimeout, "nobody is subscribed to "+channel, func() bool {
		p.control.send(command("PUBSUB", "NUMSUB", channel))
		return strings.HasSuffix(string(p.control.frames(1)), "\r\n:0\r\n")
	})
}

func blockingStory(p *player) {
	c, other := p.client(), p.client()
	for _, b := range []struct{ waits, feeds string }{
		{"BLPOP none l 10", "RPUSH l one two"},
		{"BRPOP l2 10", "LPUSH l2 one two"},
		{"BLMOVE l3 d LEFT RIGHT 10", "RPUSH l3 v"},
		{"BRPOPLPUSH l4 d 10", "RPUSH l4 v"},
		{"BLMPOP 10 2 none l5 LEFT COUNT 2", "RPUSH l5 a b c"},
		{"BZPOPMIN z 10", "ZADD z 1 a 2 b"},
		{"BZPOPMAX none z2 0", "ZADD z2 1.5 a"},
		{"BZMPOP 0 1 z3 MAX COUNT 5", "ZADD z3 1 a 2 b"},
		{"BLPOP l6 0", "EVAL \"return redis.call('RPUSH', 'l6', 'script')\" 0"},
		{"BLPOP l7 0", "RESTORE l7 0 \"\\x0e\\x01\\x12\""},
	} {
		if strings.HasPrefix(b.feeds, "RESTORE") {
			continue // its payload depends on the engine's version
		}
		c.send(b.waits)
		p.blocked(1)
		other.do(b.feeds)
		c.gets(1, b.waits)
		p.blocked(0)
	}
	c.send("BLPOP multi 10")
	p.blocked(1)
	other.raw(4, pipeline("MULTI", "RPUSH multi 1", "RPUSH multi 2", "EXEC"))
	c.gets(1, "BLPOP fed by a transaction")
	c.send("BLPOP renamed 10")
	p.blocked(1)
	other.all("RPUSH before 1", "RENAME before renamed")
	c.gets(1, "BLPOP fed by RENAME")
	// A key of another type unblocks no client.
	c.send("BLPOP str 10")
	p.blocked(1)
	other.all("SET str v", "DEL str", "RPUSH str v")
	c.gets(1, "BLPOP fed after another type")
	c.all("BLPOP none 0.02", "BZPOPMIN none 0.02", "BLMOVE none d LEFT LEFT 0.02", "BLMPOP 0.02 1 none LEFT", "WAIT 3 20", "GET after")
	c.all("SELECT 2")
	c.send("BLPOP in-2 10")
	p.blocked(1)
	other.all("RPUSH in-2 wrong-db", "SELECT 2", "RPUSH in-2 right-db")
	c.gets(1, "BLPOP in another database")
}

func turnStory(p *player) {
	first, second, third, other := p.client(), p.client(), p.client(), p.client()
	for n, c := range []*peer{first, second, third} {
		c.send("BLPOP turn 10")
		p.blocked(n + 1)
	}
	other.all("PING", "INCR n", "RPUSH turn 1 2", "INCR n", "RPUSH turn 3")
	for _, c := range []*peer{first, second, third} {
		c.gets(1, "in turn")
	}
}

func blockedPipelineStory(p *player) {
	c, other := p.client(), p.client()
	c.wire.send([]byte(pipeline("SET before 1", "BLPOP l 10", "INCR after", "BLPOP l 10", "INCR after")))
	p.blocked(1)
	other.all("GET before", "GET after", "RPUSH l 1")
	c.gets(3, "until the second")
	p.blocked(1)
	other.all("GET after", "RPUSH l 2")
	c.gets(2, "the rest")
}

func unblockStory(p *player) {
	c, other := p.client(), p.client()
	id := c.id()
	for _, how := range []string{"", " TIMEOUT", " ERROR"} {
		c.send("BLPOP l 10")
		p.blocked(1)
		other.doSecret("CLIENT UNBLOCK (its id)"+how, "CLIENT UNBLOCK "+id+how)
		c.gets(1, "unblocked"+how)
	}
	other.doSecret("CLIENT UNBLOCK (its id), not blocked", "CLIENT UNBLOCK "+id)
	c.do("PING")
}

func blockedGoneStory(p *player) {
	c, other := p.client(), p.client()
	c.send("BLPOP l 0")
	p.blocked(1)
	c.close()
	p.blocked(0)
	other.all("RPUSH l stays", "LLEN l")
}

func streamStory(p *player) {
	c, other := p.client(), p.client()
	c.send("XREAD BLOCK 10000 COUNT 2 STREAMS x $")
	p.blocked(1)
	other.do("XADD x 1-1 f v")
	c.gets(1, "XREAD")
	other.do("XGROUP CREATE x g $")
	c.send("XREADGROUP GROUP g me BLOCK 0 STREAMS x >")
	p.blocked(1)
	other.do("XADD x 2-1 f v")
	c.gets(1, "XREADGROUP")
	c.send("XREADGROUP GROUP g me BLOCK 0 STREAMS x >")
	p.blocked(1)
	other.do("XGROUP DESTROY x g")
	c.gets(1, "XREADGROUP of a group that goes away")
	c.all("XREAD BLOCK 20 STREAMS x $", "XREAD BLOCK 20 STREAMS x 0")
}

func replyStory(p *player) {
	c := p.client()
	c.raw(1, pipeline("CLIENT REPLY OFF", "SET a 1", "GET a", "NOSUCH", "CLIENT REPLY ON"))
	c.do("GET a")
	c.raw(1, pipeline("CLIENT REPLY SKIP", "SET a 2", "GET a"))
	c.raw(1, pipeline("CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "SET a 3", "GET a"))
	c.raw(1, pipeline("CLIENT REPLY SKIP", "NOSUCH", "PING"))
	c.raw(2, pipeline("CLIENT REPLY ON", "CLIENT REPLY OFF", "INCR a", "INCR a", "CLIENT REPLY SKIP", "INCR a", "CLIENT REPLY ON"))
	c.do("GET a")
	c.raw(0, pipeline("CLIENT REPLY OFF"))
	c.raw(0, pipeline("SET a in-a-write-of-its-own"))
	c.raw(1, pipeline("CLIENT REPLY ON"))
	c.do("GET a")
	c.raw(2, pipeline("CLIENT REPLY OFF", "RESET", "PING"))
	c.do("PING")
	// The engine itself answers this with an array that lacks an element, and skips the reply after it.
	send, mark := fence(1)
	c.wire.send(append([]byte(pipeline("MULTI", "CLIENT REPLY SKIP", "GET a", "EXEC", "PING")), send...))
	c.record("CLIENT REPLY SKIP in MULTI", c.wire.until(mark))
}

func trackingStory(p *player) {
	if p.protocol == 2 {
		c, other := p.client(), p.client()
		c.all("CLIENT TRACKING ON", "GET k", "CLIENT TRACKINGINFO", "CLIENT GETREDIR")
		other.do("SET k v")
		c.all("GET k", "CLIENT TRACKING OFF", "CLIENT TRACKINGINFO", "CLIENT GETREDIR")
		return
	}
	c, other := p.client(), p.client()
	c.all("CLIENT TRACKING ON", "CLIENT TRACKINGINFO", "GET k")
	other.do("SET k 1")
	c.gets(1, "invalidation")
	other.do("SET k 2") // no client gets a second invalidation
	c.do("GET k")
	c.doN(2, "SET k mine")
	c.all("MGET k k2 k3")
	other.do("MSET k 1 k2 2")
	c.gets(2, "invalidations")
	c.do("GET k")
	other.do("FLUSHALL")
	c.gets(1, "invalidation of everything")
	c.all("CLIENT TRACKING OFF", "CLIENT TRACKING ON NOLOOP", "GET k", "SET k own", "GET k")
	other.do("DEL k")
	c.gets(1, "invalidation")
	c.all("CLIENT TRACKING OFF", "CLIENT TRACKING ON OPTIN", "GET k", "CLIENT CACHING YES", "GET k2", "CLIENT TRACKINGINFO")
	other.all("SET k 1", "SET k2 1")
	c.gets(1, "invalidation")
	c.all("CLIENT TRACKING OFF", "CLIENT TRACKING ON OPTOUT", "CLIENT CACHING NO", "GET k", "GET k2")
	other.all("SET k 1", "SET k2 1")
	c.gets(1, "invalidation")
	c.all("CLIENT TRACKING OFF", "CLIENT TRACKING ON BCAST PREFIX user: PREFIX cart:", "CLIENT TRACKINGINFO")
	other.all("SET user:1 x", "SET other:1 x", "SET cart:1 x")
	c.gets(2, "invalidations")
	c.all("CLIENT TRACKING OFF", "GET user:1")
	other.do("SET user:1 y")
	c.do("PING")
}

func redirectStory(p *player) {
	c, listener, other := p.client(), p.client(), p.client()
	id := listener.id()
	listener.do("SUBSCRIBE __redis__:invalidate")
	c.doSecret("CLIENT TRACKING ON REDIRECT (id)", "CLIENT TRACKING ON REDIRECT "+id)
	c.do("GET k")
	other.do("SET k 1")
	listener.gets(1, "invalidation")
	c.do("CLIENT TRACKING OFF")
	c.doSecret("CLIENT TRACKING ON REDIRECT (id) BCAST PREFIX u:", "CLIENT TRACKING ON BCAST PREFIX u: REDIRECT "+id)
	other.all("SET k 2", "SET u:1 2")
	listener.gets(1, "invalidation")
	c.do("PING")
}

func helloStory(p *player) {
	for _, line := range []string{"HELLO", "HELLO 2", "HELLO 3", "HELLO 4", "HELLO x", "HELLO 3 SETNAME me", "HELLO 2 SETNAME me", "HELLO 3 SETNAME \"a b\"",
		"HELLO 3 AUTH default wrong", "HELLO 3 AUTH nobody wrong", "HELLO 3 BOGUS", "HELLO 3 SETNAME", "HELLO 3 AUTH default x SETNAME both"} {
		c := p.connect()
		c.all(line, "CLIENT GETNAME", "HGETALL none", "GET none", "SMEMBERS none", "ZSCORE none x", "CLIENT INFO")
	}
	c := p.client()
	c.do("HSET h a 1")
	// The protocol changes between two commands of a pipeline.
	c.raw(6, pipeline("HGETALL h", "HELLO 3", "HGETALL h", "HELLO 2", "HGETALL h", "GET none"))
}

func selectStory(p *player) {
	c, other := p.client(), p.client()
	c.all("SELECT 1", "SET k in-1", "DBSIZE", "SELECT 0", "GET k", "DBSIZE")
	c.raw(6, pipeline("SELECT 2", "SET k in-2", "SELECT 1", "GET k", "SELECT 2", "GET k"))
	other.all("GET k", "SELECT 2", "GET k", "SELECT 15", "SELECT 16", "SELECT -1", "SELECT x", "GET k", "MOVE k 0", "SWAPDB 0 1", "SELECT 0", "GET k")
	c.all("GET k", "FLUSHDB", "DBSIZE", "SELECT 0", "DBSIZE")
}

func resetStory(p *player) {
	c := p.client()
	c.all("SELECT 3", "CLIENT SETNAME named", "WATCH k", "MULTI", "SET k 1", "RESET", "CLIENT GETNAME", "HGETALL none", "EXEC", "GET k", "CLIENT TRACKINGINFO", "CLIENT INFO")
	c.raw(4, pipeline("SELECT 3", "SET in-3 v", "RESET", "GET in-3"))
	c.do("RESET x")
}

func quitStory(p *player) {
	c := p.client()
	c.send("QUIT")
	c.ends("QUIT")
	c = p.client()
	c.wire.send([]byte(pipeline("SET a 1", "GET a", "QUIT", "SET a after")))
	c.ends("a pipeline with QUIT in it")
	c = p.client()
	c.send("QUIT x y")
	c.ends("QUIT with arguments")
	p.client().do("GET a")
}

func monitorStory(p *player) {
	p.client().do("MONITOR")
	p.client().do("MONITOR x")
}

func inlineStory(p *player) {
	c := p.connect()
	for _, line := range []string{"PING\r\n", "PING\n", "  PING  \r\n", "\r\n\r\n\nPING\r\n", "SET a \"x \\x41\\n y\"\r\n", "GET a\r\n", "SET a 'single \\' quote'\r\n",
		"GET a\r\n", "SET a \"\"\r\n", "GET a\r\n", "NOSUCH\r\n", "GET\r\n", "ECHO a\tb\r\n", "ECHO \"tab\tin\"\r\n", "ECHO \xff\r\n",
		"ECHO " + strings.Repeat("x", 60000) + "\r\n", "ping\r\n"} {
		c.raw(1, line)
	}
	c.raw(3, "SET i 1\r\nINCR i\r\n"+pipeline("GET i"))
	c.raw(6, "MULTI\r\nINCR i\r\nINCR i\nEXEC\r\nGET i\r\nHELLO 3\r\n")
	c.raw(2, "SUBSCRIBE inline\r\nPING\r\n")
	for _, line := range []string{"SET a \"unbalanced\r\n", "SET a 'unbalanced\r\n", "QUIT\r\n", "POST / HTTP/1.1\r\n", "Host: x\r\n"} {
		c := p.connect()
		c.wire.send([]byte(line))
		c.ends(fmt.Sprintf("%q", line))
	}
	for _, line := range []string{"SET a \"x\"y\r\n", "SET a 'x'y\r\n"} { // Valkey 9.1 reads one word, the other engines an error
		c := p.connect()
		send, mark := fence(1)
		c.wire.send(append([]byte(line), send...))
		c.record(fmt.Sprintf("%q", line), c.wire.until(mark))
	}
	c = p.connect()
	c.wire.send([]byte(strings.Repeat("x", 70000)))
	c.ends("a line that is too long")
}

func protocolErrorStory(p *player) {
	for _, b := range []string{"*x\r\n", "*2147483648\r\n", "*1\r\n$x\r\n", "*1\r\n$-1\r\n", "*1\r\n$536870913\r\n", "*1\r\n:1\r\n", "*1\r\nPING\r\n", "*1\r\n\r\n",
		"*2\r\n$4\r\nECHO\r\n3\r\nabc\r\n", "*1\r\n$4\r\nPINGxx*1\r\n+\r\n", "*1\r\n$99999999999999999999\r\n", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$-1\r\n",
		"*" + strings.Repeat("1", 70000), strings.Repeat("\xff\x00\x01\x80\n", 14000), "*1\r\n$" + strings.Repeat("1", 70000)} {
		c := p.client()
		c.do("SET before ok")
		c.wire.send([]byte(b))
		c.ends(cut([]byte(b)))
	}
	c := p.client()
	for _, b := range []string{"*-1\r\n", "*0\r\n", "*-5\r\n*0\r\n\r\n", "*1\r\n$0\r\n\r\n", "*1\n$4\r\nPING\r\n", "\xff\xfe\x80 \x01\r\n", "*2\r\n$4\r\nECHO\r\n$2\r\nabc\r\n", "$4\r\n", "+OK\r\n", ":1\r\n", ">1\r\n", "*01\r\n$04\r\nPING\r\n"} {
		n := 1
		if !strings.Contains("*-1\r\n*0\r\n*-5\r\n*0\r\n\r\n", b) {
			n = 2
		}
		switch b { // how this word is read differs between engines; the end of the connection shows it
		case "*1\n$4\r\nPING\r\n", "*01\r\n$04\r\nPING\r\n":
			d := p.client()
			send, mark := fence(1)
			d.wire.send(append([]byte(b), send...))
			d.record(fmt.Sprintf("%q", b), d.wire.until(mark))
		default:
			c.raw(n, b+pipeline("PING"))
		}
	}
	// Commands before a protocol error are answered, and those after it are not.
	d := p.client()
	d.wire.send([]byte(pipeline("SET a 1", "INCR a") + "*1\r\n!\r\n" + pipeline("INCR a")))
	d.ends("an error in a pipeline")
	c.do("GET a")
	c.raw(2, "*3\r\n$3\r\nSET\r\n$0\r\n\r\n$0\r\n\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n")
	// A client that disconnects in the middle of a command leaves nothing behind.
	e := p.client()
	e.wire.send([]byte("*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$10\r\nabc"))
	e.close()
	c.do("GET half")
}

func bigValueStory(p *player) {
	c := p.client()
	const size = 3 << 20
	value := strings.Repeat("0123456789abcde\n", size/16)
	c.record("SET big", func() []byte { c.wire.send(command("SET", "big", value)); return c.wire.frames(1) }())
	c.all("GET big", "STRLEN big", "GETRANGE big 1048570 1048580")
	c.raw(4, pipeline("GET big", "PING", "GET big", "ECHO x"))
	c.record("RPUSH of many", func() []byte {
		c.wire.send(command(append([]string{"RPUSH", "l"}, strings.Fields(strings.Repeat("item ", 20000))...)...))
		return c.wire.frames(1)
	}())
	c.do("LRANGE l 0 -1")
	pieces(command("SET", "pieces", value[:200<<10]), c.wire.send)
	c.gets(1, "SET in pieces")
	c.do("GET pieces")
}

func bigPipelineStory(p *player) {
	c := p.client()
	c.raw(1000, strings.Repeat(pipeline("INCR n"), 1000))
	c.raw(1000, strings.Repeat(pipeline("SET a 1", "GET a", "NOSUCH", "LPUSH a 1", "HGETALL none"), 200))
	value := strings.Repeat("v", 1000)
	c.raw(1000, strings.Repeat(pipeline("SET k "+value, "GET k"), 500))
	c.raw(1000, strings.Repeat("PING\r\n", 1000))
	c.raw(1001, strings.Repeat(pipeline("MULTI", "INCR n", "EXEC", "SELECT 1", "INCR n", "SELECT 0", "CLIENT SETNAME x", "CLIENT GETNAME", "WATCH n", "UNWATCH"), 100)+pipeline("GET n"))
}

// introductionStory introduces a client in one pipeline, as libraries do when they connect: each request is sent before the
// outcome of the earlier ones is known.
func introductionStory(p *player) {
	c := p.client()
	c.raw(6, pipeline("SELECT 1", "HELLO 2 SETNAME first", "SET in-1 v", "CLIENT SETNAME second", "SELECT 2", "CLIENT GETNAME"))
	c.raw(5, pipeline("WATCH a", "SELECT 1", "CLIENT SETNAME third", "SELECT 9999", "UNWATCH"))
	c.all("GET in-1", "CLIENT GETNAME")
	c.raw(6, pipeline("MULTI", "SELECT 2", "CLIENT SETNAME fourth", "SELECT 1", "CLIENT GETNAME", "EXEC"))
	c.all("GET in-1", "CLIENT GETNAME")
	moved := p.client()
	moved.raw(3, pipeline("SELECT 3", "HELLO 2", "SET in-3 v"))
	moved.all("GET in-3", "WATCH a", "GET in-3", "UNWATCH")
	spoken := p.client()
	spoken.raw(3, pipeline("WATCH a", "RESET", "SELECT 3"))
	spoken.all("GET in-3", "HGETALL none")
	other := p.client()
	other.all("GET in-3", "CLIENT GETNAME", "WATCH a", "GET in-3", "UNWATCH")
}

func byteStory(p *player) {
	c := p.client()
	for _, b := range []byte(pipeline("SET key \"value\\r\\n\"", "GET key", "MULTI", "INCR n", "EXEC") + "PING\r\n" + pipeline("SELECT 1", "GET key", "SUBSCRIBE c")) {
		c.wire.send([]byte{b})
	}
	c.gets(9, "commands that came byte by byte")
}

// An engine connection that another client has used before behaves like a new one.
func leftoverStory(p *player) {
	look := func() {
		c := p.connect()
		c.all("CLIENT GETNAME", "GET in-0", "HGETALL none", "CLIENT TRACKINGINFO", "CLIENT INFO", "MULTI", "PING", "EXEC", "EXEC", "PING", "ACL WHOAMI")
		c.close()
	}
	p.client().do("SET in-0 yes")
	for _, state := range [][]string{
		{"SELECT 4"}, {"CLIENT SETNAME somebody"}, {"HELLO 3"}, {"MULTI", "SET in-0 no"}, {"MULTI", "NOSUCH"}, {"WATCH in-0"}, {"CLIENT TRACKING ON"},
		{"CLIENT NO-EVICT ON"}, {"SUBSCRIBE c"}, {"PSUBSCRIBE c*"}, {"SSUBSCRIBE c"}, {"HELLO 3", "CLIENT TRACKING ON BCAST"}, {"MONITOR"},
		{"HELLO 3 SETNAME x", "SELECT 5", "WATCH a", "MULTI"}, {"READONLY"}, {"AUTH nobody wrong"},
	} {
		c := p.client()
		c.all(state...)
		c.close()
		look()
	}
	for _, state := range []string{"CLIENT REPLY OFF", "CLIENT REPLY SKIP", "BLPOP none 0"} {
		c := p.client()
		c.send(state)
		c.close()
		look()
	}
	p.blocked(0)
}

// Clients that share an engine each get their own replies, whatever the others do between two of their bytes.
func interleavedStory(p *player) {
	var clients []*peer
	for range 8 {
		clients = append(clients, p.client())
	}
	for round := range 5 {
		for n, c := range clients {
			c.all(fmt.Sprintf("SET k%d %d-%d", n, n, round), fmt.Sprintf("GET k%d", n))
		}
		for n, c := range clients {
			c.wire.send(command("ECHO", fmt.Sprint("mine-", n))[:9+n%5])
		}
		for n, c := range clients {
			c.wire.send(command("ECHO", fmt.Sprint("mine-", n))[9+n%5:])
		}
		for _, c := range clients {
			c.gets(1, "its own echo")
		}
		clients[round].all(fmt.Sprintf("SELECT %d", round+1), "CLIENT SETNAME c", "MULTI", "INCR n")
		clients[round+1].all("INCR n", "CLIENT GETNAME")
		clients[round].all("EXEC", "CLIENT GETNAME")
	}
}

func authStory(p *player, auth string) {
	for _, line := range []string{"PING", "GET k", "NOSUCH", "GET", "MULTI", "SUBSCRIBE c", "CLIENT ID", "HELLO", "HELLO 3", "COMMAND", "RESET", "ECHO x", "AUTH wrong",
		"AUTH default wrong", "AUTH", "AUTH a b c", "HELLO 3 AUTH default wrong", "BLPOP l 0", "MONITOR", "CLIENT REPLY ON"} {
		c := p.connect()
		c.do(line)
		c.do("GET k")
		c.doSecret("AUTH (right)", "AUTH "+auth)
		c.all("SET k v", "GET k", "AUTH wrong", "GET k", "ACL WHOAMI", "RESET", "GET k")
	}
	c := p.connect()
	c.doSecret("AUTH default (right)", "AUTH default "+auth)
	c.all("GET k", "CLIENT INFO")
	c = p.connect()
	c.doSecret("HELLO 3 AUTH default (right) SETNAME me", "HELLO 3 AUTH default "+auth+" SETNAME me")
	c.all("CLIENT GETNAME", "HGETALL none")
	c = p.connect()
	c.wire.send([]byte(pipeline("GET k", "AUTH "+auth, "GET k", "MULTI", "GET k", "EXEC")))
	c.gets(6, "AUTH in the middle of a pipeline")
	c = p.connect()
	c.wire.send([]byte("AUTH " + auth + "\r\nGET k\r\n"))
	c.gets(2, "AUTH inline")
	c = p.connect()
	c.send("QUIT")
	c.ends("QUIT without AUTH")
	// A client that has not logged in may send only small commands.
	for _, b := range []string{"*11\r\n", "*1\r\n$16385\r\n"} {
		c := p.connect()
		c.wire.send([]byte(b))
		c.ends(fmt.Sprintf("%q without AUTH", b))
	}
}
