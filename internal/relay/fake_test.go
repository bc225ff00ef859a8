package relay_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/resp"
)

// dialogue is what an engine knows of one connection, and how it answers there. Each answer proves in which state it was
// given. A client whose connection is its own sees just this, so it is the oracle too.
type dialogue struct {
	id       int64
	user     string
	db       int
	proto    int
	name     string
	multi    bool
	aborted  bool
	watching bool
	queued   [][]string
	channels []string
	tracking bool
	silent   bool                // CLIENT REPLY OFF
	skip     bool                // CLIENT REPLY SKIP
	exec     bool                // is within EXEC
	over     bool                // it closes the connection
	touched  bool                // a module's command has left something here
	home     string              // the user at first, and after RESET
	did      func(args []string) // is told what is executed
	mute     bool                // a login that fails is not answered while there are replies to be sent, as in Redis 7.2 to 8.8
	drops    string              // the request with this token is not answered

	scan resp.CommandScanner
	part []byte
	out  []byte
}

func newDialogue(id int64) *dialogue {
	return &dialogue{id: id, user: "default", home: "default", proto: 2}
}

// hear takes what a client says and appends the answers to out.
func (d *dialogue) hear(b []byte) {
	for len(b) > 0 && !d.over {
		n, done, err := d.scan.Next(b)
		d.part = append(d.part, b[:n]...)
		b = b[n:]
		if err != nil {
			if d.over = true; !d.silent && !d.skip {
				d.out = append(d.out, "-ERR Protocol error\r\n"...)
			}
			return
		}
		if !done {
			return
		}
		var args []string
		for _, a := range resp.Arguments(nil, d.part) {
			args = append(args, string(a))
		}
		if args == nil && d.scan.Args() > 0 {
			args = []string{"quoted", string(d.part[:len(d.part)-2])}
		}
		d.part = d.part[:0]
		if len(args) > 0 {
			d.request(args)
		} else {
			d.skip = false // it counts as a request in Redis 7 and Valkey
		}
	}
}

func (d *dialogue) request(args []string) {
	before, skipped := len(d.out), d.skip
	d.skip = false
	d.answer(args)
	refused := d.mute && before > 0 && bytes.HasPrefix(d.out[before:], []byte("-WRONGPASS"))
	// What is pushed, and what comes of subscriptions, comes all the same (the engines' way).
	if turnedOn := strings.EqualFold(strings.Join(args, " "), "client reply on"); d.silent || skipped && !turnedOn {
		said := d.out[before:]
		d.out = append(d.out[:before:before], pushes(said, strings.HasSuffix(strings.ToLower(args[0]), "subscribe"))...)
	} else if refused || d.drops != "" && args[len(args)-1] == d.drops {
		d.out = d.out[:before]
	}
}

// pushes are those messages of an answer that are no replies; lists are too, if they confirm a subscription.
func pushes(said []byte, subscription bool) (kept []byte) {
	var scan resp.ReplyScanner
	for len(said) > 0 {
		n, _, err := scan.Next(said)
		if err != nil {
			panic(err) // it is the fake's own
		}
		message := bytes.HasPrefix(said, []byte("*3\r\n$7\r\nmessage\r\n"))
		if k := scan.Kind(); k == resp.Push || k == resp.Array && (subscription || message) {
			kept = append(kept, said[:n]...)
		}
		said = said[n:]
	}
	return kept
}

func (d *dialogue) line(format string, args ...any) {
	d.out = fmt.Appendf(d.out, format+"\r\n", args...)
}
func (d *dialogue) bulk(s string) { d.out = resp.Append(d.out, resp.Value{Kind: resp.Bulk, Str: s}) }

func (d *dialogue) null() {
	if d.proto == 3 {
		d.line("_")
	} else {
		d.line("$-1")
	}
}

// proof is what an answer says of the connection.
func (d *dialogue) proof() string {
	if d.touched {
		return "touched"
	}
	return d.user + "|" + strconv.Itoa(d.db) + "|" + strconv.Itoa(d.proto)
}

// message is what a subscriber gets.
func (d *dialogue) message(words ...string) {
	kind := "*"
	if d.proto == 3 {
		kind = ">"
	}
	d.line("%s%d", kind, len(words))
	for _, w := range words {
		d.bulk(w)
	}
}

