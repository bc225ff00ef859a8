package relay_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

// What one client sends against the protocol costs the others nothing, whatever this engine thinks of it: Valkey 9.1 closes
// where the line end behind a value is missing, where others skip two bytes of any kind.
func TestMalformedRequestsCostOthersNothing(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		t.Parallel()
		const echoes = 300
		e := newEngineOf(t, b, true)
		var others []*talker
		for range 4 {
			c := e.client()
			c.want("SET before "+c.c.LocalAddr().String(), "OK")
			others = append(others, c)
		}
		for _, malformed := range []string{
			"*1\r\n$4\r\nPINGxx", "*2\r\n$4\r\nECHO\r\n$2\r\nabc\r\n", "*2\r\n$3\r\nGET\r\n$1\r\nk\n\n", "*2\r\n$3\r\nGETxx$1\r\nkxx", "*1\r\n$4\r\nPING\r\r",
			"*1\n$4\r\nPING\r\n", "*01\r\n$04\r\nPING\r\n", "*1\r\n$4\nPING\r\n", "*1\r\n$-1\r\n", "*1\r\n:1\r\n", "*x\r\n", "*1\r\n$x\r\n",
			"*2147483648\r\n", "*1\r\n$536870913\r\n", "GET \"k\"y\r\n", "GET 'k\r\n", "GET \"k\r\n", "PING\r\nGET 'k'x\n",
			"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$-1\r\n", "$4\r\nPING\r\n", "+PING\r\n", ">1\r\n", "\x00\r\n", strings.Repeat("x", 70000),
		} {
			bad := e.client()
			bad.want("PING", "PONG")
			var pending []byte // of the others, before and behind what is malformed
			for n := range echoes {
				pending = resp.AppendCommand(pending, "ECHO", fmt.Sprint("mine-", n))
			}
			for _, c := range others {
				_, _ = c.c.Write(pending)
			}
			_, _ = bad.c.Write([]byte(malformed + "PING\r\n"))
			for _, c := range others {
				_, _ = c.c.Write(pending)
			}
			for _, c := range others {
				for n := range 2 * echoes {
					if got, want := c.next(), fmt.Sprint("mine-", n%echoes); got != want {
						t.Fatalf("around %.60q of another client: got %q, want %q", malformed, got, want)
					}
				}
				c.want("ECHO still-here", "still-here")
			}
			bad.c.Close()
		}
	})
}
