package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// SEALANE_SOAK is how long TestSoak runs, such as 10m; the test then has 500 connections. It is read here because TestMain removes
// Sealane's variables from the environment.
var soakTime = os.Getenv("SEALANE_SOAK")

const (
	soakKeys    = 3 // of each kind, per connection
	soakMaxSize = 2 << 20
	// soakBudget bounds the requests and replies of one pipeline, so that the machine's memory plays no part.
	soakBudget = 3 << 20
	// soakPatience is how long a reply may take on a live connection.
	soakPatience = 20 * time.Second
	// Memory may grow by this much, and by this much per connection. A Go process keeps up to twice its live heap resident, plus what one
	// round of reads brought, so two measurements of the same state differ. The race detector's shadow memory multiplies that. A
	// leaked session (its TLS state and buffers are some 30 KiB) still shows: in a long run, which makes many times more
	// connections than it has clients, and at once in the number of descriptors.
	soakSlack, soakSlackEach = 96 << 20, 256 << 10
)

// soakFill is the filling of values, after the words that say to whom they belong.
var soakFill = func() []byte {
	b := make([]byte, soakMaxSize)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = "abcdefghijklmnop\r\n$*:+"[r.IntN(22)]
	}
	return b
}()

// soak has what the clients of one run share.
type soak struct {
	t      *testing.T
	target instance
	config *tls.Config
	ctx    context.Context
	fail   context.CancelFunc
	load   atomic.Int64 // microseconds of pause, at most, between two pipelines of a client

	// era is even while the engine lives. It is incremented before the engine is killed, and again after its successor has answered. If a
	// client sent something and got the answer in the same even era, then it must be there.
	era                                      atomic.Int64
	failures                                 atomic.Int64
	replies, conns, cuts, ended, deaths, gap atomic.Int64

	mu  sync.Mutex // guards ids
	ids map[int64]string
}

func (r *soak) errorf(c *soakClient, format string, args ...any) {
	if r.failures.Add(1) <= 5 {
		r.t.Errorf("client %d (seed %d), connection %d, data path and engine of era %d: %s\nlast: %s",
			c.id, c.seed, c.made, r.era.Load(), fmt.Sprintf(format, args...), strings.Join(c.log, "; "))
	}
	r.fail()
}

// lossy says whether data of an earlier era may be missing now.
func (r *soak) lossy(era int64) bool { return era%2 == 1 || r.era.Load() != era }

// soakValue is the value that a key must have. The zero value means that the key must not exist.
type soakValue struct {
	tag  string
	size int // with tag
	n    int64
	era  int64
}

func (v soakValue) bytes() []byte {
	if len(v.tag) >= v.size {
		return []byte(v.tag)
	}
	return append([]byte(v.tag), soakFill[:v.size-len(v.tag)]...)
}

func (v soakValue) is(b []byte) bool {
	rest, ok := bytes.CutPrefix(b, []byte(v.tag))
	return ok && len(b) == max(v.size, len(v.tag)) && bytes.Equal(rest, soakFill[:len(rest)])
}

// soakReply is a reply of RESP2 or RESP3.
type soakReply struct {
	kind  byte
	str   []byte // of a line or a bulk
	null  bool
	elems []soakReply
}

func (v soakReply) String() string {
	if len(v.elems) > 0 {
		return fmt.Sprintf("%c%d%.300v", v.kind, len(v.elems), v.elems)
	}
	return fmt.Sprintf("%c%.150q (%d bytes, null: %v)", v.kind, v.str, len(v.str), v.null)
}

func readReply(r *bufio.Reader) (soakReply, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return soakReply{}, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return soakReply{}, fmt.Errorf("%w: line %.100q", errNoRESP, line)
	}
	v := soakReply{kind: line[0], str: bytes.Clone(line[1 : len(line)-2])}
	switch v.kind {
	case '+', '-', ':', '#', ',', '(':
		return v, nil
	case '_':
		v.null = true
		return v, nil
	case '$', '=', '*', '~', '>', '%':
	default:
		return v, fmt.Errorf("%w: line %.100q", errNoRESP, line)
	}
	n, err := strconv.Atoi(string(v.str))
	if err != nil || n < -1 || n > 64<<20 {
		return v, fmt.Errorf("%w: line %.100q", errNoRESP, line)
	}
	if n == -1 {
		v.null = true
		return v, nil
	}
	if v.kind == '$' || v.kind == '=' {
		v.str = make([]byte, n+2)
		if _, err := io.ReadFull(r, v.str); err != nil {
			return v, err
		}
		if !bytes.HasSuffix(v.str, []byte("\r\n")) {
			return v, fmt.Errorf("%w: no end of a bulk of %d bytes", errNoRESP, n)
		}
		v.str = v.str[:n]
		return v, nil
	}
	if v.kind == '%' {
		n *= 2
	}
	for range n {
		e, err := readReply(r)
		if err != nil {
			return v, err
		}
		v.elems = append(v.elems, e)
	}
	return v, nil
}