func (d *dialogue) answer(args []string) {
	name := strings.ToLower(args[0])
	if len(d.channels) > 0 && d.proto == 2 {
		switch name {
		case "ping", "subscribe", "unsubscribe", "quit", "reset":
		default:
			last := args[len(args)-1]
			if name == "client" {
				last = args[1] // CLIENT REPLY OFF comes in other words
			}
			d.line("-ERR Can't execute '%s' in this context %s", name, last[:min(20, len(last))])
			return
		}
	}
	switch {
	case !d.multi:
	case name == "exec" || name == "discard" || name == "reset" || name == "quit" || name == "multi" || name == "watch":
	case name == "hello" || name == "blpop" && len(args) < 3 || name == "get" || name == "sealane.refused" || name == "mystery":
		d.aborted = true
		d.line("-ERR %s is not for transactions", name)
		return
	default:
		d.queued = append(d.queued, args)
		d.line("+QUEUED")
		return
	}
	if name != "echo" || len(args) < 2 || !strings.HasPrefix(args[1], "sealane-") { // that one is the relay's own
		for _, c := range d.channels {
			d.message("message", c, "before "+name)
		}
	}
	d.execute(name, args)
}

func (d *dialogue) execute(name string, args []string) {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	if d.did != nil {
		d.did(args)
	}
	switch name {
	case "ping":
		if len(d.channels) > 0 && d.proto == 2 {
			d.line("*2")
			d.bulk("pong")
			d.bulk(arg(1))
			return
		}
		d.line("+PONG %s", arg(1))
	case "echo":
		d.bulk(arg(1))
	case "mget": // the state in which it was asked, and by whom
		d.line("*2")
		d.bulk(arg(1) + "|" + d.proof())
		d.null()
		if d.tracking && d.proto == 3 && !d.exec {
			d.message("invalidate", arg(1))
		}
	case "getrange":
		n, _ := strconv.Atoi(arg(2))
		d.bulk(strings.Repeat(arg(1)+"|"+d.proof()+"|", n))
	case "set":
		d.line("+OK %d %s", len(arg(2)), arg(1))
	case "incr":
		d.line(":%d", len(arg(1))*1000+d.db)
	case "lrange":
		n, _ := strconv.Atoi(arg(2))
		d.line("*%d", n)
		for i := range n {
			if i%3 == 0 {
				d.line(":%d", i)
			} else if i%3 == 1 {
				d.null()
			} else {
				d.line("*1")
				d.bulk(arg(1))
			}
		}
	case "eval", "blpop":
		d.line("*2")
		d.bulk(name + " " + arg(1))
		d.bulk(d.proof())
	default:
		d.change(name, args, arg)
	}
}

// change has the requests that change the connection.
func (d *dialogue) change(name string, args []string, arg func(int) string) {
	switch name {
	case "auth":
		if len(args) != 3 || arg(2) != "pw-"+arg(1) {
			d.line("-WRONGPASS %s", arg(1))
			return
		}
		d.user = arg(1)
		d.line("+OK")
	case "select":
		n, err := strconv.Atoi(arg(1))
		if err != nil || n < 0 || n > 15 {
			d.line("-ERR DB index is out of range")
			return
		}
		d.db = n
		d.line("+OK")
	case "hello":
		d.hello(args)
	case "multi":
		if d.multi {
			d.line("-ERR MULTI calls can not be nested")
			return
		}
		d.multi = true
		d.line("+OK")
	case "exec", "discard":
		d.endTransaction(name)
	case "watch":
		if d.multi {
			d.line("-ERR WATCH inside MULTI is not allowed")
			return
		}
		d.watching = true
		d.line("+OK")
	case "unwatch":
		d.watching = false
		d.line("+OK")
	case "subscribe", "unsubscribe":
		d.subscribe(name, args[1:])
	case "reset":
		*d = dialogue{id: d.id, user: d.home, home: d.home, did: d.did, mute: d.mute, proto: 2, scan: d.scan, part: d.part, out: d.out}
		d.line("+RESET")
	case "quit":
		d.line("+OK")
		d.over = true
	case "client":
		d.client(strings.ToLower(arg(1)), arg)
	default:
		d.newer(name, arg(1))
	}
}

// newer has commands that the relay has to ask about.
func (d *dialogue) newer(name, arg string) {
	switch name {
	case "command":
		d.line("*3")
		d.describe("newer", "readonly fast", "@read @string")
		d.describe("mod.touch", "write module", "")
		d.describe("newstate", "noscript", "@connection")
	case "newer":
		d.bulk(d.proof())
	case "mod.touch":
		d.touched = true
		d.line("+TOUCHED")
	case "newstate":
		d.line("+OK")
	case "info": // of Redis 8.8
		d.bulk("# Clients\r\nconnected_clients:1\r\nmaxclients:10000\r\nactive_clients:1\r\nblocked_clients:0\r\n")
	default:
		d.line("-ERR unknown command %s %s", name, arg)
	}
}

