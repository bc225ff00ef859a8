package engine

import (
	"context"
	"fmt"
	"net"
	"path/filepath"

	"github.com/sealane/sealane/internal/resp"
)

// How the data of one engine get into another: over the replication protocol. Package replication carries it.

// Connect opens a connection to the engine that is logged in as the control plane's user. It belongs to the caller.
func (e *Engine) Connect(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", Socket(e.dir))
	if err != nil {
		return nil, fmt.Errorf("connect to engine %s: %w", e.dir, err)
	}
	limited, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if _, err := resp.NewClient(conn, maxReply).Do(limited, "AUTH", adminUser, e.password); err != nil {
		conn.Close()
		return nil, fmt.Errorf("log in to engine %s: %w", e.dir, err)
	}
	return conn, nil
}

// copyDirectives are those that a copy of the data needs: the snapshot goes out at once and not by way of a file. (The delay is for
// several replicas that come one after the other.)
var copyDirectives = [][2]string{{"repl-diskless-sync", "yes"}, {"repl-diskless-sync-delay", "0"}}

// replicaLimit is the directive that bounds what waits to be sent to a replica.
const replicaLimit = "client-output-buffer-limit"

// OpenForCopy sets the engine up to be copied by a replica, and returns what sets it back. buffer is how many bytes of what is written
// meanwhile may wait to be sent: with its usual 256 MB an engine that is written to fast would cut every copy off.
func (e *Engine) OpenForCopy(ctx context.Context, buffer int64) (restore func(context.Context) error, err error) {
	directives := append([][2]string{{replicaLimit, fmt.Sprintf("replica %d 0 0", buffer)}}, copyDirectives...)
	var ask, set, back [][]string
	for _, d := range directives {
		ask = append(ask, []string{"CONFIG", "GET", d[0]})
		set = append(set, []string{"CONFIG", "SET", d[0], d[1]})
	}
	replies, err := e.call(ctx, ask...)
	if err == nil {
		for i, d := range directives {
			if r := replies[i].Elems; len(r) == 2 {
				back = append(back, []string{"CONFIG", "SET", d[0], r[1].Str})
			}
		}
		_, err = e.call(ctx, set...)
	}
	if err != nil {
		return nil, fmt.Errorf("set engine %s up for a copy: %w", e.dir, err)
	}
	return func(ctx context.Context) error {
		if _, err := e.call(ctx, back...); err != nil {
			return fmt.Errorf("set engine %s back after a copy: %w", e.dir, err)
		}
		return nil
	}, nil
}

// secondChannels are the directives by which a replica takes the snapshot over a connection of its own, beside that for the changes. Redis
// does from 8.0 on by itself.
var secondChannels = []string{"repl-rdb-channel", "dual-channel-replication-enabled"}

// Follow makes the engine a replica: it drops its data and takes those of the engine at that address, and what changes there. It opens one
// connection.
func (e *Engine) Follow(ctx context.Context, host, port string) error {
	var ask, tell [][]string
	for _, name := range secondChannels {
		ask = append(ask, []string{"CONFIG", "GET", name})
	}
	replies, err := e.call(ctx, ask...)
	for i, r := range replies {
		if len(r.Elems) == 2 && r.Elems[1].Str != "no" {
			tell = append(tell, []string{"CONFIG", "SET", secondChannels[i], "no"})
		}
	}
	if err == nil {
		_, err = e.call(ctx, append(tell, []string{"REPLICAOF", host, port})...)
	}
	if err != nil {
		return fmt.Errorf("make engine %s a replica: %w", e.dir, err)
	}
	return nil
}

// Promote makes a replica an engine of its own, which takes writes.
func (e *Engine) Promote(ctx context.Context) error {
	if _, err := e.call(ctx, []string{"REPLICAOF", "NO", "ONE"}); err != nil {
		return fmt.Errorf("promote engine %s: %w", e.dir, err)
	}
	return nil
}

// NeededReplicas is the directive by which RefuseWrites works. Whoever configures an engine that was adopted sets it to 0: a control plane
// that was killed may have left it.
const NeededReplicas = "min-replicas-to-write"

// RefuseWrites makes the engine answer NOREPLICAS to every write, or take them again: what clients wrote to an engine that is being
// replaced, after the other has its last data, would be lost.
func (e *Engine) RefuseWrites(ctx context.Context, refuse bool) error {
	needed := "0"
	if refuse {
		needed = "1000000" // it has one at most
	}
	if _, err := e.call(ctx, []string{"CONFIG", "SET", NeededReplicas, needed}); err != nil {
		return fmt.Errorf("set whether engine %s takes writes: %w", e.dir, err)
	}
	return nil
}

// RetireDump puts aside the dump that a replica has received, as at a start, where Config.KeepDump is false.
func (e *Engine) RetireDump() error { return e.retireDump() }

// Dump is the path of the file that an engine whose folder is dir loads when it starts.
func Dump(dir string) string { return filepath.Join(dir, dumpName) }

// LoadedDump is the path to which that file is moved once it was loaded, where Config.KeepDump is false.
func LoadedDump(dir string) string { return filepath.Join(dir, loadedName) }
