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

// filterStory is CLIENT KILL or CLIENT LIST with filters. ID(v) and ADDR(v) stand for what the client v has.
type filterStory struct {
	words string
	first string // what v does before, if anything
}

// Three clients: a asks; v and o are two others. All have the user app, but for o. What v does before stands in front.
var filterStories = func() (all []filterStory) {
	for line := range strings.Lines(`CLIENT KILL ID ID(v)
CLIENT KILL ID ID(v) ID(o)
CLIENT KILL ID ID(v) ID ID(o)
CLIENT KILL ID ID(v) NAME v
CLIENT KILL ID ID(v) 7777777 NAME o
CLIENT KILL NOT-ID ID(v)
CLIENT KILL NOT-ID ID(v) ID(a) SKIPME no
CLIENT KILL ID 0
CLIENT KILL ID -1
CLIENT KILL ID x
CLIENT KILL ID 007
CLIENT KILL 1 2
CLIENT KILL ID ID(v) 5 x
CLIENT KILL ADDR ADDR(v)
CLIENT KILL NOT-ADDR ADDR(v)
CLIENT KILL LADDR 127.0.0.1:1
CLIENT KILL NOT-LADDR 127.0.0.1:1
CLIENT KILL ADDR(v)
CLIENT KILL 127.0.0.1:1
CLIENT KILL ID
CLIENT KILL
CLIENT KILL USER app
CLIENT KILL NOT-USER app
CLIENT KILL USER nobody
CLIENT KILL USER app SKIPME no
CLIENT KILL SKIPME maybe
CLIENT KILL TYPE normal
SUBSCRIBE c; CLIENT KILL TYPE pubsub
SUBSCRIBE c; CLIENT KILL NOT-TYPE pubsub
MONITOR; CLIENT KILL TYPE normal
MONITOR; CLIENT KILL TYPE pubsub
CLIENT KILL TYPE what
CLIENT KILL TYPE primary
CLIENT KILL NAME v
CLIENT KILL NAME x
CLIENT KILL NOT-NAME v
CLIENT KILL NAME V
CLIENT KILL LIB-NAME jedis
CLIENT KILL LIB-NAME jedis LIB-VER 2
CLIENT KILL NOT-LIB-NAME jedis
CLIENT KILL NOT-LIB-VER 2
CLIENT KILL DB 3
CLIENT KILL NOT-DB 3
CLIENT KILL DB 99
CLIENT KILL DB x
MULTI; CLIENT KILL FLAGS x
MULTI; CLIENT KILL NOT-FLAGS x
CLIENT KILL FLAGS N
SUBSCRIBE c; CLIENT KILL FLAGS NP
CLIENT KILL FLAGS b
MONITOR; CLIENT KILL FLAGS OS
CLIENT KILL FLAGS ?
CLIENT CAPA redirect; CLIENT KILL CAPA r
CLIENT CAPA redirect; CLIENT KILL NOT-CAPA r
CLIENT KILL CAPA z
CLIENT KILL IP 127.0.0.1
CLIENT KILL IP 127.0.0
CLIENT KILL NOT-IP 127.0.0.1
CLIENT KILL NOT-IP 1.2.3.4 DB 3
CLIENT KILL IDLE 1 MAXAGE 1
CLIENT KILL IDLE 5000
CLIENT KILL IDLE x
CLIENT KILL MAXAGE 1
CLIENT KILL MAXAGE 5000
CLIENT KILL MAXAGE 0
CLIENT KILL NEWER v
CLIENT KILL NAME v NEWER
CLIENT KILL NEWER ID ID(v)
CLIENT KILL NAME
CLIENT KILL NAME v NAME o
CLIENT KILL DB 3 USER app NAME v LIB-NAME jedis SKIPME yes
CLIENT LIST
CLIENT LIST ID ID(v)
CLIENT LIST ID ID(v) ID(o)
CLIENT LIST ID x
CLIENT LIST ID 0
CLIENT LIST ID
CLIENT LIST TYPE normal
SUBSCRIBE c; CLIENT LIST TYPE pubsub
CLIENT LIST TYPE normal ID ID(v)
CLIENT LIST ID ID(v) TYPE normal
CLIENT LIST TYPE what
MONITOR; CLIENT LIST TYPE normal
CLIENT LIST NAME v
CLIENT LIST NOT-NAME v
CLIENT LIST DB 3
CLIENT LIST NOT-DB 3
CLIENT LIST LIB-NAME jedis
CLIENT LIST LIB-VER 2
CLIENT LIST USER app
CLIENT LIST USER nobody
CLIENT LIST NOT-USER app
CLIENT LIST IP 127.0.0.1
MULTI; CLIENT LIST FLAGS x
MONITOR; CLIENT LIST FLAGS O
CLIENT LIST NOT-ID ID(v)
CLIENT LIST SKIPME yes
CLIENT LIST SKIPME no
CLIENT LIST ADDR ADDR(v)
CLIENT LIST LADDR 127.0.0.1:1
CLIENT LIST NEWER v
CLIENT CAPA redirect; CLIENT LIST CAPA r
CLIENT LIST IDLE 5000
CLIENT LIST MAXAGE 5000
CLIENT KILL ID 1 2 3 4 5 6 7 8
`) {
		first, words, ok := strings.Cut(strings.TrimSpace(line), "; ")
		if !ok {
			first, words = "", first
		}
		all = append(all, filterStory{words, first})
	}
	return all
}()

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
		if parts[1] == "ID" {
			return ids[parts[2]]
		}
		return clients[parts[2]].c.LocalAddr().String()
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
	e := newEngineOf(t, b, false)
	k := e.client()
	defer k.c.Close()
	k.want("CONFIG SET bind 127.0.0.1", "OK")
	answer := ""
	for range 20 { // another test may take a free port first
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		ln.Close()
		if answer = k.do("CONFIG SET port " + port); answer == "OK" {
			return &bareEngine{t: t, addr: "127.0.0.1:" + port}
		}
	}
	t.Fatalf("no port for a bare engine: %s", answer)
	return nil
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
