package e2e_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// SEALANE_CORPUS=all runs the whole corpus on each engine, and not only on the first one. It is read here because TestMain removes
// Sealane's variables from the environment.
var wholeCorpus = os.Getenv("SEALANE_CORPUS") == "all"

// An engine's direct answers and its answers behind each data path are the same bytes. That holds for every command of every
// engine that was found, whatever the arguments, the protocol and the way in which the bytes are cut. Only volatile and
// unordered, in corpus_rules_test.go, are exempt.
func TestSameRepliesAsTheEngine(t *testing.T) {
	t.Parallel()
	for n, e := range allEngines(t) {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			onEveryDataPath(t, func(t *testing.T, path string) {
				for _, protocol := range []int{2, 3} {
					// Engines beyond the first run one protocol on each path, so that both protocols are covered.
					if n > 0 && !wholeCorpus && (path == "transparent") == (protocol == 3) {
						continue
					}
					t.Run(fmt.Sprint("RESP", protocol), func(t *testing.T) {
						t.Parallel()
						sameReplies(t, e, path, protocol)
					})
				}
			})
		})
	}
}

// throughSidecar is used in place of a data path. It means a sidecar in front of an instance on the transparent path.
const throughSidecar = "sidecar"

// A client without TLS gets the same bytes through a sidecar.
func TestSameRepliesThroughASidecar(t *testing.T) {
	t.Parallel()
	for n, e := range allEngines(t) {
		if n > 0 && !wholeCorpus {
			break
		}
		for _, protocol := range []int{2, 3} {
			t.Run(fmt.Sprint(e.name, "/RESP", protocol), func(t *testing.T) {
				t.Parallel()
				sameReplies(t, e, throughSidecar, protocol)
			})
		}
	}
}

func sameReplies(t *testing.T, e testEngine, path string, protocol int) {
	s := startServer(t, serverOptions{config: e.config()})
	create := func(name string, flags ...string) instance {
		if path == throughSidecar {
			return s.create(name, flags...)
		}
		return s.createOn(path, name, flags...)
	}
	open := create("open")
	both := newSides(t, s, e, path, open, s.bundle("open"), "")
	specs := both.specs()
	for _, m := range []manner{oneByOne, pipelined, cutAtRandom} {
		t.Run(string(m), func(t *testing.T) {
			for _, g := range slices.Concat(groups(), wrongCalls(specs)) {
				if m != oneByOne {
					g = g.without("SCRIPT DEBUG") // its reply depends on whether more input has arrived
				}
				both.play(t, g.name, protocol, func(p *player) { p.group(g, m) })
			}
		})
	}
	t.Run("stories", func(t *testing.T) {
		for _, story := range stories {
			both.play(t, story.name, protocol, story.play)
		}
	})
	t.Run("AUTH", func(t *testing.T) {
		locked := create("locked", "--enable-auth")
		auth := strings.TrimSpace(s.cli("instances", "get-auth-string", "locked"))
		newSides(t, s, e, path, locked, s.bundle("locked"), auth).play(t, "AUTH", protocol, func(p *player) { authStory(p, auth) })
	})
	if strings.Count(flag.Lookup("test.run").Value.String(), "/") > 3 {
		return // only a part of the corpus ran
	}
	for _, name := range both.unanswered(specs) {
		t.Logf("%s: no call in corpus_calls_test.go is answered with anything but an error", name)
	}
}

// manner is how the commands of a group are sent.
type manner string

const (
	oneByOne    manner = "one by one"    // each waits for the answer to the previous one
	pipelined   manner = "pipelined"     // a whole group in one write
	cutAtRandom manner = "cut at random" // the same bytes, in pieces
)

// call is a request's bytes, and its name in failures.
type call struct {
	line  string
	bytes []byte
}

type group struct {
	name  string
	calls []call
}

// groups parses the table of calls.
func groups() []group {
	var all []group
	for line := range strings.Lines(calls) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "# "); ok {
			all = append(all, group{name: name})
		} else if line != "" {
			g := &all[len(all)-1]
			g.calls = append(g.calls, call{line, command(words(line)...)})
		}
	}
	return all
}

