package relay_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

// dialEngine connects to the engine without anything in between.
func (e *realEngine) dialEngine() net.Conn {
	e.t.Helper()
	c, err := net.Dial("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// worstOf asks until stop is closed, and returns how long the slowest answer took.
func worstOf(t *testing.T, c net.Conn, stop <-chan struct{}) time.Duration {
	request, reply, worst := resp.AppendCommand(nil, "EXISTS", "small"), make([]byte, 4), time.Duration(0)
	for {
		select {
		case <-stop:
			return worst
		case <-time.After(2 * time.Millisecond):
		}
		began := time.Now()
		if _, err := c.Write(request); err != nil {
			t.Error(err)
			return worst
		}
		if _, err := io.ReadFull(c, reply); err != nil || string(reply) != ":0\r\n" {
			t.Errorf("%q, %v", reply, err)
			return worst
		}
		worst = max(worst, time.Since(began))
	}
}

// Others are hardly slower than without a gateway, and its memory hardly grows, whatever one client leaves unread. The
// client gets all it asked for once it reads.
func TestClientThatDoesNotReadHoldsUpNobody(t *testing.T) {
	value := strings.Repeat("v", 1<<20)
	const gets = 400
	pipeline := bytes.Repeat(resp.AppendCommand(nil, "GET", "big"), gets)
	for _, multiplexed := range []bool{false, true} {
		t.Run(fmt.Sprintf("multiplexed %t", multiplexed), func(t *testing.T) {
			e := newRealEngine(t, multiplexed)
			setup := e.dialEngine()
			_, _ = setup.Write(resp.AppendCommand(nil, "SET", "big", value))
			if _, err := io.ReadFull(setup, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			var bare, through time.Duration
			grown := uint64(0)
			for _, direct := range []bool{true, false} {
				var neighbour net.Conn
				stop, watchers := make(chan struct{}), sync.WaitGroup{}
				worst := make([]time.Duration, 6)
				for i := range worst {
					var c net.Conn
					if direct {
						c = e.dialEngine()
					} else {
						c = e.client().c
					}
					watchers.Go(func() { worst[i] = worstOf(t, c, stop) })
				}
				if direct {
					neighbour = e.dialEngine()
				} else {
					neighbour = e.client().c
				}
				runtime.GC()
				before, most := heap(), uint64(0)
				if _, err := neighbour.Write(pipeline); err != nil {
					t.Fatal(err)
				}
				for until := time.Now().Add(time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
					most = max(most, heap())
				}
				close(stop)
				watchers.Wait()
				if n, err := io.CopyN(io.Discard, neighbour, gets*int64(len("$1048576\r\n")+len(value)+2)); err != nil {
					t.Errorf("direct %t: the client that did not read got %d bytes, then %v", direct, n, err)
				}
				for _, w := range worst {
					if direct {
						bare = max(bare, w)
					} else {
						through = max(through, w)
					}
				}
				if grown = 0; most > before {
					grown = most - before
				}
			}
			t.Logf("others' worst: %v directly, %v here; the heap grew by %d KiB", bare, through, grown>>10)
			if through > 3*bare+300*time.Millisecond {
				t.Errorf("others waited %v; without a gateway it was %v", through, bare)
			}
			if grown > 64<<20 {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
		})
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// A client may say all before it reads anything: the engines answer that.
func TestPipelineThatIsSentBeforeAnythingIsRead(t *testing.T) {
	big := strings.Repeat("b", 10<<20)
	for _, multiplexed := range []bool{false, true} {
		e := newRealEngine(t, multiplexed)
		for _, tc := range []struct {
			name              string
			requests, replies []byte
		}{
			{"small", bytes.Repeat(resp.AppendCommand(nil, "GET", "none"), 200_000), bytes.Repeat([]byte("$-1\r\n"), 200_000)},
			{"mixed", bytes.Repeat(append(resp.AppendCommand(nil, "SET", "k", "v"), resp.AppendCommand(nil, "GET", "k")...), 100_000),
				bytes.Repeat([]byte("+OK\r\n$1\r\nv\r\n"), 100_000)},
			{"of 10 MiB", append(resp.AppendCommand(nil, "SET", "big", big), bytes.Repeat(resp.AppendCommand(nil, "GET", "big"), 3)...),
				append([]byte("+OK\r\n"), bytes.Repeat(resp.Append(nil, resp.Value{Kind: resp.Bulk, Str: big}), 3)...)},
			{"local answers", bytes.Repeat([]byte("RESET\r\n"), 10_000), bytes.Repeat([]byte("+RESET\r\n"), 10_000)},
		} {
			t.Run(fmt.Sprintf("%s, multiplexed %t", tc.name, multiplexed), func(t *testing.T) {
				c := e.client().c
				if _, err := c.Write(tc.requests); err != nil {
					t.Fatalf("not all could be sent: %v", err)
				}
				got := make([]byte, len(tc.replies))
				if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, tc.replies) {
					t.Errorf("%d bytes of %d, %v", n, len(got), err)
				}
			})
		}
	}
}

// A reply is long, and nobody knew: whoever shares the connection asks again, and each gets what is its own, once.
func TestReplyThatTurnsOutToBeLong(t *testing.T) {
	big, mid := strings.Repeat("b", 12<<20), strings.Repeat("m", 1<<20)
	for _, pipelined := range []bool{false, true} { // with a write behind it the long reply has to be taken as it comes
		e := newRealEngine(t, true)
		setup := e.dialEngine()
		_, _ = setup.Write(resp.AppendCommand(resp.AppendCommand(nil, "SET", "big", big), "SET", "mid", mid))
		if _, err := io.ReadFull(setup, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		var clients sync.WaitGroup
		for i := range 8 {
			k := e.client()
			k.want(fmt.Sprintf("SET k%d v%d", i, i), "OK")
			for range 20 {
				k.want(fmt.Sprintf("GET k%d", i), fmt.Sprintf("v%d", i)) // its replies are known to be short
			}
			clients.Go(func() {
				for n := range 20 {
					requests, want := resp.AppendCommand(nil, "GET", fmt.Sprintf("k%d", i)), []string{fmt.Sprintf("v%d", i)}
					if i < 2 && n == 10 {
						requests, want = append(requests, resp.AppendCommand(nil, "GET", "big")...), append(want, big)
					}
					for k := 0; i == 2 && n == 10 && k < 40; k++ {
						requests, want = resp.AppendCommand(requests, "GET", "mid"), append(want, mid)
					}
					if pipelined {
						requests, want = append(requests, resp.AppendCommand(nil, "INCR", fmt.Sprintf("n%d", i))...), append(want, fmt.Sprint(n+1))
					}
					requests, want = append(requests, resp.AppendCommand(nil, "STRLEN", fmt.Sprintf("k%d", i))...), append(want, "2")
					if _, err := k.c.Write(requests); err != nil {
						t.Error(err)
						return
					}
					for _, w := range want {
						if got := k.next(); got != w {
							t.Errorf("client %d, step %d: got %d bytes, %.40q; want %d bytes, %.40q", i, n, len(got), got, len(w), w)
							return
						}
					}
				}
			})
		}
		clients.Wait()
	}
}