// describe is an element of COMMAND's reply.
func (d *dialogue) describe(name, flags, categories string) {
	list := func(words string) {
		all := strings.Fields(words)
		d.line("*%d", len(all))
		for _, w := range all {
			d.line("+%s", w)
		}
	}
	d.line("*7")
	d.bulk(name)
	d.line(":-1")
	list(flags)
	d.line(":1\r\n:1\r\n:1")
	list(categories)
}

func (d *dialogue) endTransaction(name string) {
	if !d.multi {
		d.line("-ERR %s without MULTI", strings.ToUpper(name))
		return
	}
	queued, aborted := d.queued, d.aborted
	d.multi, d.aborted, d.watching, d.queued = false, false, false, nil
	switch {
	case name == "discard":
		d.line("+OK")
	case aborted:
		d.line("-EXECABORT Transaction discarded")
	default:
		d.line("*%d", len(queued))
		d.exec = true
		for _, q := range queued {
			d.execute(strings.ToLower(q[0]), q)
		}
		d.exec = false
	}
}

func (d *dialogue) hello(args []string) {
	if len(args) > 1 {
		if args[1] != "2" && args[1] != "3" {
			d.line("-NOPROTO unsupported protocol version")
			return
		}
		rest, user := args[2:], d.user
		if len(rest) >= 3 && strings.EqualFold(rest[0], "auth") {
			if rest[2] != "pw-"+rest[1] {
				d.line("-WRONGPASS %s", rest[1])
				return
			}
			user, rest = rest[1], rest[3:]
		}
		if len(rest) >= 2 && strings.EqualFold(rest[0], "setname") {
			d.name, rest = rest[1], rest[2:]
		}
		if len(rest) > 0 {
			d.line("-ERR Syntax error in HELLO option")
			return
		}
		d.user, d.proto = user, int(args[1][0]-'0')
	}
	if d.proto == 3 {
		d.line("%%2")
	} else {
		d.line("*4")
	}
	d.bulk("id")
	d.line(":%d", d.id)
	d.bulk("proof") // without the database, which the engines don't tell here either
	d.bulk(d.user + "|" + strconv.Itoa(d.proto))
}

func (d *dialogue) subscribe(name string, channels []string) {
	if name == "unsubscribe" && len(channels) == 0 {
		if channels = append(channels, d.channels...); len(channels) == 0 {
			d.confirm(name, "")
			return
		}
	}
	for _, c := range channels {
		at := -1
		for i := range d.channels {
			if d.channels[i] == c {
				at = i
			}
		}
		switch {
		case name == "subscribe" && at < 0:
			d.channels = append(d.channels, c)
		case name == "unsubscribe" && at >= 0:
			d.channels = append(d.channels[:at:at], d.channels[at+1:]...)
		}
		d.confirm(name, c)
		if name == "subscribe" {
			d.message("message", c, strings.Repeat("m", 1+len(c)*7%900))
		}
	}
}

func (d *dialogue) confirm(name, channel string) {
	if d.proto == 3 {
		d.line(">3")
	} else {
		d.line("*3")
	}
	d.bulk(name)
	if channel == "" {
		d.null()
	} else {
		d.bulk(channel)
	}
	d.line(":%d", len(d.channels))
}

func (d *dialogue) client(sub string, arg func(int) string) {
	switch sub {
	case "id":
		d.line(":%d", d.id)
	case "getname":
		if d.name == "" {
			d.null()
		} else {
			d.bulk(d.name)
		}
	case "setname":
		d.name = arg(2)
		d.line("+OK")
	case "tracking":
		d.tracking = strings.EqualFold(arg(2), "on")
		d.line("+OK")
	case "reply":
		switch strings.ToLower(arg(2)) {
		case "on":
			d.silent, d.skip = false, false
			d.line("+OK")
		case "off":
			d.silent = true
		case "skip":
			d.skip = true
		}
	default: // no-evict and the like
		d.line("+OK")
	}
}