// without returns the group without a command.
func (g group) without(line string) group {
	g.calls = slices.DeleteFunc(slices.Clone(g.calls), func(c call) bool { return strings.HasPrefix(c.line, line) })
	return g
}

// fixture is one key of each type. Calls with wrong arguments find them there.
var fixture = func() call {
	c := call{line: "(one key of each type)"}
	for _, line := range []string{"SELECT 0", "FLUSHALL ASYNC", "SET k:string text", "SET k:number 10", "RPUSH k:list a b c", "HSET k:hash a 1",
		"SADD k:set 1", "ZADD k:zset 1 a", "XADD k:stream 1-1 f v"} {
		c.bytes = append(c.bytes, command(words(line)...)...)
	}
	return c
}()

// noFixture is used for commands that name no key, so that what RANDOMKEY and SCAN find does not depend on chance.
var noFixture = call{"(no keys)", append(command("SELECT", "0"), command("FLUSHALL", "ASYNC")...)}

var keyTypes = []string{"k:string", "k:number", "k:list", "k:hash", "k:set", "k:zset", "k:stream"}

// spec is what COMMAND INFO says about a command.
type spec struct {
	name     string // with a subcommand: "client|list"
	arity    int    // as in COMMAND INFO: the number of words; if negative, the minimum
	firstKey int
	flags    []string
}

// notAtRandom are the commands that only the stories send. With arbitrary arguments they would break what a group of calls relies
// on: each call is answered before the next one is sent.
var notAtRandom = map[string]string{
	"multi":        "what follows would be queued",
	"monitor":      "everything that happens would be mixed into the replies",
	"quit":         "closes",
	"subscribe":    "RESP2 allows few commands then",
	"psubscribe":   "RESP2 allows few commands then",
	"ssubscribe":   "RESP2 allows few commands then",
	"client|reply": "switches the replies off",
	"pfselftest":   "computes for seconds",
}

// wrongCalls makes calls for every command with too few and too many arguments, and with arguments of the wrong type and form.
func wrongCalls(specs []spec) []group {
	byFirst := map[string]*group{}
	var order []string
	for n, c := range specs {
		if notAtRandom[c.name] != "" {
			continue
		}
		first, _, _ := strings.Cut(c.name, "|")
		// Twelve commands run over one connection.
		if byFirst[first] == nil {
			first = fmt.Sprint("wrong arguments ", n/12)
			if byFirst[first] == nil {
				byFirst[first] = &group{name: first}
				order = append(order, first)
			}
		}
		g := byFirst[first]
		g.calls = append(g.calls, c.wrongCalls()...)
	}
	var all []group
	for _, name := range order {
		all = append(all, *byFirst[name])
	}
	return all
}

func (c spec) wrongCalls() []call {
	name := strings.Split(strings.ToUpper(c.name), "|")
	least := max(c.arity, -c.arity) - len(name)
	args := func(n int, arg string) []string { return slices.Repeat([]string{arg}, n) }
	tries := [][]string{nil, args(least, "x"), args(least+3, "x"), args(max(least, 1), ""), args(max(least, 1), "\x00\r\n\xff")}
	if least > 1 {
		tries = append(tries, args(least-1, "x"))
	}
	// An argument 1 could be a timeout of a second.
	if !slices.Contains(c.flags, "blocking") {
		tries = append(tries, args(least, "1"))
	}
	if at := c.firstKey - len(name); c.firstKey > 0 && at >= 0 {
		for _, key := range keyTypes {
			for _, other := range []string{"x", "1"} {
				try := args(max(least, at+1), other)
				try[at] = key
				if other == "1" && slices.Contains(c.flags, "blocking") {
					continue
				}
				tries = append(tries, try)
			}
		}
	}
	writes := slices.Contains(c.flags, "write")
	var all []call
	for n, try := range tries {
		switch {
		case c.firstKey == 0 && n == 0:
			all = append(all, noFixture)
		case c.firstKey > 0 && (n == 0 || writes):
			all = append(all, fixture)
		}
		w := append(slices.Clone(name), try...)
		all = append(all, call{strings.Trim(fmt.Sprintf("%q", w), "[]"), command(w...)})
	}
	for n := range all {
		all[n].line = strings.ReplaceAll(all[n].line, `"`, "")
	}
	return all
}

