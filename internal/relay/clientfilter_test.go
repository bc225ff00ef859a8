package relay_test

import (
	"bufio"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
)

// filterStory is CLIENT KILL or CLIENT LIST with filters. ID(v), ADDR(v) and so on stand for what the client v has.
type filterStory struct {
	words string
	first string // what v does before, if anything
}

// Three clients: a asks; v and o are two others. All have the user app, but for o.
var filterStories = []filterStory{
	{words: "CLIENT KILL ID ID(v)"}, {words: "CLIENT KILL ID ID(v) ID(o)"}, {words: "CLIENT KILL ID ID(v) ID ID(o)"},
	{words: "CLIENT KILL ID ID(v) NAME v"}, {words: "CLIENT KILL ID ID(v) 7777777 NAME o"}, {words: "CLIENT KILL NOT-ID ID(v)"},
	{words: "CLIENT KILL NOT-ID ID(v) ID(a) SKIPME no"},
	{words: "CLIENT KILL ID 0"}, {words: "CLIENT KILL ID -1"}, {words: "CLIENT KILL ID x"}, {words: "CLIENT KILL ID 007"},
	{words: "CLIENT KILL 1 2"}, {words: "CLIENT KILL ID ID(v) 5 x"}, {words: "CLIENT KILL ADDR ADDR(v)"},
	{words: "CLIENT KILL NOT-ADDR ADDR(v)"}, {words: "CLIENT KILL LADDR 127.0.0.1:1"}, {words: "CLIENT KILL NOT-LADDR 127.0.0.1:1"},
	{words: "CLIENT KILL ADDR(v)"}, {words: "CLIENT KILL 127.0.0.1:1"}, {words: "CLIENT KILL ID"}, {words: "CLIENT KILL"},
	{words: "CLIENT KILL USER app"}, {words: "CLIENT KILL NOT-USER app"}, {words: "CLIENT KILL USER nobody"},
	{words: "CLIENT KILL USER app SKIPME no"}, {words: "CLIENT KILL SKIPME maybe"}, {words: "CLIENT KILL TYPE normal"},
	{words: "CLIENT KILL TYPE pubsub", first: "SUBSCRIBE c"}, {words: "CLIENT KILL NOT-TYPE pubsub", first: "SUBSCRIBE c"},
	{words: "CLIENT KILL TYPE normal", first: "MONITOR"}, {words: "CLIENT KILL TYPE pubsub", first: "MONITOR"},
	{words: "CLIENT KILL TYPE what"}, {words: "CLIENT KILL TYPE primary"}, {words: "CLIENT KILL NAME v"},
	{words: "CLIENT KILL NAME x"}, {words: "CLIENT KILL NOT-NAME v"}, {words: "CLIENT KILL NAME V"},
	{words: "CLIENT KILL LIB-NAME jedis"}, {words: "CLIENT KILL LIB-NAME jedis LIB-VER 2"}, {words: "CLIENT KILL NOT-LIB-NAME jedis"},
	{words: "CLIENT KILL NOT-LIB-VER 2"}, {words: "CLIENT KILL DB 3"}, {words: "CLIENT KILL NOT-DB 3"}, {words: "CLIENT KILL DB 99"},
	{words: "CLIENT KILL DB x"}, {words: "CLIENT KILL FLAGS x", first: "MULTI"}, {words: "CLIENT KILL NOT-FLAGS x", first: "MULTI"},
	{words: "CLIENT KILL FLAGS N"}, {words: "CLIENT KILL FLAGS NP", first: "SUBSCRIBE c"}, {words: "CLIENT KILL FLAGS b"},
	{words: "CLIENT KILL FLAGS OS", first: "MONITOR"}, {words: "CLIENT KILL FLAGS ?"}, {words: "CLIENT KILL CAPA r", first: "CLIENT CAPA redirect"},
	{words: "CLIENT KILL NOT-CAPA r", first: "CLIENT CAPA redirect"}, {words: "CLIENT KILL CAPA z"}, {words: "CLIENT KILL IP 127.0.0.1"},
	{words: "CLIENT KILL IP 127.0.0"}, {words: "CLIENT KILL NOT-IP 127.0.0.1"}, {words: "CLIENT KILL NOT-IP 1.2.3.4 DB 3"},
	{words: "CLIENT KILL IDLE 1 MAXAGE 1"}, {words: "CLIENT KILL IDLE 5000"}, {words: "CLIENT KILL IDLE x"}, {words: "CLIENT KILL MAXAGE 1"},
	{words: "CLIENT KILL MAXAGE 5000"}, {words: "CLIENT KILL MAXAGE 0"}, {words: "CLIENT KILL NEWER v"}, {words: "CLIENT KILL NAME v NEWER"},
	{words: "CLIENT KILL NEWER ID ID(v)"}, {words: "CLIENT KILL NAME"}, {words: "CLIENT KILL NAME v NAME o"},
	{words: "CLIENT KILL DB 3 USER app NAME v LIB-NAME jedis SKIPME yes"},
	{words: "CLIENT LIST"}, {words: "CLIENT LIST ID ID(v)"}, {words: "CLIENT LIST ID ID(v) ID(o)"}, {words: "CLIENT LIST ID x"},
	{words: "CLIENT LIST ID 0"}, {words: "CLIENT LIST ID"}, {words: "CLIENT LIST TYPE normal"}, {words: "CLIENT LIST TYPE pubsub", first: "SUBSCRIBE c"},
	{words: "CLIENT LIST TYPE normal ID ID(v)"}, {words: "CLIENT LIST ID ID(v) TYPE normal"}, {words: "CLIENT LIST TYPE what"},
	{words: "CLIENT LIST TYPE normal", first: "MONITOR"}, {words: "CLIENT LIST NAME v"}, {words: "CLIENT LIST NOT-NAME v"},
	{words: "CLIENT LIST DB 3"}, {words: "CLIENT LIST NOT-DB 3"}, {words: "CLIENT LIST LIB-NAME jedis"}, {words: "CLIENT LIST LIB-VER 2"},
	{words: "CLIENT LIST USER app"}, {words: "CLIENT LIST USER nobody"}, {words: "CLIENT LIST NOT-USER app"}, {words: "CLIENT LIST IP 127.0.0.1"},
	{words: "CLIENT LIST FLAGS x", first: "MULTI"}, {words: "CLIENT LIST FLAGS O", first: "MONITOR"}, {words: "CLIENT LIST NOT-ID ID(v)"},
	{words: "CLIENT LIST SKIPME yes"}, {words: "CLIENT LIST SKIPME no"}, {words: "CLIENT LIST ADDR ADDR(v)"}, {words: "CLIENT LIST LADDR 127.0.0.1:1"},
	{words: "CLIENT LIST NEWER v"}, {words: "CLIENT LIST CAPA r", first: "CLIENT CAPA redirect"}, {words: "CLIENT LIST IDLE 5000"},
	{words: "CLIENT LIST MAXAGE 5000"}, {words: "CLIENT KILL ID 1 2 3 4 5 6 7 8"},
}