var errNoRESP = errors.New("not RESP")

// soakConn is one connection, with its identity and its values.
type soakConn struct {
	*tls.Conn
	r     *bufio.Reader
	slow  *rand.Rand // if set, the connection reads slowly
	era   int64      // the era of the last pipeline that was answered completely
	id    int64
	name  string
	db    int
	proto int
	keys  map[string]soakValue // by database and key
}

func (c *soakConn) Read(b []byte) (int, error) {
	if c.slow != nil && c.slow.IntN(4) == 0 {
		time.Sleep(time.Duration(c.slow.IntN(30)) * time.Millisecond) // the client's pace
	}
	return c.Conn.Read(b)
}

// soakClient is a client that makes one connection after the other.
type soakClient struct {
	*soak
	id   int
	seed uint64
	rnd  *rand.Rand
	made int
	seq  int
	log  []string
	last []string // the keys of the connection before
}

// soakAsk is one request, with what its reply must be.
type soakAsk struct {
	what  string
	check func(soakReply) error
}

// batch is the requests that are sent in one write.
type batch struct {
	c      *soakClient
	conn   *soakConn
	era    int64
	out    bytes.Buffer
	asks   []soakAsk
	budget int
}

func (p *batch) add(check func(soakReply) error, args ...string) {
	fmt.Fprintf(&p.out, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&p.out, "$%d\r\n%s\r\n", len(a), a)
	}
	p.asks = append(p.asks, soakAsk{fmt.Sprintf("%.60q", args), check})
}

func wantLine(want string) func(soakReply) error {
	return func(v soakReply) error {
		if string(v.kind)+string(v.str) != want {
			return fmt.Errorf("want %s", want)
		}
		return nil
	}
}

func wantBulk(want string) func(soakReply) error {
	return func(v soakReply) error {
		if v.kind != '$' || v.null || string(v.str) != want {
			return fmt.Errorf("want the text %.100q", want)
		}
		return nil
	}
}

func (p *batch) tag() string {
	p.c.seq++
	return fmt.Sprintf("<%d.%d.%d>", p.c.id, p.c.made, p.c.seq)
}

func (p *batch) key(kind string) string {
	return fmt.Sprintf("%s:%d:%d:%d", kind, p.c.id, p.c.made, p.c.rnd.IntN(soakKeys))
}

func (p *batch) value() soakValue {
	v := soakValue{tag: p.tag(), era: p.era}
	switch n := p.c.rnd.IntN(1000); {
	case n < 3:
		v.size = soakMaxSize - p.c.rnd.IntN(1000)
	case n < 20:
		v.size = p.c.rnd.IntN(256 << 10)
	case n < 100:
		v.size = p.c.rnd.IntN(8 << 10)
	default:
		v.size = p.c.rnd.IntN(200)
	}
	if 2*v.size > p.budget {
		v.size = min(v.size, 200)
	}
	p.budget -= 2 * v.size
	return v
}

// wantNull checks for a null, which differs between the protocols.
func wantNull(v soakReply, proto int, resp2 byte) error {
	if !v.null || proto == 2 && v.kind != resp2 || proto == 3 && v.kind != '_' {
		return fmt.Errorf("want a null of RESP%d", proto)
	}
	return nil
}

// wantValue checks the reply to GET against the value that the key must have when the reply arrives.
func (p *batch) wantValue(at string, proto int) func(soakReply) error {
	return func(v soakReply) error {
		has, ok := p.conn.keys[at]
		if v.null && ok && p.c.lossy(has.era) {
			delete(p.conn.keys, at)
			return nil
		}
		if !ok {
			return wantNull(v, proto, '$')
		}
		if v.kind != '$' || !has.is(v.str) {
			return fmt.Errorf("want %s and %d bytes in all", has.tag, has.size)
		}
		return nil
	}
}

