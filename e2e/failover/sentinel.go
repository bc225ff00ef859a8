package failover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
)

// Sentinel is a Redis primary with one replica, watched by three sentinels, all without TLS and without persistence. down-after is one
// second; the rest is as Redis has it by default.
type Sentinel struct {
	dir       string
	server    string // the program
	nodes     []*redisNode
	sentinels []*process
	endpoint  Endpoint
	failed    *redisNode // the one that Fail broke
	kind      Kind
	before    string // the primary before Fail
}

type redisNode struct {
	address string
	conf    string
	process *process
}

const masterName = "primary"

// NewSentinel starts it all and waits until it is ready for a failover.
func NewSentinel(ctx context.Context, server string) (*Sentinel, error) {
	dir, err := os.MkdirTemp("", "slsentinel")
	if err != nil {
		return nil, err
	}
	s := &Sentinel{dir: dir, server: server, endpoint: Endpoint{Master: masterName}}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Sentinel) start(ctx context.Context) error {
	for i := range 2 {
		port, err := freePort()
		if err != nil {
			return err
		}
		n := &redisNode{address: net.JoinHostPort("127.0.0.1", port), conf: filepath.Join(s.dir, fmt.Sprint("node-", i, ".conf"))}
		conf := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %s\nsave \"\"\nrepl-diskless-sync-delay 0\n", port, s.dir)
		if i > 0 {
			conf += "replicaof " + strings.Replace(s.nodes[0].address, ":", " ", 1) + "\n"
		}
		s.nodes = append(s.nodes, n)
		if err := os.WriteFile(n.conf, []byte(conf), 0o600); err != nil {
			return err
		}
		if err := s.startNode(n); err != nil {
			return err
		}
	}
	for i := range 3 {
		port, err := freePort()
		if err != nil {
			return err
		}
		conf := filepath.Join(s.dir, fmt.Sprint("sentinel-", i, ".conf"))
		text := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %s\nsentinel monitor %s %s 2\nsentinel down-after-milliseconds %s 1000\n",
			port, s.dir, masterName, strings.Replace(s.nodes[0].address, ":", " ", 1), masterName)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			return err
		}
		p, err := startProcess(filepath.Join(s.dir, fmt.Sprint("sentinel-", i, ".log")), s.server, conf, "--sentinel")
		if err != nil {
			return err
		}
		s.sentinels = append(s.sentinels, p)
		s.endpoint.Sentinels = append(s.endpoint.Sentinels, net.JoinHostPort("127.0.0.1", port))
	}
	return s.inSync(ctx)
}

func (s *Sentinel) startNode(n *redisNode) (err error) {
	n.process, err = startProcess(n.conf+".log", s.server, n.conf)
	return err
}

func (s *Sentinel) Name() string {
	version, _ := s.ask(s.nodes[0].address, "INFO", "server")
	for line := range strings.Lines(version) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "redis_version:"); ok {
			return "Redis " + v + " with Sentinel"
		}
	}
	return "Redis with Sentinel"
}

func (s *Sentinel) Lossless(Kind) bool { return false }

func (s *Sentinel) Endpoint() Endpoint { return s.endpoint }

// ask sends one command to a node or a sentinel, over a connection of its own, and returns the reply as text.
func (s *Sentinel) ask(address string, command string, args ...any) (string, error) {
	c, err := redis.Dial("tcp", address, redis.DialConnectTimeout(time.Second), redis.DialReadTimeout(time.Second), redis.DialWriteTimeout(time.Second))
	if err != nil {
		return "", err
	}
	defer c.Close()
	reply, err := c.Do(command, args...)
	return flatten(reply), err
}

// flatten makes words of a reply.
func flatten(reply any) string {
	switch r := reply.(type) {
	case []byte:
		return string(r)
	case []any:
		var words []string
		for _, e := range r {
			words = append(words, flatten(e))
		}
		return strings.Join(words, " ")
	}
	return fmt.Sprint(reply)
}

// primary is the node that a sentinel calls the primary.
func (s *Sentinel) primary() (*redisNode, error) {
	hostPort, err := s.ask(s.endpoint.Sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName)
	if err != nil {
		return nil, err
	}
	for _, n := range s.nodes {
		if n.address == strings.Replace(hostPort, " ", ":", 1) {
			return n, nil
		}
	}
	return nil, fmt.Errorf("the sentinel names %q", hostPort)
}

func (s *Sentinel) Fail(ctx context.Context, kind Kind) error {
	primary, err := s.primary()
	if err != nil {
		return err
	}
	s.failed, s.kind, s.before = primary, kind, primary.address
	switch kind {
	case Kill:
		primary.process.kill()
	case Stop:
		return primary.process.signal(syscall.SIGSTOP)
	case Command:
		_, err := s.ask(s.endpoint.Sentinels[0], "SENTINEL", "FAILOVER", masterName)
		return err
	default:
		return fmt.Errorf("%s: not with Sentinel", kind)
	}
	return nil
}

func (s *Sentinel) Promoted(ctx context.Context) error {
	return poll(ctx, "the replica is the primary", 2*time.Millisecond, func() error {
		for _, n := range s.nodes {
			if n.address == s.before {
				continue
			}
			if role, err := s.ask(n.address, "ROLE"); err != nil || !strings.HasPrefix(role, "master ") {
				return fmt.Errorf("%s: %s, %v", n.address, role, err)
			}
		}
		return nil
	})
}

// Heal starts what was killed and continues what was stopped. A primary that restarts within down-after would come back empty, still be
// the primary, and its replica would drop its data as well; so the restart comes after the failover, which a service manager doesn't
// know to do.
func (s *Sentinel) Heal(ctx context.Context) error {
	switch s.kind {
	case Kill:
		if err := s.startNode(s.failed); err != nil {
			return err
		}
	case Stop:
		if err := s.failed.process.signal(syscall.SIGCONT); err != nil {
			return err
		}
	}
	return s.inSync(ctx)
}

// inSync waits until the replica has a link to the primary and each sentinel would promote it.
func (s *Sentinel) inSync(ctx context.Context) error {
	return poll(ctx, "the replica is in sync and all sentinels know it", 50*time.Millisecond, func() error {
		primary, err := s.primary()
		if err != nil {
			return err
		}
		for _, n := range s.nodes {
			role, err := s.ask(n.address, "ROLE")
			if n == primary && strings.HasPrefix(role, "master ") || n != primary && strings.HasPrefix(role, "slave ") && strings.Contains(role, " connected ") {
				continue
			}
			return fmt.Errorf("%s: %s, %v", n.address, role, err)
		}
		for _, address := range s.endpoint.Sentinels {
			replicas, err := s.ask(address, "SENTINEL", "REPLICAS", masterName)
			if err != nil || !strings.Contains(replicas, " flags slave ") || !strings.Contains(replicas, " master-link-status ok ") {
				return fmt.Errorf("sentinel %s: %s, %v", address, replicas, err)
			}
			if quorum, err := s.ask(address, "SENTINEL", "CKQUORUM", masterName); err != nil || !strings.Contains(quorum, "OK 3 usable") {
				return fmt.Errorf("sentinel %s: %s, %v", address, quorum, err)
			}
		}
		return nil
	})
}

func (s *Sentinel) Close() error {
	for _, p := range s.sentinels {
		p.kill()
	}
	for _, n := range s.nodes {
		if n.process != nil {
			n.process.kill()
		}
	}
	return os.RemoveAll(s.dir)
}