// sides are an engine of this test's own and an instance of Sealane. Both engines have the same configuration.
type sides struct {
	path     string
	direct   *side
	behind   *side
	answered map[string]bool // by the engine that is asked directly, with anything but an error
	mute     bool            // the engine doesn't answer every login: see answersEveryLogin
}

// side is one of the two.
type side struct {
	dial    func() (*wire, error)
	control *wire // connects directly to the engine, on both sides
}

func newSides(t *testing.T, s *server, e testEngine, path string, i instance, ca, auth string) *sides {
	t.Helper()
	conf, socket := s.engineConfig(i)
	ownSocket := startTwin(t, e, conf)
	tlsConfig := verified(t, i, ca)
	dial := func() (*wire, error) { return dialTLS(i, tlsConfig) }
	if path == throughSidecar {
		// Clients log in themselves, as those of the direct side do.
		side := s.startSidecar("--instance", i.Name[strings.LastIndex(i.Name, "/")+1:], "--auth", "none")
		dial = func() (*wire, error) {
			c, err := net.DialTimeout("tcp", side.address, wireTimeout)
			return &wire{Conn: c}, err
		}
	}
	control := func(socket string) *wire {
		w, err := dialUnix(socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Close() })
		if auth != "" {
			w.send(command("AUTH", auth))
			if got := w.frames(1); string(got) != "+OK\r\n" {
				t.Fatalf("AUTH: got %q", got)
			}
		}
		return w
	}
	return &sides{
		path:     path,
		direct:   &side{func() (*wire, error) { return dialUnix(ownSocket) }, control(ownSocket)},
		behind:   &side{dial, control(socket)},
		answered: map[string]bool{},
		mute:     !answersEveryLogin(t, ownSocket),
	}
}

// engineConfig finds the configuration and the socket of an instance's engine, which must be the newest.
func (s *server) engineConfig(i instance) (conf, socket string) {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.state, "nodes", "*", "*", "engine.conf"))
	if more, _ := filepath.Glob(filepath.Join(s.state, "nodes", "*", "engine.conf")); err == nil {
		files = append(files, more...)
	}
	slices.SortFunc(files, func(a, b string) int {
		x, _ := os.Stat(a)
		y, _ := os.Stat(b)
		return x.ModTime().Compare(y.ModTime())
	})
	// The default user of an instance with AUTH has a password, that of the other has none.
	for _, f := range slices.Backward(files) {
		text, err := os.ReadFile(f)
		if err != nil {
			s.t.Fatal(err)
		}
		if strings.Contains(string(text), "user default reset on nopass") != i.AuthEnabled {
			return f, filepath.Join(filepath.Dir(f), "engine.sock")
		}
	}
	s.t.Fatalf("no engine of %s in %v", i.Name, files)
	return "", ""
}

var ownPlaces = regexp.MustCompile(`(?m)^(dir|unixsocket) .*$`)

// startTwin starts an engine with a copy of another's configuration, in a folder of its own, and returns its socket.
func startTwin(t *testing.T, e testEngine, conf string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sltwin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "twin.sock")
	text = ownPlaces.ReplaceAllFunc(text, func(line []byte) []byte {
		if bytes.HasPrefix(line, []byte("dir ")) {
			return []byte("dir " + dir)
		}
		return []byte("unixsocket " + socket)
	})
	own := filepath.Join(dir, "twin.conf")
	if err := os.WriteFile(own, text, 0o600); err != nil {
		t.Fatal(err)
	}
	log := newOutput()
	c := exec.Command(e.program, own)
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	if !within(10*time.Second, func() bool {
		w, err := dialUnix(socket)
		if err == nil {
			w.Close()
		}
		return err == nil
	}) {
		t.Fatalf("the engine for the direct side did not start:\n%s", log)
	}
	return socket
}