func (p *batch) wantIncremented(at string) func(soakReply) error {
	return func(v soakReply) error {
		has := p.conn.keys[at]
		n, err := strconv.ParseInt(string(v.str), 10, 64)
		if v.kind != ':' || err != nil || n != has.n+1 && !(n == 1 && p.c.lossy(has.era)) {
			return fmt.Errorf("want %d", has.n+1)
		}
		p.conn.keys[at] = soakValue{n: n, era: p.era}
		return nil
	}
}

// plain returns a SET, GET, INCR or the like, with the check of its reply.
func (p *batch) plain() ([]string, func(soakReply) error) {
	conn, rnd := p.conn, p.c.rnd
	switch rnd.IntN(4) {
	case 0:
		key, v := p.key("s"), p.value()
		at := fmt.Sprint(conn.db, key)
		return []string{"SET", key, string(v.bytes())}, func(r soakReply) error {
			conn.keys[at] = v
			return wantLine("+OK")(r)
		}
	case 1:
		if p.budget < soakMaxSize/2 { // the reply may be any of the values
			break
		}
		key := p.key("s")
		p.budget -= 64 << 10
		return []string{"GET", key}, p.wantValue(fmt.Sprint(conn.db, key), conn.proto)
	case 2:
		key := p.key("n")
		return []string{"INCR", key}, p.wantIncremented(fmt.Sprint(conn.db, key))
	}
	v := p.value()
	return []string{"ECHO", string(v.bytes())}, func(r soakReply) error {
		if r.kind != '$' || !v.is(r.str) {
			return fmt.Errorf("want %s and %d bytes in all", v.tag, v.size)
		}
		return nil
	}
}

func (p *batch) transaction() {
	p.add(wantLine("+OK"), "MULTI")
	var checks []func(soakReply) error
	for range p.c.rnd.IntN(4) {
		args, check := p.plain()
		p.add(wantLine("+QUEUED"), args...)
		checks = append(checks, check)
	}
	if id := p.conn.id; p.c.rnd.IntN(3) == 0 {
		p.add(wantLine("+QUEUED"), "CLIENT", "ID")
		checks = append(checks, wantLine(fmt.Sprint(":", id)))
	}
	if p.c.rnd.IntN(6) == 0 {
		p.add(wantLine("+OK"), "DISCARD")
		return
	}
	p.add(func(v soakReply) error {
		if v.kind != '*' || v.null || len(v.elems) != len(checks) {
			return fmt.Errorf("want %d elements", len(checks))
		}
		for i, e := range v.elems {
			if err := checks[i](e); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
		}
		return nil
	}, "EXEC")
}

// step adds one action of a client.
func (p *batch) step() {
	conn, rnd := p.conn, p.c.rnd
	switch rnd.IntN(40) {
	case 0, 1:
		p.transaction()
	case 2: // nobody else writes the key
		key, tag := p.key("w"), p.tag()
		p.add(wantLine("+OK"), "WATCH", key)
		p.add(wantLine("+OK"), "MULTI")
		p.add(wantLine("+QUEUED"), "SET", key, tag)
		p.add(func(v soakReply) error {
			if v.kind != '*' || len(v.elems) != 1 {
				return errors.New("want one element")
			}
			return wantLine("+OK")(v.elems[0])
		}, "EXEC")
	case 3: // except this client
		key, tag, proto := p.key("w"), p.tag(), conn.proto
		p.add(wantLine("+OK"), "WATCH", key)
		p.add(wantLine("+OK"), "SET", key, tag)
		p.add(wantLine("+OK"), "MULTI")
		p.add(wantLine("+QUEUED"), "ECHO", tag)
		p.add(func(v soakReply) error { return wantNull(v, proto, '*') }, "EXEC")
	case 4, 5:
		key, tag := p.key("e"), p.tag()
		p.add(func(v soakReply) error {
			if v.kind != '*' || len(v.elems) != 3 {
				return errors.New("want three elements")
			}
			return errors.Join(wantBulk(key)(v.elems[0]), wantBulk(tag)(v.elems[1]), wantLine(":7")(v.elems[2]))
		}, "EVAL", "return {KEYS[1], ARGV[1], 7}", "1", key, tag)
	case 6:
		proto := 2 + rnd.IntN(2)
		conn.proto = proto
		p.add(p.wantHello(proto), "HELLO", strconv.Itoa(proto))
	case 7:
		conn.db = rnd.IntN(3)
		p.add(wantLine("+OK"), "SELECT", strconv.Itoa(conn.db))
	case 8:
		conn.name = strings.Trim(p.tag(), "<>")
		p.add(wantLine("+OK"), "CLIENT", "SETNAME", conn.name)
	case 9:
		if conn.name != "" {
			p.add(wantBulk(conn.name), "CLIENT", "GETNAME")
		}
	case 10, 11:
		p.add(wantLine(fmt.Sprint(":", conn.id)), "CLIENT", "ID")
	case 12:
		tag := p.tag()
		p.add(func(v soakReply) error {
			if v.kind != '-' || !bytes.Contains(v.str, []byte(tag)) {
				return fmt.Errorf("want an error with %s", tag)
			}
			return nil
		}, tag)
	default:
		args, check := p.plain()
		p.add(check, args...)
	}
}

