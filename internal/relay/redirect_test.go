package relay_test

import (
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
)

// Whoever looks at a redirection of invalidations sees the id that the client gave, and nobody else ever gets them.
func TestRedirectOfTracking(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		for path, multiplexed := range map[string]bool{"transparent": false, "multiplexed": true} {
			t.Run(path, func(t *testing.T) {
				t.Parallel()
				e := newEngineOf(t, b, multiplexed)
				asks, target, writer := e.client(), e.client(), e.client()
				id := target.id()
				asks.want("CLIENT TRACKING on REDIRECT "+id, "OK")
				shows := func() {
					t.Helper()
					asks.want("CLIENT GETREDIR", id)
					if got := asks.do("CLIENT TRACKINGINFO"); !strings.Contains(got, "redirect "+id+" ") {
						t.Errorf("CLIENT TRACKINGINFO: %s", got)
					}
					for who, k := range map[string]*talker{"itself": asks, "others": writer} {
						if got := k.do("CLIENT LIST ID " + asks.id()); !strings.Contains(got, " redir="+id+" ") {
							t.Errorf("CLIENT LIST to %s: %q", who, got)
						}
					}
				}
				shows()
				target.want("HELLO 3", "[server*")
				asks.want("GET k", "nil")
				writer.want("SET k v", "OK")
				if got := target.next(); got != "[invalidate [k]]" {
					t.Errorf("the target read %q", got)
				}
				// The engine goes on sending there after RESET.
				target.want("RESET", "RESET")
				target.want("GET k", "v")
				other := e.client()
				other.want("HELLO 3", "[server*")
				other.want("WATCH k", "OK")
				asks.want("GET k", "v")
				writer.want("SET k w", "OK")
				other.want("GET k", "w")
				target.want("HELLO 3", "[server*")
				asks.want("GET k", "w")
				writer.want("SET k x", "OK")
				if got := target.next(); got != "[invalidate [k]]" {
					t.Errorf("after RESET the target read %q", got)
				}
				// An id that is gone is still the one that was given.
				target.c.Close()
				<-target.session.Done()
				asks.want("CLIENT GETREDIR", id)
				asks.want("CLIENT TRACKING off", "OK")
				asks.want("CLIENT GETREDIR", "-1")
			})
		}
	})
}