// specs asks the engine which commands it has.
func (b *sides) specs() []spec {
	ctx, cancel := context.WithTimeout(context.Background(), wireTimeout)
	defer cancel()
	db := goredis.NewClient(&goredis.Options{Network: "unix", Addr: b.direct.control.RemoteAddr().String(), Protocol: 2, DisableIdentity: true})
	defer db.Close()
	names, err := db.Do(ctx, "COMMAND", "LIST").StringSlice()
	question := []any{"COMMAND"} // 6.2 has no COMMAND LIST, and COMMAND shows no subcommands there
	if err == nil {
		slices.Sort(names)
		question = append(question, "INFO")
		for _, n := range names {
			question = append(question, n)
		}
	}
	infos, _ := db.Do(ctx, question...).Slice()
	var all []spec
	for _, info := range infos {
		fields, ok := info.([]any)
		if !ok || len(fields) < 4 {
			continue
		}
		c := spec{name: strings.ToLower(fields[0].(string)), arity: int(fields[1].(int64)), firstKey: int(fields[3].(int64))}
		for _, f := range fields[2].([]any) {
			c.flags = append(c.flags, fmt.Sprint(f))
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b spec) int { return strings.Compare(a.name, b.name) })
	return all
}

// play runs a story on both sides and compares the answers.
func (b *sides) play(t *testing.T, name string, protocol int, story func(p *player)) {
	t.Helper()
	var logs [2][]exchange
	for n, s := range []*side{b.direct, b.behind} {
		p := &player{t: t, side: s, protocol: protocol}
		p.clear()
		story(p)
		for _, c := range p.peers {
			c.wire.Close()
		}
		logs[n] = p.log
	}
	want, got := logs[0], logs[1]
	if len(want) == 0 || len(want) != len(got) {
		t.Errorf("%s: %d exchanges directly, %d through %s", name, len(want), len(got), b.path)
	}
	differ := 0
	for n := range min(len(want), len(got)) {
		w, g := want[n], got[n]
		b.note(w)
		if bytes.Contains(w.got, []byte("<nothing more within")) {
			t.Errorf("%s: %s: directly there is no answer in time, so this compares nothing: %s", name, w.sent, cut(w.got))
		}
		if b.path == throughSidecar && strings.HasPrefix(w.sent, `"POST / HTTP/1.1`) {
			continue // the engine just closes, and the sidecar answers before that
		}
		if b.mute {
			w.got = answeredLogin(w)
		}
		if bytes.Equal(w.got, g.got) || bytes.Equal(normalise(w.sent, w.got), normalise(g.sent, g.got)) {
			continue
		}
		if differ++; differ > 5 {
			t.Errorf("%s: and so on", name)
			return
		}
		t.Errorf("%s: %s\n  directly:            %s\n  through %-12s %s", name, w.sent, cut(w.got), b.path+":", cut(g.got))
	}
}

// cut shortens a reply for a failure's message.
func cut(b []byte) string {
	const most = 600
	if len(b) <= most {
		return fmt.Sprintf("%q", b)
	}
	return fmt.Sprintf("%q… (%d bytes) …%q", b[:most/2], len(b), b[len(b)-most/2:])
}

// note remembers which commands the engine has executed.
func (b *sides) note(e exchange) {
	if len(e.got) == 0 || e.got[0] == '-' {
		return
	}
	w := words(strings.ToLower(strings.ReplaceAll(e.sent, `"`, "")))
	if len(w) > 0 {
		b.answered[w[0]] = true
	}
	if len(w) > 1 {
		b.answered[w[0]+"|"+w[1]] = true
	}
}

// unanswered are the commands that clients may send and that no call of the table made succeed.
func (b *sides) unanswered(specs []spec) []string {
	var names []string
	for _, c := range specs {
		if b.answered[c.name] || slices.ContainsFunc(specs, func(o spec) bool { return strings.HasPrefix(o.name, c.name+"|") }) {
			continue
		}
		w := strings.Split(c.name, "|")
		b.direct.control.send(command(append(w, slices.Repeat([]string{"x"}, max(c.arity, -c.arity)-len(w))...)...))
		if r := b.direct.control.frames(1); !bytes.HasPrefix(r, []byte("-NOPERM")) {
			names = append(names, c.name)
		}
	}
	return names
}

// exchange is something that was sent or awaited, and the answer.
type exchange struct {
	sent string
	got  []byte
}