func (p *batch) wantHello(proto int) func(soakReply) error {
	conn := p.conn
	return func(v soakReply) error {
		if want := map[int]byte{2: '*', 3: '%'}[proto]; v.kind != want {
			return fmt.Errorf("want a list of kind %c", want)
		}
		found := 0
		for i := 0; i+1 < len(v.elems); i += 2 {
			switch string(v.elems[i].str) {
			case "proto":
				found++
				if err := wantLine(fmt.Sprint(":", proto))(v.elems[i+1]); err != nil {
					return err
				}
			case "id":
				found++
				if err := wantLine(fmt.Sprint(":", conn.id))(v.elems[i+1]); err != nil {
					return err
				}
			}
		}
		if found != 2 {
			return errors.New("want id and proto")
		}
		return nil
	}
}

func (c *soakClient) batch(conn *soakConn) *batch {
	return &batch{c: c, conn: conn, era: c.era.Load(), budget: soakBudget}
}

// The ways in which a pipeline ends.
type ending int

const (
	goOn   ending = iota
	cutRST        // at a random byte
	cutFIN
	halfClose
)

// errDone means that the connection is finished and that nothing is wrong.
var errDone = errors.New("done")

// lost decides whether an error on a connection that should not have ended is a failure.
func (c *soakClient) lost(conn *soakConn, what string, err error) error {
	switch {
	case c.ctx.Err() != nil: // the end of the test cuts all connections
	case errors.Is(err, net.ErrClosed): // by both
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.errorf(c, "%s: no reply within %v", what, soakPatience)
	case errors.Is(err, errNoRESP):
		c.errorf(c, "%s: %v", what, err)
	case c.lossy(conn.era):
		c.ended.Add(1)
	default:
		c.gap.Add(1)
		c.errorf(c, "%s: the connection ended although the engine lives: %v", what, err)
	}
	return errDone
}

// run sends a pipeline and verifies its replies.
func (p *batch) run(how ending) error {
	c, conn := p.c, p.conn
	for _, a := range p.asks[max(0, len(p.asks)-12):] {
		c.note(a.what)
	}
	out, chunks := p.out.Bytes(), c.rnd.IntN(4) // the writer must not share the source of random numbers
	if how == cutRST || how == cutFIN {
		out = out[:c.rnd.IntN(len(out)+1)]
		c.cuts.Add(1)
	}
	pace := rand.New(rand.NewPCG(c.seed, c.rnd.Uint64()))
	c.note(fmt.Sprintf("(%d requests, %d bytes, ending %d)", len(p.asks), len(out), how))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		conn.SetWriteDeadline(time.Now().Add(3 * soakPatience))
		for len(out) > 0 {
			n := len(out)
			if chunks == 0 {
				n = min(n, 1+pace.IntN(1+len(out)/2))
			} else if chunks == 1 && len(out) > n-20 {
				n = min(n, 1+pace.IntN(40))
				chunks = pace.IntN(3)
			}
			if _, err := conn.Write(out[:n]); err != nil {
				return // the reader sees why
			}
			out = out[n:]
		}
		switch tcp := conn.NetConn().(*net.TCPConn); how {
		case cutRST:
			tcp.SetLinger(0)
			tcp.Close()
		case cutFIN:
			tcp.Close()
		case halfClose:
			conn.CloseWrite()
			tcp.CloseWrite()
		}
	}()
	err := p.read(how)
	if err != nil {
		conn.NetConn().Close()
	}
	<-sent
	if err == nil && how != goOn {
		return errDone
	}
	return err
}

