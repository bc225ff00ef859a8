package failover

import (
	"bufio"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

//go:embed clients
var nodeFiles embed.FS

// nodeProcess runs all clients of one library for Node.js.
type nodeProcess struct {
	cmd    *exec.Cmd
	owners []*owner
	ended  chan struct{}

	mu      sync.Mutex // guards the rest
	stdin   io.WriteCloser
	waiting map[int64]chan nodeLine
	next    int64
	users   int
	failure error
}

type nodeLine struct {
	ID       int64
	Replies  []nodeReply
	Ready    bool
	Closed   *int
	Clean    bool
	ByServer bool
}

type nodeReply struct {
	Value  any
	Error  string
	Server bool
}

// InstallNode installs the libraries for Node.js into a folder. Clients of ioredis and node-redis are started from it.
func InstallNode(ctx context.Context, dir string) error {
	files, err := fs.Sub(nodeFiles, "clients")
	if err != nil {
		return err
	}
	for _, name := range []string{"package.json", "package-lock.json", "clients.mjs"} {
		text, err := fs.ReadFile(files, name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			return err
		}
	}
	c := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return nil
}

func newNode(dir, library string, e Endpoint, owners []*owner) ([]Client, error) {
	type address struct {
		Host string `json:"host"`
		Port int    `json:"port"`
	}
	split := func(text string) (a address) {
		host, port, _ := net.SplitHostPort(text)
		a.Host = host
		a.Port, _ = strconv.Atoi(port)
		return a
	}
	own := split(e.Address)
	config := map[string]any{
		"library": library, "clients": len(owners), "host": own.Host, "port": own.Port, "ca": e.CAFile, "master": e.Master,
		"replyTimeout": replyTimeout.Milliseconds(),
	}
	var sentinels []address
	for _, s := range e.Sentinels {
		sentinels = append(sentinels, split(s))
	}
	if sentinels != nil {
		config["sentinels"] = sentinels
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	p := &nodeProcess{cmd: exec.Command("node", "clients.mjs", string(raw)), owners: owners, ended: make(chan struct{}), waiting: make(map[int64]chan nodeLine), users: len(owners)}
	p.cmd.Dir, p.cmd.Stderr = dir, os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan nodeLine, 1)
	p.waiting[0] = ready
	go p.read(stdout)
	select {
	case <-ready:
	case <-p.ended:
		return nil, fmt.Errorf("%s: the program for Node.js ended: %w", library, p.failure)
	case <-time.After(time.Minute):
		p.cmd.Process.Kill()
		return nil, fmt.Errorf("%s: not connected within a minute", library)
	}
	var clients []Client
	for i := range owners {
		clients = append(clients, &nodeClient{p, i})
	}
	return clients, nil
}

// read hands out replies until the process ends.
func (p *nodeProcess) read(stdout io.Reader) {
	defer close(p.ended)
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var l nodeLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", lines.Text(), err)
			continue
		}
		if l.Closed != nil {
			o := p.owners[*l.Closed]
			o.watch.reportUnlessIgnored(Closed{Client: o.client, Clean: l.Clean, ByServer: l.ByServer})
			continue
		}
		p.mu.Lock()
		c := p.waiting[l.ID]
		delete(p.waiting, l.ID)
		p.mu.Unlock()
		if c != nil {
			c <- l
		}
	}
	err := p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failure = errors.Join(errors.New("node ended"), err)
}

type nodeClient struct {
	p *nodeProcess
	n int
}

func (c *nodeClient) Do(_ context.Context, commands [][]string) []Reply {
	p := c.p
	answer := make(chan nodeLine, 1)
	p.mu.Lock()
	p.next++
	id := p.next
	p.waiting[id] = answer
	line, err := json.Marshal(map[string]any{"id": id, "client": c.n, "commands": commands})
	if err == nil {
		_, err = p.stdin.Write(append(line, '\n'))
	}
	p.mu.Unlock()
	if err != nil {
		return failed(err, commands)
	}
	select {
	case l := <-answer:
		var replies []Reply
		for _, r := range l.Replies {
			if r.Error == "" {
				replies = append(replies, reply(r.Value, nil))
			} else if r.Server {
				replies = append(replies, Reply{Err: ServerError(r.Error)})
			} else {
				replies = append(replies, Reply{Err: errors.New(r.Error)})
			}
		}
		return replies
	case <-p.ended:
		return failed(p.failure, commands)
	}
}

// Close ends the process with its last client.
func (c *nodeClient) Close() {
	c.p.mu.Lock()
	c.p.users--
	last := c.p.users == 0
	if last {
		c.p.stdin.Close()
	}
	c.p.mu.Unlock()
	if last {
		<-c.p.ended
	}
}
