package replicationlink_test

import (
	"net"
	"strconv"
	"testing"

	"github.com/sealane/sealane/internal/enginetest"
)

// BenchmarkFullSynchronisation is how fast a replica gets its data: over TCP without TLS, and through a Listener. It loads them as they come,
// so no disk is in the way.
func BenchmarkFullSynchronisation(b *testing.B) {
	const keys, size = 256, 1 << 20
	for _, binary := range enginetest.All(b) {
		p := &pair{program: binary.Path, args: []string{
			"--appendonly", "no", "--save", "", "--rdbcompression", "no", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0",
			"--repl-diskless-load", "swapdb",
		}}
		p.primary = enginetest.Run(b, binary.Path, p.args...)
		p.world = newWorld(b, p.primary.Socket)
		for i := range keys {
			p.do(p.primary, "EVAL", "return redis.call('set', KEYS[1], string.rep('x', ARGV[1]))", "1", strconv.Itoa(i), strconv.Itoa(size))
		}
		p.do(p.primary, "ACL", "SETUSER", "replication", "on", ">"+password, "+psync", "+replconf", "+ping")
		synchronise := func(b *testing.B, host, port string, args ...string) {
			b.SetBytes(keys * size)
			for range b.N {
				b.StopTimer()
				replica := enginetest.Run(b, p.program, append(p.args, args...)...)
				p.do(replica, "CONFIG", "SET", "appendonly", "no")
				b.StartTimer()
				p.do(replica, "REPLICAOF", host, port)
				eventually(b, "it is synchronised", func() bool { return p.info(replica, "replication", "master_link_status") == "up" })
				b.StopTimer()
				replica.Kill()
				b.StartTimer()
			}
		}
		b.Run(enginetest.Name(binary)+"/plaintext", func(b *testing.B) {
			host, port, _ := net.SplitHostPort(p.primary.Address)
			synchronise(b, host, port)
		})
		b.Run(enginetest.Name(binary)+"/listener", func(b *testing.B) {
			host, port, _ := net.SplitHostPort(p.config.Address)
			synchronise(b, host, port, p.replicaTLS()...)
		})
	}
}