func (p *batch) read(how ending) error {
	c, conn := p.c, p.conn
	for i, a := range p.asks {
		conn.SetReadDeadline(time.Now().Add(soakPatience))
		v, err := readReply(conn.r)
		if err != nil {
			if (how == cutRST || how == cutFIN) && !errors.Is(err, errNoRESP) && !errors.Is(err, os.ErrDeadlineExceeded) {
				return errDone
			}
			return c.lost(conn, fmt.Sprintf("request %d of %d, %s", i+1, len(p.asks), a.what), err)
		}
		if v.kind == '-' && (bytes.HasPrefix(v.str, []byte("ERR the engine behind this port")) || bytes.HasPrefix(v.str, []byte("LOADING"))) {
			return c.lost(conn, a.what, errors.New(string(v.str)))
		}
		if err := a.check(v); err != nil {
			c.errorf(c, "request %d of %d, %s: got %v: %v", i+1, len(p.asks), a.what, v, err)
			return errDone
		}
		c.replies.Add(1)
	}
	if how == halfClose {
		if v, err := readReply(conn.r); err == nil {
			c.errorf(c, "after the last reply: got %v, want the end", v)
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			c.errorf(c, "after the last reply of a half-closed connection: no end within %v", soakPatience)
		}
	}
	conn.era = p.era
	return nil
}

func (c *soakClient) note(what string) {
	if c.log = append(c.log, what); len(c.log) > 40 {
		c.log = append(c.log[:0], c.log[20:]...)
	}
}

// connect makes a connection and asks for its id. It returns nil if that failed; it has reported the failure then, unless the test is
// over or the engine was killed.
func (c *soakClient) connect() *soakConn {
	era := c.era.Load()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: soakPatience}, Config: c.config}
	raw, err := d.DialContext(c.ctx, "tcp", c.target.address())
	if err != nil {
		if c.ctx.Err() == nil {
			c.errorf(c, "connect: %v", err)
		}
		return nil
	}
	c.conns.Add(1)
	conn := &soakConn{Conn: raw.(*tls.Conn), era: era, proto: 2, keys: make(map[string]soakValue)}
	conn.r = bufio.NewReaderSize(conn, 4096)
	p := c.batch(conn)
	p.era = era
	p.add(func(v soakReply) error {
		id, err := strconv.ParseInt(string(v.str), 10, 64)
		if v.kind != ':' || err != nil {
			return errors.New("want an id")
		}
		conn.id = id
		me := fmt.Sprintf("client %d, connection %d", c.id, c.made)
		c.mu.Lock()
		defer c.mu.Unlock()
		if other, ok := c.ids[id]; ok {
			return fmt.Errorf("that is the id of %s", other)
		}
		c.ids[id] = me
		return nil
	}, "CLIENT", "ID")
	if p.run(goOn) != nil {
		return nil
	}
	return conn
}

// fed waits on a list or channel that a partner fills.
func (c *soakClient) fed(conn *soakConn) error {
	partner := c.connect()
	if partner == nil {
		return nil
	}
	defer partner.Close()
	if c.rnd.IntN(2) == 0 {
		p, feed := c.batch(conn), c.batch(partner)
		list, tag := p.key("l"), p.tag()
		era := p.era
		p.add(func(v soakReply) error {
			if v.null && c.lossy(era) { // the element was lost with the engine
				return nil
			}
			if v.kind != '*' || len(v.elems) != 2 {
				return errors.New("want two elements")
			}
			return errors.Join(wantBulk(list)(v.elems[0]), wantBulk(tag)(v.elems[1]))
		}, "BLPOP", list, "10")
		feed.conn.db = conn.db
		feed.add(wantLine("+OK"), "SELECT", strconv.Itoa(conn.db))
		feed.add(wantLine(":1"), "RPUSH", list, tag)
		return both(p, feed)
	}
	p := c.batch(conn)
	channel := p.key("c")
	kind := map[int]byte{2: '*', 3: '>'}[conn.proto]
	message := func(words ...string) func(soakReply) error {
		return func(v soakReply) error {
			if v.kind != kind || len(v.elems) != len(words) {
				return fmt.Errorf("want %c of %q", kind, words)
			}
			for i, w := range words {
				if string(v.elems[i].str) != w {
					return fmt.Errorf("want %c of %q", kind, words)
				}
			}
			return nil
		}
	}
	p.add(message("subscribe", channel, "1"), "SUBSCRIBE", channel)
	if err := p.run(goOn); err != nil {
		return err
	}
	listen, publish := c.batch(conn), c.batch(partner)
	era := p.era // the era in which the client subscribed
	for range 1 + c.rnd.IntN(5) {
		tag := p.tag()
		publish.add(func(v soakReply) error {
			if c.lossy(era) || c.ctx.Err() != nil {
				return nil // nobody is subscribed to the next engine, nor after the end
			}
			return wantLine(":1")(v)
		}, "PUBLISH", channel, tag)
		listen.asks = append(listen.asks, soakAsk{"message " + tag, message("message", channel, tag)})
	}
	if err := both(listen, publish); err != nil {
		return err
	}
	p = c.batch(conn)
	p.add(message("unsubscribe", channel, "0"), "UNSUBSCRIBE", channel)
	return p.run(goOn)
}

