package wire_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/wire"
)

// A program of another version knows these values, so they are written out a second time.
func TestValuesNeverChange(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, got, want string }{
		{"ALPNSealane", wire.ALPNSealane, "sealane/1"},
		{"ALPNProbe", wire.ALPNProbe, "sealane-probe"},
		{"ALPNTrustsCA", wire.ALPNTrustsCA, "sealane-ca/"},
		{"ProbeLibrary", wire.ProbeLibrary, "sealane-probe"},
		{"GoawayPush", wire.GoawayPush, ">1\r\n$14\r\nsealane-goaway\r\n"},
		{"MaxClients", wire.MaxClients, "ERR max number of clients"},
		{"EngineUnavailable", wire.EngineUnavailable, "ERR the engine behind this port"},
		{"WantsTLS", wire.WantsTLS, "ERR this port wants TLS"},
		{"TLSRequired", wire.TLSRequired, "this port wants TLS"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s is %q; other versions of Sealane know it as %q", tc.name, tc.got, tc.want)
		}
	}
}

// Whoever recognises an error by how it begins must recognise all that are said: those of Redis 7.0.15, also in cluster mode,
// and those of the gateways and sidecars that there have been.
func TestErrorsBeginAsTheyAreSaid(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ begins, said string }{
		{wire.MaxClients, "ERR max number of clients reached"},
		{wire.MaxClients, "ERR max number of clients + cluster connections reached"},
		{wire.MaxClients, "ERR max number of clients reached: the sidecar has no free file descriptor, raise its limit of open files"},
		{wire.EngineUnavailable, "ERR the engine behind this port is being restarted: retry with backoff"},
		{wire.EngineUnavailable, "ERR the engine behind this port is not answering, it is being restarted: retry with backoff"},
		{wire.WantsTLS, "ERR this port wants TLS: redis-cli --tls --cacert ca.pem -h 127.0.0.1 -p 6378"},
	} {
		if !strings.HasPrefix(tc.said, tc.begins) {
			t.Errorf("%q does not begin with %q", tc.said, tc.begins)
		}
	}
}

func TestGoawayIsOnePush(t *testing.T) {
	t.Parallel()
	v, n, err := resp.ParseReply([]byte(wire.GoawayPush), resp.Limits{})
	if err != nil || n != len(wire.GoawayPush) || v.Kind != resp.Push {
		t.Errorf("%q is %v, %d bytes, %v", wire.GoawayPush, v, n, err)
	}
	if _, _, err := resp.ParseReply([]byte(wire.GoawayPush[:len(wire.GoawayPush)-1]), resp.Limits{}); !errors.Is(err, resp.ErrIncomplete) {
		t.Errorf("without its last byte: %v", err)
	}
}
