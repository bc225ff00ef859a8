package replicationlink_test

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
)

// channels are how engines fetch an RDB file: over the connection that what changes comes over, or over one more.
var channels = []struct{ name, directive string }{
	{"one channel", "repl-diskless-load"},                // any
	{"rdb channel", "repl-rdb-channel"},                  // Redis 8
	{"dual channel", "dual-channel-replication-enabled"}, // Valkey 8
}

// pair is a primary behind a listener, and a replica that connects there with TLS.
type pair struct {
	*world
	program string
	args    []string // of both
	primary *enginetest.Running
	replica *enginetest.Running
}

// eachPair runs a test on every engine that has TLS, for each way that it has to synchronise. The replica is not started.
func eachPair(t *testing.T, test func(p *pair)) {
	t.Parallel()
	enginetest.Each(t, func(t *testing.T, b engine.Binary) {
		for _, c := range channels {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				p := &pair{program: b.Path, args: []string{
					"--port", "0", "--appendonly", "no", "--save", "", "--rdbcompression", "no", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
				}}
				p.primary = enginetest.Run(t, p.program, p.args...)
				for _, directive := range []string{"tls-replication", c.directive} {
					if len(p.primary.Do("CONFIG", "GET", directive).Elems) == 0 {
						t.Skipf("this engine has no %s", directive)
					}
				}
				if c.name != "one channel" {
					p.args = append(p.args, "--"+c.directive, "yes")
					if v := p.primary.Do("CONFIG", "SET", c.directive, "yes"); v.IsError() {
						t.Fatal(v.Str)
					}
				}
				p.world = newWorld(t, p.primary.Socket)
				hash := fmt.Sprintf("#%x", sha256.Sum256([]byte(password)))
				p.do(p.primary, "ACL", "SETUSER", "replication", "on", hash, "+psync", "+replconf", "+ping")
				if c.name == "dual channel" { // Valkey asks for the RDB file with SYNC then
					p.do(p.primary, "ACL", "SETUSER", "replication", "+sync")
				}
				test(p)
			})
		}
	})
}

func (p *pair) do(on *enginetest.Running, args ...string) string {
	p.t.Helper()
	v := on.Do(args...)
	if v.IsError() {
		p.t.Fatalf("%q: %s", args, v.Str)
	}
	return v.Str
}

// startReplica starts an engine that never listens on TCP, and lets it replicate.
func (p *pair) startReplica() {
	p.t.Helper()
	p.replica = enginetest.Run(p.t, p.program, append(p.args, p.replicaTLS()...)...)
	host, port, _ := net.SplitHostPort(p.config.Address)
	p.do(p.replica, "REPLICAOF", host, port)
}

// replicaTLS are the arguments of an engine that replicates over TLS, and listens on none.
func (p *pair) replicaTLS() []string {
	p.t.Helper()
	dir, cert := tempDir(p.t), peerOf(p.t, p.ca)
	args := []string{"--tls-port", "0", "--tls-replication", "yes"}
	for name, file := range map[string][]byte{
		"tls-cert-file": certtest.PEM(cert.Certificate...), "tls-key-file": certtest.KeyPEM(p.t, cert.PrivateKey), "tls-ca-cert-file": p.config.Authorities,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, file, 0o600); err != nil {
			p.t.Fatal(err)
		}
		args = append(args, "--"+name, path)
	}
	return args
}

// info is the value of a field of INFO.
func (p *pair) info(of *enginetest.Running, section, field string) string {
	p.t.Helper()
	for line := range strings.Lines(p.do(of, "INFO", section)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			return value
		}
	}
	return ""
}

// wantCopied writes a value and waits until the replica has it.
func (p *pair) wantCopied(value string) {
	p.t.Helper()
	p.do(p.primary, "SET", "newest", value)
	eventually(p.t, "the replica has "+value, func() bool {
		v := p.replica.Do("GET", "newest")
		return v.Str == value
	})
}

// A full synchronisation goes on through a rotation of leaf and CA, and one that was cut is followed by a partial one.
func TestEnginesReplicate(t *testing.T) {
	eachPair(t, func(p *pair) {
		p.do(p.primary, "EVAL", "for i = 1, 2000 do redis.call('set', i, string.rep('x', 1000)) end", "0")
		p.do(p.primary, "CONFIG", "SET", "rdb-key-save-delay", "200") // microseconds
		p.startReplica()
		eventually(p.t, "the synchronisation is under way", func() bool { return p.listener.Status().BytesOut > 100_000 })
		old := p.ca
		p.ca = certtest.NewAuthority(p.t, "CA-2")
		p.config.Authorities = append(p.ca.PEM(), old.PEM()...)
		p.present(peerOf(p.t, p.ca))
		p.apply()
		if copied := p.listener.Status().BytesOut; copied > 1_900_000 {
			p.t.Errorf("%d bytes were there before the rotation: it is to be in the middle", copied)
		}
		p.wantCopied("through the rotation")
		if n := p.info(p.primary, "stats", "sync_full"); n != "1" {
			p.t.Errorf("there were %s full synchronisations", n)
		}
		if got := p.info(p.replica, "keyspace", "db0"); !strings.HasPrefix(got, "keys=2001,") {
			p.t.Errorf("the replica has %s", got)
		}

		// The replica holds the old CA only, as it does while its files are being replaced: the node goes back to what it verifies.
		p.present(peerOf(p.t, old))
		p.apply()
		partial := p.info(p.primary, "stats", "sync_partial_ok")
		p.config.Closed = true
		p.apply()
		p.do(p.primary, "SET", "newest", "while it was cut")
		p.config.Closed = false
		p.apply()
		p.wantCopied("after the cut")
		if full, now := p.info(p.primary, "stats", "sync_full"), p.info(p.primary, "stats", "sync_partial_ok"); full != "1" || now == partial {
			p.t.Errorf("full synchronisations: %s, partial ones: %s, and %s before the cut", full, now, partial)
		}
		if got := p.info(p.replica, "replication", "master_link_status"); got != "up" {
			p.t.Errorf("the link is %s", got)
		}
	})
}