// both runs a pipeline, together with the partner's pipeline that it may have to wait for.
func both(p, partner *batch) error {
	var fed error
	done := make(chan struct{})
	// The partner has its own source of random numbers and its own entries in the log.
	feeder := *partner.c
	feeder.rnd = rand.New(rand.NewPCG(partner.c.seed, partner.c.rnd.Uint64()))
	feeder.log = []string{"partner"}
	partner.c = &feeder
	go func() {
		defer close(done)
		// An error of the partner is noted. There is none if the partner's connection belonged to an engine that is gone, and this one's did
		// not: then nobody answers.
		if fed = partner.run(goOn); fed != nil {
			p.conn.NetConn().Close()
		}
	}()
	err := p.run(goOn)
	<-done
	if err == nil && fed != nil {
		return errDone
	}
	return err
}

// live makes connections until the end of the run.
func (c *soakClient) live() {
	for c.ctx.Err() == nil {
		c.made++
		conn := c.connect()
		if conn == nil {
			c.pause(100 * time.Millisecond)
			continue
		}
		stop := context.AfterFunc(c.ctx, func() { conn.NetConn().Close() })
		c.use(conn)
		stop()
		conn.NetConn().Close()
	}
}

func (c *soakClient) use(conn *soakConn) {
	if len(c.last) > 0 {
		p := c.batch(conn)
		for db := range 3 {
			p.add(wantLine("+OK"), "SELECT", strconv.Itoa(db))
			p.add(func(v soakReply) error {
				if v.kind != ':' {
					return errors.New("want a number")
				}
				return nil
			}, append([]string{"DEL"}, c.last...)...)
		}
		conn.db = 2
		if p.run(goOn) != nil {
			return
		}
	}
	c.last = c.last[:0]
	for _, kind := range []string{"s", "n", "w", "e", "l"} {
		for n := range soakKeys {
			c.last = append(c.last, fmt.Sprintf("%s:%d:%d:%d", kind, c.id, c.made, n))
		}
	}
	for left := 1 + c.rnd.IntN(60); left > 0 && c.ctx.Err() == nil; left-- {
		conn.slow = nil
		if c.rnd.IntN(20) == 0 {
			conn.slow = rand.New(rand.NewPCG(c.seed, c.rnd.Uint64()))
		}
		if c.rnd.IntN(15) == 0 {
			if c.fed(conn) != nil {
				return
			}
		}
		p, how := c.batch(conn), goOn
		if left == 1 {
			how = []ending{cutRST, cutRST, cutFIN, halfClose}[c.rnd.IntN(4)]
		}
		if how == halfClose {
			// An engine that reads the end of a connection discards the replies for which the socket had no room. So this sends only a few
			// requests. (The same happens without Sealane.)
			p.budget = 32 << 10
		}
		length := 1 + c.rnd.IntN(5)
		if c.rnd.IntN(4) == 0 {
			length = 1 + c.rnd.IntN(200)
		}
		for len(p.asks) < length {
			p.step()
		}
		if p.run(how) != nil {
			return
		}
		c.pause(time.Duration(c.rnd.Int64N(c.load.Load())) * time.Microsecond)
	}
}

