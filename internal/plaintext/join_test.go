package plaintext_test

import (
	"testing"
	"time"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/plaintext"
)

// Two gateways of an instance count for themselves. A client of both is one client, with the connections of both.
func TestJoinOfTwoGateways(t *testing.T) {
	t.Parallel()
	one := plaintext.Account{Since: start, Seen: ledger.Ledger{Clients: []ledger.Client{seen(client("a"), start)}},
		Connected: []plaintext.Connected{{Identity: client("a"), Connections: 2}}}
	two := plaintext.Account{Since: start.Add(time.Hour), Seen: ledger.Ledger{Clients: []ledger.Client{seen(client("a"), start.Add(time.Minute)), seen(client("b"), start)}},
		Connected: []plaintext.Connected{{Identity: client("a"), Connections: 1}}}
	for _, joined := range []plaintext.Account{plaintext.Join(one, two), plaintext.Join(two, one)} {
		clients := joined.Clients(ledger.Ledger{})
		if len(clients) != 2 || clients[0].Name != "a" || clients[0].Connections != 3 || !clients[0].Last.Equal(start.Add(time.Minute)) {
			t.Errorf("clients: %+v", clients)
		}
		if !joined.Since.Equal(start.Add(time.Hour)) {
			t.Errorf("both have counted since %v; want when the second began", joined.Since)
		}
	}
	if joined := plaintext.Join(plaintext.Account{}, one); !joined.Since.Equal(start) || len(joined.Connected) != 1 {
		t.Errorf("of one alone: %+v", joined)
	}
}
