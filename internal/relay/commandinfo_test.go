package relay_test

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/relay"
)

// A command that this version does not know is shared if the engine's flags prove that it may be; else its client shares
// again afterwards, and who gets the connection next finds nothing on it. Only what may be the client's own state stays.
func TestCommandsOfNewerEngines(t *testing.T) {
	t.Parallel()
	f := newFake(t, 2)
	e := &realEngine{t: t, loops: loops(t)}
	t.Cleanup(f.stop)
	e.loops.SetBackend(&relay.Backend{Engine: "a", Connect: f.connect, ConnectTimeout: patience, Multiplexed: true})
	shared := func(k *talker, words, answer string, want uint64) {
		t.Helper()
		before := e.loops.Counts().Shared
		k.want(words, answer)
		if got := e.loops.Counts().Shared - before; got != want {
			t.Errorf("%s: %d of 1 were shared; want %d", words, got, want)
		}
	}
	// The very first request is such a one; a client's first read is never shared.
	first := e.client()
	shared(first, "NEWER x", "default|0|2", 0)
	shared(first, "NEWER x", "default|0|2", 1)
	k := e.client()
	k.do("MGET x") // a client's first read goes over a connection of its own
	for _, login := range []string{"HELLO 2", "AUTH u1 pw-u1", "SELECT 4", "HELLO 3"} {
		k.do(login)
		proof := map[string]string{"HELLO 2": "default|0|2", "AUTH u1 pw-u1": "u1|0|2", "SELECT 4": "u1|4|2", "HELLO 3": "u1|4|3"}[login]
		for range 5 {
			shared(k, "MOD.TOUCH x", "TOUCHED", 0)
			shared(k, "NEWER x", proof, 1)
			k.want("EVAL x", "[eval x "+proof+"]") // on a connection of its own
			shared(k, "MGET x", "[x|"+proof+" nil]", 1)
		}
		if n := f.tries.Load(); n > 20 {
			t.Errorf("%d connections were made", n)
		}
	}
	shared(k, "NEWSTATE on", "OK", 0)
	shared(k, "NEWER x", "u1|4|3", 0)
}

// Real engines have no such modules here; what comes nearest is a command for the engines' own use.
func TestCommandsOfRealEnginesThatComeBack(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Run("gateway", func(t *testing.T) {
			t.Parallel()
			e := newEngineOf(t, b, true)
			e.client().want("ACL SETUSER app on >pw ~* &* +@all", "OK")
			k := e.client()
			k.want("HELLO 3 AUTH app pw", "[server*")
			k.want("SELECT 3", "OK")
			unknownCommandsComeBack(t, e, k)
		})
		// The connection's login is the sidecar's.
		t.Run("sidecar", func(t *testing.T) {
			t.Parallel()
			server := newBareEngine(t, b)
			server.client().want("ACL SETUSER app on >pw ~* &* +@all", "OK")
			e := newSidecar(t, server, "app", "pw")
			k := e.client()
			k.want("CLIENT SETNAME friend", "OK")
			unknownCommandsComeBack(t, e, k)
			k.want("CLIENT GETNAME", "friend")
			k.want("WATCH k", "OK")
			if l := server.client().do("CLIENT LIST"); !strings.Contains(l, " name=friend ") {
				t.Errorf("the server sees %q", l)
			}
		})
	})
}

func unknownCommandsComeBack(t *testing.T, e *realEngine, k *talker) {
	made := func() int {
		n, _ := strconv.Atoi(regexp.MustCompile(`total_connections_received:(\d+)`).FindStringSubmatch(k.do("INFO stats"))[1])
		return n
	}
	k.want("GET nothing", "nil") // a client's first read is never shared
	before := made()
	for _, words := range []string{
		"RESTORE-ASKING x 0 bad", "VADD v VALUES 2 1 1 a", "VADD v VALUES 2 1 2 b CAS", "VSIM v ELE a", "VCARD v", "CLUSTERSCAN 0",
		"MSETEX 1 a b", "DELIFEQ a b", "DELEX a", "DIGEST a", "COMMANDLOG LEN slow", "EVAL return(1) 0",
	} {
		k.do(words)
		at := e.loops.Counts().Shared
		k.want("GET nothing", "nil")
		if e.loops.Counts().Shared != at+1 {
			t.Errorf("%s: its client shares no more", words)
		}
		k.want("MULTI", "OK")
		k.want("ACL WHOAMI", "QUEUED")
		k.want("EXEC", "[app]")
	}
	if n := made() - before; n > 3 {
		t.Errorf("%d connections were made", n)
	}
}

// VSIM and VADD with CAS may wait, and nobody waits with them.
func TestVectorSearchHoldsUpNobody(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		e := newEngineOf(t, b, true)
		k := e.client()
		if strings.HasPrefix(k.do("VCARD v"), "ERR unknown command") {
			t.Skip("it has no vector sets")
		}
		for _, tc := range []struct {
			words  string
			shared bool
		}{
			{"VADD v VALUES 2 1 1 a", true}, {"VADD v VALUES 2 1 2 b CAS", false}, {"VADD v VALUES 2 1 2 cas NOQUANT", false},
			{"VSIM v ELE a", false}, {"VSIM v ELE nothread", false}, {"VDIM v", true}, {"VREM v a", true},
		} {
			before := e.loops.Counts().Dedicated
			k.do(tc.words)
			if got := e.loops.Counts().Dedicated == before; got != tc.shared {
				t.Errorf("%s: shared %t", tc.words, got)
			}
		}
	})
}