func (c *soakClient) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.ctx.Done():
	}
}

// footprint is the memory and the descriptors that a process holds.
type footprint struct{ files, memory int }

func (f footprint) String() string {
	return fmt.Sprintf("%d descriptors, %d MiB", f.files, f.memory>>20)
}

func footprintOf(t *testing.T, pid int) footprint {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, _ := strconv.Atoi(strings.Fields(string(text))[1])
	return footprint{len(files), pages * os.Getpagesize()}
}

// allConnected measures the gateway while n clients are connected, each of which was served once and is idle since.
func (r *soak) allConnected(n, gateway int, good func(footprint) bool) footprint {
	r.t.Helper()
	conns := make([]*wire, n)
	var dials sync.WaitGroup
	for i := range conns {
		dials.Go(func() {
			w, err := dialTLS(r.target, r.config)
			if err != nil {
				r.t.Errorf("connect all: %v", err)
				return
			}
			w.send(command("PING"))
			if got := string(w.frames(1)); got != "+PONG\r\n" {
				r.t.Errorf("connect all: PING: got %q", got)
			}
			conns[i] = w
		})
	}
	dials.Wait()
	within(20*time.Second, func() bool { return good(footprintOf(r.t, gateway)) })
	f := footprintOf(r.t, gateway)
	for _, w := range conns {
		if w != nil {
			w.Close()
		}
	}
	return f
}

// admin sends a request to the gateway's admin socket.
func (s *server) admin(method, path string, body []byte) []byte {
	s.t.Helper()
	sockets, err := filepath.Glob(filepath.Join(s.state, "nodes", "*", "gateway.sock"))
	if err != nil || len(sockets) != 1 {
		s.t.Fatalf("admin sockets: got %v, %v, want one", sockets, err)
	}
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", sockets[0])
		},
	}}
	req, err := http.NewRequest(method, "http://gateway"+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		s.t.Fatalf("%s %s: %s, %v, %s", method, path, res.Status, err, answer)
	}
	return answer
}

// wantNoClients waits until the gateway has noticed that all clients have left.
func (s *server) wantNoClients() {
	s.t.Helper()
	eventually(s.t, 10*time.Second, "the gateway has no connection", func() bool {
		var status struct{ Connections int }
		if err := json.Unmarshal(s.admin("GET", "/status", nil), &status); err != nil {
			s.t.Fatal(err)
		}
		return status.Connections == 0
	})
}

