package relay_test

import (
	"context"
	"net"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/netloop"
	"github.com/sealane/sealane/internal/relay"
)

var (
	lineID   = regexp.MustCompile(`(?m)^id=(\d+)`)
	lineName = regexp.MustCompile(`(?m)^.* laddr=.* name=(\S*) .*\n`)
	lineAddr = regexp.MustCompile(` addr=(\S+)`)
)

// newSidecar are loops in front of a server that is far, as a sidecar has them.
func newSidecar(t testing.TB, server *bareEngine, login ...string) *realEngine {
	sidecar := &realEngine{t: t, loops: loops(t)}
	sidecar.loops.SetBackend(&relay.Backend{
		Engine: "far", Name: "sealane-sidecar", Multiplexed: true, ConnectTimeout: patience, UnavailableReply: func() string { return "-ERR away\r\n" }, Login: login,
		Dial: func(ctx context.Context) (netloop.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", server.addr)
			if err != nil {
				return netloop.Conn{}, err
			}
			defer c.Close()
			fd, err := netloop.Descriptor(c.(syscall.Conn))
			return netloop.Conn{FD: fd}, err
		},
	})
	return sidecar
}

// At a server that is far, with clients of its own, CLIENT KILL and LIST mean those and the clients here; the connections
// between, which serve many, are never meant.
func TestClientKillAndListThroughASidecar(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		server := newBareEngine(t, b)
		sidecar := newSidecar(t, server)
		for _, tc := range []struct{ words, unknownTo, want string }{
			{"CLIENT KILL TYPE normal", "", "3, left: a"},
			{"CLIENT KILL USER default", "", "3, left: a"},
			{"CLIENT KILL ID OURS", "", "0, left: a friend stranger other"},
			{"CLIENT KILL ADDR OURADDR", "", "0, left: a friend stranger other"},
			{"CLIENT KILL OURADDR", "", "ERR No such client, left: a friend stranger other"},
			{"CLIENT KILL NAME sealane-sidecar", "redis valkey-7 valkey-8", "0, left: a friend stranger other"},
			{"CLIENT KILL LIB-NAME jedis", "redis valkey-7 valkey-8", "1, left: a stranger other"},
			{"CLIENT KILL NAME friend", "redis valkey-7 valkey-8", "1, left: a stranger other"},
			{"CLIENT KILL DB 0", "redis valkey-7 valkey-8", "3, left: a"},
			{"CLIENT KILL NOT-NAME friend", "redis valkey-7 valkey-8", "2, left: a friend"},
			{"CLIENT KILL ID THEIRS OTHER", "redis valkey-7 valkey-8.0", "2, left: a stranger"},
			{"CLIENT KILL ID OTHER", "", "1, left: a friend stranger"},
			{"CLIENT KILL ID THEIRS", "", "1, left: a stranger other"},
			{"CLIENT LIST NAME friend", "redis valkey-7 valkey-8", "friend, left: a friend stranger other"},
			{"CLIENT LIST NAME sealane-sidecar", "redis valkey-7 valkey-8", ", left: a friend stranger other"},
			{"CLIENT LIST ID THEIRS OTHER", "", ",friend, left: a friend stranger other"},
			{"CLIENT LIST", "", ",a,friend,, left: a friend stranger other"},
			{"CLIENT UNBLOCK OURS", "", "0, left: a friend stranger other"},
		} {
			for older := range strings.FieldsSeq(tc.unknownTo) {
				if strings.HasPrefix(enginetest.Name(b), older) {
					tc.want = "ERR syntax error, left: a friend stranger other"
				}
			}
			if got := askThroughSidecar(sidecar, server, tc.words, tc.want); got != tc.want {
				t.Errorf("%s\n got %s\nwant %s", tc.words, got, tc.want)
			}
		}
	})
}

// askThroughSidecar returns the answer to one of three clients of a sidecar, and which of them and of the server's own are left.
func askThroughSidecar(sidecar *realEngine, server *bareEngine, words, want string) string {
	a, friend, stranger, other := sidecar.client(), sidecar.client(), sidecar.client(), server.client()
	friend.want("CLIENT SETNAME friend", "OK")
	a.want("CLIENT SETNAME a", "OK")
	friend.do("CLIENT SETINFO LIB-NAME jedis")
	stranger.want("BLPOP none 0.01", "nil")
	stranger.want("GET k", "nil")
	shared := ""
	for l := range strings.Lines(other.do("CLIENT LIST")) {
		if strings.Contains(l, " name=sealane-sidecar ") {
			shared = l
		}
	}
	got := a.do(strings.NewReplacer("OURADDR", lineAddr.FindStringSubmatch(shared)[1], "OURS", lineID.FindStringSubmatch(shared)[1],
		"THEIRS", friend.id(), "OTHER", other.id()).Replace(words))
	if strings.HasPrefix(got, "id=") {
		got = strings.TrimSuffix(lineName.ReplaceAllString(got, "$1,"), ",")
	}
	// The server ends its own clients a moment later.
	for until := time.Now().Add(patience); !strings.Contains(want, "other") && other.lives() && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	left := ""
	for _, who := range []struct {
		name string
		k    *talker
	}{{"a", a}, {"friend", friend}, {"stranger", stranger}, {"other", other}} {
		if who.k.lives() {
			left += " " + who.name
		}
		who.k.c.Close()
		if who.k.session != nil {
			<-who.k.session.Done()
		}
	}
	return got + ", left:" + left
}
