package relay

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

// What is concluded from an engine's flags never goes further than the table, which is made by hand; and no command of
// these engines costs a client its sharing for good, but for those that nobody may use or that change the connection.
func TestFlagsProveNoMoreThanTheTableKnows(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		known := parseCommandInfo(commandsOf(t, b))
		if len(known) < 200 {
			t.Fatalf("only %d commands were learnt", len(known))
		}
		l := &loop{group: &Loops{}}
		l.group.commands.Store(&engineCommands{"e", known})
		var shared, lost []string
		for name, learned := range known {
			first, second, _ := strings.Cut(name, "|")
			sub := []byte(second)
			if second == "" {
				sub = nil
			}
			byHand := find([]byte(first), sub)
			if learned != nil && learned != container && learned.affinity == shareable {
				shared = append(shared, name)
				if byHand != unknown && byHand.affinity != shareable && !byHand.hasVariant {
					t.Errorf("%s: the flags say that it may be shared, the table that it may not", name)
				}
			}
			if l.find([]byte(first), sub) == unknown && learned != container {
				lost = append(lost, name)
			}
		}
		slices.Sort(lost)
		for _, name := range lost {
			if !slices.Contains([]string{"pfdebug", "pfselftest", "replicaof", "slaveof"}, name) {
				t.Errorf("%s costs a client its sharing for good", name)
			}
		}
		t.Logf("the flags alone let %d of %d be shared", len(shared), len(known))
		for _, name := range []string{"get", "set", "lrange", "zadd", "hset", "xadd", "expire", "copy", "bitcount", "pfadd", "geoadd"} {
			if !slices.Contains(shared, name) {
				t.Errorf("%s is not recognised as harmless", name)
			}
		}
	})
}

// commandsOf asks an engine for its commands.
func commandsOf(t *testing.T, b engine.Binary) []resp.Value {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	c := exec.Command(b.Path, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}()
	var conn net.Conn
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		} else if time.Now().After(until) {
			t.Fatal(err)
		}
	}
	defer conn.Close()
	_, _ = conn.Write(append(slices.Clone(commandsRequest), "QUIT\r\n"...))
	all, _ := io.ReadAll(conn)
	v, _, err := resp.ParseReply(all, resp.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return v.Elems
}

// A description that is no such thing teaches nothing.
func TestCommandsAreLearntFromWhatIsOneOnly(t *testing.T) {
	list := func(words ...string) (v resp.Value) {
		v.Kind = resp.Array
		for _, w := range words {
			v.Elems = append(v.Elems, resp.Value{Kind: resp.Simple, Str: w})
		}
		return v
	}
	describe := func(name string, flags, categories string, subs ...resp.Value) resp.Value {
		number := resp.Value{Kind: resp.Integer, Int: 1}
		return resp.Value{Kind: resp.Array, Elems: []resp.Value{
			{Kind: resp.Bulk, Str: name}, number, list(strings.Fields(flags)...), number, number, number, list(strings.Fields(categories)...),
			list(), list(), {Kind: resp.Array, Elems: subs},
		}}
	}
	known := parseCommandInfo([]resp.Value{
		describe("NEWGET", "readonly fast", "@read @string"), describe("newset", "write denyoom", "@write @string"),
		describe("bnew", "write blocking", "@write @list @blocking"), describe("newauth", "noscript fast no_auth", "@connection"),
		describe("newselect", "readonly fast", "@connection"), describe("neweval", "readonly noscript movablekeys", "@scripting"),
		describe("mod.get", "readonly module", ""), describe("mod.auth", "module no_auth", ""), describe("nocategories", "readonly", ""),
		describe("newtime", "loading stale fast", "@fast"), describe("mod.do", "module", ""), describe("newadmin", "write admin", "@admin"), describe("newwatch", "readonly noscript", "@transaction"),
		describe("both", "", "", describe("both|get", "readonly", "@read"), describe("both|on", "", "@connection")),
		list("x"), {Kind: resp.Integer}, {}, describe("", "readonly", "@read"),
	})
	l := &loop{group: &Loops{}}
	l.group.commands.Store(&engineCommands{"e", known})
	for words, want := range map[string]string{
		"newget": "shared", "newset": "shared", "bnew": "own", "newauth": "unknown", "newselect": "unknown", "neweval": "own, cleaned",
		"mod.get": "own, cleaned", "mod.auth": "unknown", "nocategories": "own, cleaned", "newtime": "own, cleaned", "mod.do": "unknown", "newadmin": "unknown", "newwatch": "unknown",
		"both get": "shared", "both on": "unknown", "both": "unknown", "both no": "unknown", "x": "unknown", "get": "shared", "client nothing": "unknown",
	} {
		name, sub, ok := strings.Cut(words, " ")
		var second []byte
		if ok {
			second = []byte(sub)
		}
		c := l.find([]byte(name), second)
		got := map[affinity]string{shareable: "shared", dedicated: "own", pins: "unknown"}[c.affinity]
		if c.resetBeforeReuse {
			got += ", cleaned"
		}
		if got != want {
			t.Errorf("%s: %s; want %s", words, got, want)
		}
	}
}