// Whom CLIENT KILL ends and CLIENT LIST shows is what an engine of the same version does with clients of its own; an
// error is the engine's.
func TestFiltersOfClientKillAndList(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		bare := newBareEngine(t, b)
		admin(bare.client())
		wants := map[string]string{}
		for _, behind := range []*realEngine{newEngineOf(t, b, false), newEngineOf(t, b, true)} {
			admin(behind.client())
			for _, transaction := range []bool{false, true} {
				for i, story := range filterStories {
					// An engine that ends the client which asks within a transaction says nothing of the transaction.
					if transaction && (i%4 > 0 || story.first != "" || story.ages() || strings.Contains(story.words, "SKIPME no")) {
						continue
					}
					key := fmt.Sprint(story, transaction)
					if wants[key] == "" {
						wants[key] = story.play(t, bare.client, transaction)
					}
					if got, want := story.play(t, behind.client, transaction), wants[key]; got != want {
						t.Errorf("%s (multiplexed %t, transaction %t, after %q)\n got %s\nwant %s", story.words, behind.base.Multiplexed, transaction,
							story.first, got, want)
					}
				}
			}
		}
	})
}

func admin(k *talker) {
	k.want("ACL SETUSER app on nopass ~* &* +@all", "OK")
	k.c.Close()
	if k.session != nil {
		<-k.session.Done()
	}
}

