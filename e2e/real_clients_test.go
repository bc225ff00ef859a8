package e2e_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The engine's commands about clients show, and act on, the clients in front of the gateway.
func TestRealClients(t *testing.T) {
	t.Parallel()
	onEveryDataPath(t, func(t *testing.T, path string) {
		s := startServer(t, serverOptions{})
		i := s.createOn(path, "first")
		ca := s.bundle("first")
		r := &room{t: t, i: i, config: verifiedDial(t, i, ca)}
		t.Run("CLIENT LIST and INFO", r.lists)
		t.Run("CLIENT KILL", r.kills)
		t.Run("CLIENT UNBLOCK", r.unblocks)
		t.Run("CLIENT PAUSE", r.pauses)
		t.Run("CLIENT NO-EVICT and TRACKINGINFO", r.flags)
		t.Run("MONITOR and SLOWLOG", r.addresses)
	})
}

// room is an instance with what a client needs to connect to it.
type room struct {
	t      *testing.T
	i      instance
	config func() (*wire, error)
}

func verifiedDial(t *testing.T, i instance, ca string) func() (*wire, error) {
	config := verified(t, i, ca)
	return func() (*wire, error) { return dialTLS(i, config) }
}

func (r *room) enter(t *testing.T) *wire {
	t.Helper()
	w, err := r.config()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// ask sends a command and returns its one reply.
func (w *wire) ask(line string) string {
	w.send(command(words(line)...))
	return string(w.frames(1))
}

func (w *wire) address() string { return w.LocalAddr().String() }

func (w *wire) number() string { return strings.Trim(w.ask("CLIENT ID"), ":\r\n") }

// closed says whether the server has closed the connection.
func (w *wire) closed() bool { return strings.HasSuffix(string(w.rest()), "<closed>") }

func wantReply(t *testing.T, w *wire, line, want string) {
	t.Helper()
	if got := w.ask(line); got != want {
		t.Errorf("%s: got %q, want %q", line, got, want)
	}
}

var addrField = regexp.MustCompile(`(?m) addr=(\S+) laddr=(\S+) `)

func (r *room) lists(t *testing.T) {
	clients := []*wire{r.enter(t), r.enter(t), r.enter(t)}
	for n, c := range clients {
		wantReply(t, c, fmt.Sprintf("CLIENT SETNAME name-%d", n), "+OK\r\n")
	}
	list := clients[0].ask("CLIENT LIST TYPE normal")
	for n, c := range clients {
		line := regexp.MustCompile(`(?m)^id=` + c.number() + ` addr=` + regexp.QuoteMeta(c.address()) + ` laddr=` + regexp.QuoteMeta(r.i.address()) +
			` .* name=` + fmt.Sprint("name-", n) + ` `)
		if !line.MatchString(list) {
			t.Errorf("CLIENT LIST: got %s, want a line that matches %s", list, line)
		}
		if info := c.ask("CLIENT INFO"); !line.MatchString(info[strings.Index(info, "\n")+1:]) {
			t.Errorf("CLIENT INFO: got %s, want a match of %s", info, line)
		}
		if one := clients[0].ask("CLIENT LIST ID " + c.number()); len(addrField.FindAllString(one, -1)) != 1 || !strings.Contains(one, c.address()) {
			t.Errorf("CLIENT LIST ID: got %s, want one line with %s", one, c.address())
		}
	}
	if n := len(addrField.FindAllString(list, -1)); n != 3 {
		t.Errorf("CLIENT LIST: got %d clients, want 3:\n%s", n, list)
	}
	if info := clients[0].ask("INFO clients"); !strings.Contains(info, "connected_clients:3\r\n") {
		t.Errorf("INFO clients: got %s, want 3", info)
	}
}

func (r *room) kills(t *testing.T) {
	me := r.enter(t)
	wantReply(t, me, "PING", "+PONG\r\n")
	for _, by := range []struct {
		filter func(victim *wire) string
		reply  string
	}{
		{func(v *wire) string { return "ID " + v.number() }, ":1\r\n"},
		{func(v *wire) string { return "ADDR " + v.address() }, ":1\r\n"},
		{func(v *wire) string { return v.address() }, "+OK\r\n"},
		{func(v *wire) string { return "LADDR " + r.i.address() }, ":1\r\n"},
		{func(v *wire) string { return "TYPE normal" }, ":1\r\n"},
		{func(v *wire) string { return "USER default SKIPME yes" }, ":1\r\n"},
		{func(v *wire) string { v.ask("SUBSCRIBE c"); return "TYPE pubsub" }, ":1\r\n"},
	} {
		victim := r.enter(t)
		wantReply(t, victim, "PING", "+PONG\r\n")
		line := "CLIENT KILL " + by.filter(victim)
		wantReply(t, me, line, by.reply)
		if !victim.closed() {
			t.Errorf("%s: the client is still there", line)
		}
		wantReply(t, me, "PING", "+PONG\r\n")
	}
	wantReply(t, me, "CLIENT KILL ADDR 192.0.2.1:1", ":0\r\n")
	wantReply(t, me, "CLIENT KILL 192.0.2.1:1", "-ERR No such client\r\n")
	self := r.enter(t)
	wantReply(t, self, "CLIENT KILL ADDR "+self.address()+" SKIPME no", ":1\r\n")
	if !self.closed() {
		t.Error("CLIENT KILL of itself: the client is still there")
	}
}

func (r *room) unblocks(t *testing.T) {
	me, blocked := r.enter(t), r.enter(t)
	number := blocked.number()
	blocked.send(command("BLPOP", "none", "0"))
	eventually(t, wireTimeout, "the client is blocked", func() bool { return strings.Contains(me.ask("INFO clients"), "blocked_clients:1\r\n") })
	if list := me.ask("CLIENT LIST ID " + number); !strings.Contains(list, "cmd=blpop") || !strings.Contains(list, blocked.address()) {
		t.Errorf("CLIENT LIST: got %s, want the blocked client's address and command", list)
	}
	wantReply(t, me, "CLIENT UNBLOCK "+number+" ERROR", ":1\r\n")
	if got := string(blocked.frames(1)); !strings.HasPrefix(got, "-UNBLOCKED") {
		t.Errorf("the blocked client got %q, want -UNBLOCKED", got)
	}
	wantReply(t, me, "CLIENT UNBLOCK "+number, ":0\r\n")
}

func (r *room) pauses(t *testing.T) {
	me, other := r.enter(t), r.enter(t)
	wantReply(t, me, "CLIENT PAUSE 60000 WRITE", "+OK\r\n")
	wantReply(t, other, "GET k", "$-1\r\n")
	other.send(command("SET", "k", "v"))
	wantReply(t, me, "GET k", "$-1\r\n")
	wantReply(t, me, "CLIENT UNPAUSE", "+OK\r\n")
	if got := string(other.frames(1)); got != "+OK\r\n" {
		t.Errorf("SET after the pause: got %q", got)
	}
}

func (r *room) flags(t *testing.T) {
	me, other := r.enter(t), r.enter(t)
	wantReply(t, me, "CLIENT NO-EVICT on", "+OK\r\n")
	if info := me.ask("CLIENT INFO"); !regexp.MustCompile(` flags=\w*e`).MatchString(info) {
		t.Errorf("CLIENT INFO after NO-EVICT: got %s, want the flag e", info)
	}
	if info := other.ask("CLIENT INFO"); regexp.MustCompile(` flags=\w*e`).MatchString(info) {
		t.Errorf("CLIENT INFO of another: got %s, want no flag e", info)
	}
	me.ask("HELLO 3")
	wantReply(t, me, "CLIENT TRACKING ON NOLOOP", "+OK\r\n")
	if info := me.ask("CLIENT TRACKINGINFO"); !strings.Contains(info, "noloop") {
		t.Errorf("CLIENT TRACKINGINFO: got %q", info)
	}
	if info := other.ask("CLIENT TRACKINGINFO"); !strings.Contains(info, "off") {
		t.Errorf("CLIENT TRACKINGINFO of another: got %q", info)
	}
}

func (r *room) addresses(t *testing.T) {
	watching, me := r.enter(t), r.enter(t)
	wantReply(t, watching, "MONITOR", "+OK\r\n")
	me.ask("SET seen by-monitor")
	want := "[0 " + me.address() + `] "SET" "seen" "by-monitor"` + "\r\n"
	if got := string(watching.until(`"by-monitor"` + "\r\n")); !strings.HasSuffix(got, want) {
		t.Errorf("MONITOR: got %q, want %q", got, want)
	}
	wantReply(t, me, "SLOWLOG RESET", "+OK\r\n")
	slow := "local n = 0; for i = 1, 5000000 do n = n + i end return 1"
	began := time.Now()
	wantReply(t, me, fmt.Sprintf("EVAL %q 0", slow), ":1\r\n")
	if got := me.ask("SLOWLOG GET 10"); !strings.Contains(got, me.address()) {
		t.Errorf("SLOWLOG GET after a command of %v: got %q, want the address %s", time.Since(began), got, me.address())
	}
}
