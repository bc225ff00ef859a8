package clientlist

import (
	"strings"
	"testing"
	"time"
)

const engine = "id=7 addr=/run/e:0 laddr=/run/e:0 fd=9 name=old age=100 idle=50 flags=U db=3 sub=2 psub=0 multi=1 qbuf=26 events=rw cmd=exec user=app redir=5 resp=3 lib-name=x lib-ver=1 tot-net-in=9 tot-net-out=9 tot-cmds=9 new=text"

func client() *Client {
	return &Client{
		ID: 4, Addr: "10.0.0.1:5000", LAddr: "10.0.0.2:6378", FD: 12, Name: "me", LibName: "jedis", LibVer: "5", User: "default", DB: 1, Proto: 2,
		Age: 61 * time.Second, Idle: 2 * time.Second, BytesIn: 10, BytesOut: 20, Commands: 3, LastCommand: "get",
		RedirectedTo: func(n int64) int64 { return n + 100 },
	}
}

func TestLineOfAClient(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change    func(*Client)
		dedicated bool
		want      string
	}{
		"with a dedicated connection what the engine knows is shown": {dedicated: true,
			want: "id=4 addr=10.0.0.1:5000 laddr=10.0.0.2:6378 fd=12 name=me age=61 idle=2 flags=N db=3 sub=2 psub=0 multi=1 qbuf=26 events=rw cmd=exec user=app redir=105 resp=3 lib-name=jedis lib-ver=5 tot-net-in=10 tot-net-out=20 tot-cmds=3 new=text"},
		"on a shared connection nothing of it is": {
			want: "id=4 addr=10.0.0.1:5000 laddr=10.0.0.2:6378 fd=12 name=me age=61 idle=2 flags=N db=1 sub=0 psub=0 multi=-1 qbuf=0 events=r cmd=get user=default redir=-1 resp=2 lib-name=jedis lib-ver=5 tot-net-in=10 tot-net-out=20 tot-cmds=3 new="},
		"a subscriber behind a Unix socket": {change: func(c *Client) { c.Subscriber, c.UnixSocket = true, true },
			want: "id=4 addr=10.0.0.1:5000 laddr=10.0.0.2:6378 fd=12 name=me age=61 idle=2 flags=PU db=1 sub=0 psub=0 multi=-1 qbuf=0 events=r cmd=get user=default redir=-1 resp=2 lib-name=jedis lib-ver=5 tot-net-in=10 tot-net-out=20 tot-cmds=3 new="},
	} {
		cl := client()
		if c.change != nil {
			c.change(cl)
		}
		if got := cl.Line(Parse(engine), c.dedicated).String(); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}

func TestFiltersAgainstALine(t *testing.T) {
	t.Parallel()
	line := Parse("id=4 addr=10.0.0.1:5000 laddr=10.0.0.2:6378 name=me age=61 idle=2 flags=P db=1 user=app lib-name=jedis lib-ver=5 capa=r")
	for words, want := range map[string]bool{
		"id 4": true, "id 5": false, "id 5 4": true, "not-id 4": false, "not-id 5": true, "addr 10.0.0.1:5000": true, "not-addr 10.0.0.1:5000": false,
		"laddr x": false, "ip 10.0.0.1": true, "ip 10.0.0.2": false, "user app": true, "USER app": true, "not-user app": false, "type pubsub": true, "type normal": false,
		"name me": true, "name ME": false, "lib-name jedis": true, "lib-ver 6": false, "db 1": true, "flags P": true, "flags N": false, "capa r": true,
		"idle 2": true, "idle 3": false, "maxage 61": true, "maxage 62": false, "skipme yes": true, "user app name you": false, "name you name me": true,
	} {
		f, check := ParseFilter(fields(words))
		if f.Unknown {
			t.Errorf("%s is not understood", words)
		}
		if got := f.Matches(line); got != want {
			t.Errorf("%s matches: %t; want %t", words, got, want)
		}
		for i, w := range strings.Fields(words) {
			if n := number(w); n > 0 && strings.HasSuffix(strings.ToLower(strings.Fields(words)[0]), "id") && check[i] != NoID {
				t.Errorf("%s: the engine is asked of %s, which may be another's connection", words, check[i])
			}
		}
	}
	for _, words := range []string{"what", "id", "idle x", "type what", "db -", "not-idle 3", "not-maxage 3", "name"} {
		if f, _ := ParseFilter(fields(words)); !f.Unknown && words != "id" {
			t.Errorf("%s is understood", words)
		}
	}
}

func TestRedisGoesByTheLastID(t *testing.T) {
	t.Parallel()
	f, _ := ParseFilter(fields("id 3 id 4"))
	if !f.Matches(Parse("id=3")) || !f.Matches(Parse("id=4")) {
		t.Error("Valkey goes by all ids")
	}
	f.AsRedis()
	if f.Matches(Parse("id=3")) || !f.Matches(Parse("id=4")) {
		t.Error("Redis goes by the last one")
	}
}

func fields(words string) (args [][]byte) {
	for _, w := range strings.Fields(words) {
		args = append(args, []byte(w))
	}
	return args
}

// A line that is written and read again is the same.
func FuzzLine(f *testing.F) {
	f.Add(engine)
	f.Add("id=1 addr=/a path=b with spaces:0 x")
	f.Fuzz(func(t *testing.T, text string) {
		once := Parse(text).String()
		if again := Parse(once).String(); again != once {
			t.Errorf("%q is read as %q", once, again)
		}
		client().Line(Parse(text), len(text)%2 == 0)
	})
}

// No id that a client names is one that the engine is asked of.
func FuzzFilter(f *testing.F) {
	f.Add("id 3 4 user x not-id 5 skipme no")
	f.Fuzz(func(t *testing.T, words string) {
		args := fields(words)
		filter, check := ParseFilter(args)
		if len(check) > len(args) {
			t.Errorf("%d words become %d", len(args), len(check))
		}
		if filter.Unknown {
			return // the engine gets the words, and what it says is not followed
		}
		filter.Matches(Parse(engine))
		for i, w := range check {
			if isNumber(w) && number(w) > 0 && w != NoID && i > 0 && strings.HasSuffix(strings.ToLower(check[i-1]), "id") && strings.ToLower(check[i-1]) != "skipme" {
				t.Errorf("%q: the engine is asked of id %s", words, w)
			}
		}
	})
}
