package attribution

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

var (
	ann = netip.MustParseAddrPort("10.0.0.1:1000")
	bob = netip.MustParseAddrPort("10.0.0.2:2000")
)

func never(string) bool { return false }

func request(words ...string) (args [][]byte, raw []byte) {
	for _, w := range words {
		args = append(args, []byte(w))
	}
	return args, resp.AppendCommand(nil, words...)
}

func TestMonitorIsToldWhoAsked(t *testing.T) {
	t.Parallel()
	var m Monitors
	if m.Any() {
		t.Error("there is a monitor before there is one")
	}
	m.Add(1)
	args, raw := request("get", "k")
	m.Sent(ann, args, raw, raw)
	m.Sent(bob, args, raw, raw)
	const line = `+1339518083.107412 [0 unix:/run/e] "get" "k"` + "\r\n"
	for _, want := range []string{"10.0.0.1:1000", "10.0.0.2:2000", "?:0"} {
		if got, want := string(m.Name(1, []byte(line), never)), strings.Replace(line, "unix:/run/e", want, 1); got != want {
			t.Errorf("%q; want %q", got, want)
		}
	}
	if got := m.Name(1, []byte(line), func(request string) bool { return request == `"get" "k"` }); got != nil {
		t.Errorf("a request that no client made is shown: %q", got)
	}
	refused := m.Sent(ann, args, raw, raw)
	refused()
	if got := string(m.Name(1, []byte(line), never)); !strings.Contains(got, "?:0") {
		t.Errorf("a refused request is still waited for: %q", got)
	}
	// The engine is asked otherwise than the client did.
	_, out := request("get", "other")
	m.Sent(ann, args, raw, out)
	if got := string(m.Name(1, []byte(strings.Replace(line, `"k"`, `"other"`, 1)), never)); !strings.HasSuffix(got, "[0 10.0.0.1:1000] \"get\" \"k\"\r\n") {
		t.Errorf("%q; want what the client said", got)
	}
	if m.Remove(1); m.Any() || m.Watches(1) {
		t.Error("there is a monitor after the last has gone")
	}
}

func TestNoMonitorIsShownASecret(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]string{
		"AUTH pw": `"AUTH" "(redacted)"`, "AUTH u pw": `"AUTH" "(redacted)" "(redacted)"`,
		"HELLO 3 AUTH u pw SETNAME n": `"HELLO" "3" "AUTH" "(redacted)" "(redacted)" "SETNAME" "n"`, "GET a": `"GET" "a"`,
	} {
		args, _ := request(strings.Fields(words)...)
		if got := string(appendQuoted(nil, redacted(args))); got != want {
			t.Errorf("%s is shown as %s; want %s", words, got, want)
		}
	}
}

func TestCommandLogSaysWhoAsked(t *testing.T) {
	t.Parallel()
	var x CommandLog
	now := time.Unix(1700000000, 0)
	note := func(who netip.AddrPort, name, command string, runs bool, micros int64) {
		x.Note(Request{Kind: Slow, Command: command, Runs: runs, Client: who, Name: name, Asked: now, Answered: now.Add(time.Second), Value: micros})
	}
	note(ann, "ann", "get", false, 20000)
	note(bob, "bob", "get", false, 50000)
	note(bob, "bob", "evalsha", true, 90000)
	for _, c := range []struct {
		command string
		micros  int64
		want    string
	}{{"get", 19000, "10.0.0.1:1000 ann"}, {"get", 49000, "10.0.0.2:2000 bob"}, {"get", 80000, "10.0.0.2:2000 bob"}, {"set", 95000, "?:0 "}} {
		entry := resp.Value{Kind: resp.Array, Elems: []resp.Value{
			{Kind: resp.Integer, Int: 1}, {Kind: resp.Integer, Int: now.Unix()}, {Kind: resp.Integer, Int: c.micros},
			{Kind: resp.Array, Elems: []resp.Value{{Kind: resp.Bulk, Str: c.command}}}, {Kind: resp.Bulk, Str: "/run/e:0"}, {Kind: resp.Bulk},
		}}
		shown := x.Show(Slow, resp.Append(nil, resp.Value{Kind: resp.Array, Elems: []resp.Value{entry}}))
		v, _, err := resp.ParseReply(shown, resp.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Elems[0].Elems[4].Str + " " + v.Elems[0].Elems[5].Str; got != c.want {
			t.Errorf("%s that took %d µs was asked by %q; want %q", c.command, c.micros, got, c.want)
		}
	}
}

// Whatever an engine says, a monitor's line does not grow beyond the request that stands in it.
func FuzzMonitorLine(f *testing.F) {
	f.Add([]byte(`+1339518083.107412 [0 unix:/run/e] "get" "k"` + "\r\n"))
	f.Add([]byte("+1.1 [0 lua] \"x\"\r\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		var m Monitors
		m.Add(1)
		args, raw := request("get", "k")
		m.Sent(ann, args, raw, raw)
		if got := m.Name(1, line, never); len(got) > len(line)+len(raw)+64 {
			t.Errorf("%q becomes %q", line, got)
		}
	})
}