// fake is an engine of many connections. It answers in pieces, late, and breaks off as its seed says.
type fake struct {
	t       testing.TB
	seed    uint64
	cutting int // one in so many connections breaks off; 0: none
	failing int // one in so many attempts fails; 0: none
	mute    bool
	drops   string

	life    sync.RWMutex // guards the next two; nothing is executed while they are changed
	serves  string       // the engine that executes requests; "": that of connect
	hanging bool         // the others accept connections

	last    atomic.Int64
	tries   atomic.Int64
	cut     atomic.Int64 // connections that broke off
	stopped chan struct{}
	serving sync.WaitGroup
	mu      sync.Mutex // guards open and done
	open    map[net.Conn]bool
	done    map[string]int // by the token of a request that changes something
	read    map[string]int // by that of one which does not
}

// note counts what was executed.
func (f *fake) note(args []string) {
	if len(args) < 2 || args[0][0] == 'C' || strings.EqualFold(args[0], "hello") || strings.EqualFold(args[0], "auth") {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch strings.ToLower(args[0]) {
	case "mget", "getrange", "lrange", "echo", "ping":
		f.read[args[1]]++
	default:
		f.done[args[1]]++
	}
}

func newFake(t testing.TB, seed uint64) *fake {
	return &fake{t: t, seed: seed, open: make(map[net.Conn]bool), done: make(map[string]int), read: make(map[string]int), stopped: make(chan struct{})}
}

// connect is Backend.Connect, where there is one engine.
func (f *fake) connect() (int, error) { return f.connectTo("") }

func (f *fake) connectTo(engine string) (int, error) {
	if n := f.tries.Add(1); f.failing > 0 && n%int64(f.failing) == 0 || !f.listens(engine) {
		return -1, syscall.ECONNREFUSED
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	file := os.NewFile(uintptr(fds[1]), "engine")
	c, err := net.FileConn(file)
	file.Close()
	if err != nil {
		unix.Close(fds[0])
		return -1, err
	}
	id := 1_000_000 + f.last.Add(1) // no client has such an id
	f.mu.Lock()
	f.open[c] = true
	f.mu.Unlock()
	f.serving.Go(func() { f.serve(c, id, engine) })
	return fds[0], nil
}

func (f *fake) serve(c net.Conn, id int64, engine string) {
	defer func() {
		f.mu.Lock()
		delete(f.open, c)
		f.mu.Unlock()
		c.Close()
	}()
	rnd := rand.New(rand.NewPCG(f.seed, uint64(id)))
	budget := -1
	if f.cutting > 0 && rnd.IntN(f.cutting) == 0 {
		budget = rnd.IntN([]int{50, 2000, 100000}[rnd.IntN(3)])
	}
	d := newDialogue(id)
	d.did, d.mute, d.drops = f.note, f.mute, f.drops
	in := make([]byte, 64<<10)
	for !d.over {
		n, err := c.Read(in[:1+rnd.IntN(len(in))])
		if err != nil {
			return
		}
		if !f.alive(engine, func() { d.hear(in[:n]) }) {
			<-f.stopped
			return
		}
		out := d.out
		for len(out) > 0 {
			k := min(len(out), 1+rnd.IntN([]int{3, 100, 5000, 200000}[rnd.IntN(4)]))
			if budget >= 0 && k >= budget {
				c.Write(out[:budget])
				f.cut.Add(1)
				return
			}
			if budget >= 0 {
				budget -= k
			}
			if _, err := c.Write(out[:k]); err != nil {
				return
			}
			if rnd.IntN(20) == 0 {
				time.Sleep(time.Duration(rnd.IntN(300)) * time.Microsecond)
			}
			out = out[k:]
		}
		d.out = d.out[:0]
	}
	// As an engine does: what it has said arrives although there is input that it does not read.
	c.(*net.UnixConn).CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.Copy(io.Discard, c)
}

func (f *fake) listens(engine string) bool {
	f.life.RLock()
	defer f.life.RUnlock()
	return engine == f.serves || f.hanging
}

// alive lets an engine execute something, unless it has ended or hangs.
func (f *fake) alive(engine string, execute func()) bool {
	f.life.RLock()
	defer f.life.RUnlock()
	if engine != f.serves {
		return false
	}
	execute()
	return true
}

// lose ends the engine that serves: at once, or it hangs for ever.
func (f *fake) lose(hangs bool) {
	f.replace("none", hangs)
	if !hangs {
		f.closeAll()
	}
}

// replace makes another engine the one that serves.
func (f *fake) replace(engine string, hangs bool) {
	f.life.Lock()
	defer f.life.Unlock()
	f.serves, f.hanging = engine, hangs
}

func (f *fake) closeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.open {
		c.Close()
	}
}

// stop closes all connections and waits for them.
func (f *fake) stop() {
	close(f.stopped)
	f.closeAll()
	f.serving.Wait()
}