// reapply gives the gateway its current snapshot as a new one.
func (s *server) reapply() {
	s.t.Helper()
	var status struct{ Generation uint64 }
	if err := json.Unmarshal(s.admin("GET", "/status", nil), &status); err != nil {
		s.t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(s.state, "nodes", "*", "snapshot.json"))
	if len(files) != 1 {
		s.t.Fatalf("snapshots: got %v, want one", files)
	}
	raw, err := os.ReadFile(files[0])
	snapshot := make(map[string]json.RawMessage)
	if err == nil {
		err = json.Unmarshal(raw, &snapshot)
	}
	if err == nil {
		snapshot["generation"] = strconv.AppendUint(nil, status.Generation+1, 10)
		raw, err = json.Marshal(snapshot)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.admin("PUT", "/snapshot", raw)
}

// killEngine kills the engine and begins an era without one.
func (r *soak) killEngine(s *server) (pid int) {
	s.t.Helper()
	pid = s.node("engine")
	r.era.Add(1)
	r.deaths.Add(1)
	s.kill9(pid)
	return pid
}

// isBack says whether the killed engine has a successor. If so, it ends the era without an engine.
func (r *soak) isBack(s *server, killed int) bool {
	pids := s.nodes("engine")
	if len(pids) != 1 || pids[0] == killed {
		return false
	}
	w, err := dialTLS(r.target, r.config)
	if err != nil {
		return false
	}
	defer w.Close()
	w.send(command("PING"))
	if string(w.frames(1)) != "+PONG\r\n" {
		return false
	}
	r.era.Add(1)
	return true
}

// Whatever clients do and whatever happens around them, each gets all of its own replies in order. Afterwards the gateway has the
// same size as before. SEALANE_SOAK=10m makes it ten minutes. The test is not parallel, because replies have a time limit.
func TestSoak(t *testing.T) {
	length, clients := 6*time.Second, 60
	switching, killing, pause := time.Second, 2500*time.Millisecond, 30*time.Millisecond
	if soakTime != "" {
		var err error
		if length, err = time.ParseDuration(soakTime); err != nil {
			t.Fatalf("SEALANE_SOAK: %v", err)
		}
		clients, switching, killing, pause = 500, 10*time.Second, 20*time.Second, 400*time.Millisecond
	}
	s := startServer(t, serverOptions{})
	first := s.create("first")
	ca := s.bundle("first")
	gateway := s.node("gateway")
	ctx, cancel := context.WithCancel(t.Context())
	r := &soak{t: t, target: first, config: verified(t, first, ca), ctx: ctx, fail: cancel, ids: make(map[int64]string)}
	r.load.Store(pause.Microseconds())

	s.wantPong(first, ca)
	s.wantNoClients()
	idle := footprintOf(t, gateway)
	before := r.allConnected(clients, gateway, func(f footprint) bool { return f.files <= idle.files+2*clients })
	s.wantNoClients()

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var living sync.WaitGroup
	t.Cleanup(func() { cancel(); living.Wait() })
	for id := range clients {
		c := &soakClient{soak: r, id: id, seed: seed + uint64(id)}
		c.rnd = rand.New(rand.NewPCG(c.seed, 0))
		living.Go(c.live)
	}
	applies, switches, killed, last := 0, 0, 0, time.Now()
	end := time.After(length)
	look, apply, change, kill := time.NewTicker(50*time.Millisecond), time.NewTicker(time.Second), time.NewTicker(switching), time.NewTicker(killing)
	defer look.Stop()
	defer apply.Stop()
	defer change.Stop()
	defer kill.Stop()
	for running := true; running; {
		select {
		case <-end:
			running = false
		case <-ctx.Done(): // a client has found an error
			running = false
		case <-look.C:
			if killed != 0 && r.isBack(s, killed) {
				killed = 0
			}
		case <-apply.C:
			s.reapply()
			applies++
		case <-change.C:
			switches++
			s.useDataPath("first", dataPaths[switches%len(dataPaths)])
		case <-kill.C:
			// The server restarts an engine three times at once. Before the fourth time the engine has to be well for a minute.
			if killed == 0 && (r.deaths.Load() == 0 || r.deaths.Load()%3 != 0 || time.Since(last) > 65*time.Second) {
				killed, last = r.killEngine(s), time.Now()
			}
		}
	}
	cancel()
	living.Wait()

	s.wantNoClients()
	s.useDataPath("first", dataPaths[0])
	if killed != 0 {
		eventually(t, 2*time.Minute, "the engine is back", func() bool { return r.isBack(s, killed) })
	}
	// Idle engine connections wait for a minute for the next client. They end with their engine.
	killed = r.killEngine(s)
	within(10*time.Second, func() bool { return footprintOf(t, gateway).files <= idle.files })
	gone := footprintOf(t, gateway)
	eventually(t, 2*time.Minute, "the engine is back", func() bool { return r.isBack(s, killed) })
	bound := before.memory + soakSlack + clients*soakSlackEach
	after := r.allConnected(clients, gateway, func(f footprint) bool { return f.files == before.files && f.memory <= bound })

	if gone.files > idle.files {
		t.Errorf("without clients: got %d descriptors, want no more than the %d before there were any", gone.files, idle.files)
	}
	if after.files > before.files {
		t.Errorf("with all clients connected: got %d descriptors, want no more than the %d before", after.files, before.files)
	}
	if after.memory > bound {
		t.Errorf("with all clients connected: got %d MiB resident, want %d at most; it was %d", after.memory>>20, bound>>20, before.memory>>20)
	}
	if now := s.node("gateway"); now != gateway {
		t.Errorf("the gateway is process %d now, was %d", now, gateway)
	}
	if switches == 0 || applies == 0 || r.deaths.Load() < 2 || r.replies.Load() < int64(clients) {
		t.Error("hardly anything happened")
	}
	t.Logf("%v, %d clients: %d replies verified, %d lost; %d connections, %d cut by clients, %d ended with an engine; %d engine deaths, %d path switches, %d snapshots applied; idle %v before, %v after; all connected %v before, %v after",
		length, clients, r.replies.Load(), r.gap.Load(), r.conns.Load(), r.cuts.Load(), r.ended.Load(), r.deaths.Load(), switches, applies, idle, gone, before, after)
}
