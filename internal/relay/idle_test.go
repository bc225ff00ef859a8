package relay_test

import (
	"strings"
	"testing"
	"time"
)

// The engines count a client as idle since it last sent something, or was last sent something.
func TestReplyCountsAsActivity(t *testing.T) {
	t.Parallel()
	for _, multiplexed := range []bool{false, true} {
		e := newRealEngine(t, multiplexed)
		e.base.IdleTimeout = 2 * time.Second
		e.use(multiplexed)
		c, quiet := e.client(), e.client()
		quiet.want("PING", "PONG")
		c.want("BLPOP nothing 3", "nil")
		// At the moment of its reply the client has said nothing for longer than the timeout.
		if l := c.do("CLIENT LIST ID " + c.id()); !strings.Contains(l, " idle=0 ") {
			t.Errorf("multiplexed %t: CLIENT LIST right after a reply: %q", multiplexed, l)
		}
		began := time.Now()
		c.want("BLPOP nothing 2.5", "nil")
		if got := quiet.next(); got != "closed" {
			t.Errorf("multiplexed %t: the client that was idle was told %q", multiplexed, got)
		}
		// The loops look once a second: one look at least comes before the client is idle for two.
		select {
		case <-c.session.Done():
			t.Errorf("multiplexed %t: closed %v after its request, which took 2.5 s", multiplexed, time.Since(began))
		case <-time.After(1200 * time.Millisecond):
		}
		c.want("PING", "PONG")
	}
}