// ages says that clients have to be some seconds old.
func (story filterStory) ages() bool { return strings.HasSuffix(story.words, "MAXAGE 1") }

var placeholder = regexp.MustCompile(`(ID|ADDR)\((\w)\)`)

// play returns the answer, and who is left afterwards.
func (story filterStory) play(t *testing.T, connect func() *talker, transaction bool) string {
	t.Helper()
	clients := map[string]*talker{"a": connect(), "v": connect(), "o": connect()}
	ids := map[string]string{}
	for name, k := range clients {
		if name != "o" {
			k.want("AUTH app any", "OK")
		}
		k.want("CLIENT SETNAME "+name, "OK")
		k.do("CLIENT SETINFO LIB-NAME jedis")
		k.do("CLIENT SETINFO LIB-VER " + map[string]string{"a": "1", "v": "2", "o": "3"}[name])
		ids[name] = k.id()
	}
	clients["v"].want("SELECT 3", "OK")
	if story.first != "" {
		clients["v"].do(story.first)
	}
	// Those of the story before may not have gone yet.
	ready := func(l string) bool {
		return strings.Count(l, "\n") == 3 && (!story.ages() || !strings.Contains(l, " age=0 ") && strings.Count(l, " idle=0 ") < 2)
	}
	for until := time.Now().Add(patience); !ready(clients["a"].do("CLIENT LIST")) && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
	}
	words := placeholder.ReplaceAllStringFunc(story.words, func(m string) string {
		parts := placeholder.FindStringSubmatch(m)
		return map[string]string{"ID": ids[parts[2]], "ADDR": clients[parts[2]].c.LocalAddr().String()}[parts[1]]
	})
	var answer string
	if transaction {
		clients["a"].want("MULTI", "OK")
		answer = clients["a"].do(words) + " " + clients["a"].do("ECHO x") + " " + clients["a"].do("EXEC")
	} else {
		answer = clients["a"].do(words)
	}
	if strings.Contains(answer, "addr=") {
		answer = fmt.Sprint(regexp.MustCompile(` name=\w* `).FindAllString(answer, -1))
	}
	left := ""
	for _, name := range []string{"a", "v", "o"} {
		if clients[name].lives() {
			left += name
		}
	}
	for _, k := range clients {
		k.c.Close()
		if k.session != nil {
			<-k.session.Done()
		}
	}
	return fmt.Sprintf("%q, left: %s", answer, left)
}

// lives says whether the client is still served.
func (k *talker) lives() bool {
	_ = k.send("PING")
	for {
		switch got := k.next(); {
		case got == "closed" || got == "nothing in time":
			return false
		case strings.EqualFold(strings.Trim(got, "[] "), "pong") || got == "QUEUED":
			return true
		}
	}
}

// bareEngine is an engine whose clients come straight to it, by TCP.
type bareEngine struct {
	t    testing.TB
	addr string
}

func newBareEngine(t testing.TB, b engine.Binary) *bareEngine {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	e := newEngineOf(t, b, false)
	k := e.client()
	k.want("CONFIG SET bind 127.0.0.1", "OK")
	k.want("CONFIG SET port "+port, "OK")
	k.c.Close()
	return &bareEngine{t: t, addr: "127.0.0.1:" + port}
}

func (e *bareEngine) client() *talker {
	e.t.Helper()
	c, err := net.Dial("tcp", e.addr)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &talker{t: e.t, c: c, r: bufio.NewReaderSize(c, 64<<10)}
}