// player runs one story on one side.
type player struct {
	*side
	t        *testing.T
	protocol int
	peers    []*peer
	log      []exchange
}

// peer is one of the clients of a story.
type peer struct {
	p    *player
	wire *wire
	name string
}

// clear resets the engine to its initial state.
func (p *player) clear() {
	p.t.Helper()
	for _, line := range []string{"FLUSHALL ASYNC", "SCRIPT FLUSH", "FUNCTION FLUSH", "SLOWLOG RESET"} {
		p.control.send(command(words(line)...))
		if got := p.control.frames(1); string(got) != "+OK\r\n" && line != "FUNCTION FLUSH" { // 6.2 has no functions
			p.t.Fatalf("%s: got %q", line, got)
		}
	}
}

// connect opens a connection and sends nothing on it.
func (p *player) connect() *peer {
	p.t.Helper()
	w, err := p.dial()
	if err != nil {
		p.t.Fatal(err)
	}
	c := &peer{p, w, fmt.Sprint("client ", len(p.peers)+1)}
	p.peers = append(p.peers, c)
	return c
}

// client opens a connection that speaks the story's protocol.
func (p *player) client() *peer {
	p.t.Helper()
	c := p.connect()
	if p.protocol == 3 {
		c.do("HELLO 3")
	}
	return c
}

// blocked waits until n clients are blocked in the engine.
func (p *player) blocked(n int) {
	p.t.Helper()
	eventually(p.t, wireTimeout, fmt.Sprint(n, " clients are blocked"), func() bool {
		p.control.send(command("INFO", "clients"))
		return bytes.Contains(p.control.frames(1), fmt.Appendf(nil, "blocked_clients:%d\r\n", n))
	})
}

func (c *peer) record(sent string, got []byte) []byte {
	c.p.log = append(c.p.log, exchange{sent, got})
	return got
}

// do sends a command and reads one frame.
func (c *peer) do(line string) []byte { return c.doN(1, line) }

// doN sends a command and reads n frames.
func (c *peer) doN(n int, line string) []byte {
	c.send(line)
	return c.record(line, c.wire.frames(n))
}

func (c *peer) send(line string) { c.wire.send(command(words(line)...)) }

// raw sends bytes and reads n frames.
func (c *peer) raw(n int, bytes string) []byte {
	c.wire.send([]byte(bytes))
	return c.record(cut([]byte(bytes)), c.wire.frames(n))
}

// gets reads n frames that the server sends without a request.
func (c *peer) gets(n int, why string) []byte { return c.record(why, c.wire.frames(n)) }

// ends reads everything until the server closes.
func (c *peer) ends(why string) { c.record(why+", until the end", c.wire.rest()) }

// fence is a command whose answer shows where the earlier answers end.
func fence(n int) (send []byte, mark string) {
	mark = fmt.Sprintf("fence-%05d", n)
	return command("PING", mark), mark + "\r\n"
}

// group sends calls, each followed by the fence, and reads everything up to the fence's answer.
func (p *player) group(g group, m manner) {
	p.t.Helper()
	c := p.client()
	if m == oneByOne {
		for n, call := range g.calls {
			c.wire.send(call.bytes)
			got := c.wire.frames(1)
			send, mark := fence(n)
			c.wire.send(send)
			c.record(call.line, append(got, c.wire.until(mark)...))
		}
		return
	}
	var all []byte
	for n, call := range g.calls {
		send, _ := fence(n)
		all = append(append(all, call.bytes...), send...)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if m == pipelined {
			c.wire.send(all)
			return
		}
		pieces(all, func(b []byte) { c.wire.send(b) })
	}()
	for n, call := range g.calls {
		_, mark := fence(n)
		c.record(call.line, c.wire.until(mark))
	}
	<-sent
}

// pieces cuts bytes at random places, which are the same each time.
func pieces(all []byte, send func([]byte)) {
	r := rand.New(rand.NewPCG(1, 2))
	for len(all) > 0 {
		most := 400
		if r.IntN(4) == 0 {
			most = 4
		}
		n := min(1+r.IntN(most), len(all))
		send(all[:n])
		all = all[n:]
	}
}
