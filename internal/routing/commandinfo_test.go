package routing

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
		known := ParseCommandInfo(commandsOf(t, b))
		if len(known) < 200 {
			t.Fatalf("only %d commands are known", len(known))
		}
		var shared, lost []string
		for name, learned := range known {
			first, second, _ := strings.Cut(name, "|")
			sub := []byte(second)
			if second == "" {
				sub = nil
			}
			byHand := find([]byte(first), sub)
			if learned != nil && learned != container && learned.Affinity == Shareable {
				shared = append(shared, name)
				if byHand != Unknown && byHand.Affinity != Shareable && !byHand.HasVariants() {
					t.Errorf("%s: the flags say that it may be shared, the table that it may not", name)
				}
			}
			if Find([]byte(first), sub, known) == Unknown && learned != container {
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
	_, _ = io.WriteString(conn, "COMMAND\r\nQUIT\r\n")
	all, _ := io.ReadAll(conn)
	v, _, err := resp.ParseReply(all, resp.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return v.Elems
}

func TestWhatDescribesNoCommandIsLeftOut(t *testing.T) {
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
	known := ParseCommandInfo([]resp.Value{
		describe("NEWGET", "readonly fast", "@read @string"), describe("newset", "write denyoom", "@write @string"),
		describe("bnew", "write blocking", "@write @list @blocking"), describe("newauth", "noscript fast no_auth", "@connection"),
		describe("newselect", "readonly fast", "@connection"), describe("neweval", "readonly noscript movablekeys", "@scripting"),
		describe("mod.get", "readonly module", ""), describe("mod.auth", "module no_auth", ""), describe("nocategories", "readonly", ""),
		describe("newtime", "loading stale fast", "@fast"), describe("mod.do", "module", ""), describe("newadmin", "write admin", "@admin"), describe("newwatch", "readonly noscript", "@transaction"),
		describe("both", "", "", describe("both|get", "readonly", "@read"), describe("both|on", "", "@connection")),
		list("x"), {Kind: resp.Integer}, {}, describe("", "readonly", "@read"),
	})
	for words, want := range map[string]string{
		"newget": "shared", "newset": "shared", "bnew": "dedicated", "newauth": "unknown", "newselect": "unknown", "neweval": "dedicated, reset",
		"mod.get": "dedicated, reset", "mod.auth": "unknown", "nocategories": "dedicated, reset", "newtime": "dedicated, reset", "mod.do": "unknown", "newadmin": "unknown", "newwatch": "unknown",
		"both get": "shared", "both on": "unknown", "both": "unknown", "both no": "unknown", "x": "unknown", "get": "shared", "client nothing": "unknown",
	} {
		name, sub, ok := strings.Cut(words, " ")
		var second []byte
		if ok {
			second = []byte(sub)
		}
		c := Find([]byte(name), second, known)
		got := map[Affinity]string{Shareable: "shared", Dedicated: "dedicated", DirtiesForGood: "unknown"}[c.Affinity]
		if c.ResetBeforeReuse {
			got += ", reset"
		}
		if got != want {
			t.Errorf("%s: %s; want %s", words, got, want)
		}
	}
}
