package failover

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Sealane is a `sealane serve` with one instance of tier STANDARD_HA, reached over verified TLS.
type Sealane struct {
	Dir      string // its files; every process of it names it
	program  string
	path     string // the data path
	serve    *process
	endpoint Endpoint
	mounted  bool
	filler   string // the file that fills the disk
	before   string // the primary's socket before Fail
	command  *exec.Cmd
	output   bytes.Buffer // of command
}

// SealaneConfig says how the server and its instance are.
type SealaneConfig struct {
	Program  string
	DataPath string // transparent or multiplexed
	// DiskSize is the size of a file system of its own for the state, such as 256m, which takes the right to mount; "" for none. Without it
	// a full disk can't be shown.
	DiskSize string
	Flags    []string // of instances create, beside the tier
	Pool     string   // the network for instances, such as 127.84.1.0/24; each server on a machine has one of its own
}

const instanceName = "first"

// NewSealane starts a server, creates the instance and waits until its replica is in sync.
func NewSealane(ctx context.Context, c SealaneConfig) (*Sealane, error) {
	program, err := filepath.Abs(c.Program)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "slfail") // a Unix socket's path is short
	if err != nil {
		return nil, err
	}
	s := &Sealane{Dir: dir, program: program, path: c.DataPath}
	if err := s.start(ctx, c); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "serve.log"))
		return nil, errors.Join(fmt.Errorf("%w\nthe server's log:\n%s", err, log), s.Close())
	}
	return s, nil
}

func (s *Sealane) state() string { return filepath.Join(s.Dir, "state") }

func (s *Sealane) start(ctx context.Context, c SealaneConfig) error {
	if err := os.Mkdir(s.state(), 0o700); err != nil {
		return err
	}
	if c.DiskSize != "" {
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=0700,size="+c.DiskSize, "tmpfs", s.state()).CombinedOutput(); err != nil {
			return fmt.Errorf("mount a small file system for %s: %w: %s", Disk, err, out)
		}
		s.mounted = true
	}
	conf := "http: 127.0.0.1:0\ngrpc: 127.0.0.1:0\nops: 127.0.0.1:0\naddresses: {pool: " + c.Pool + "}\n"
	if err := os.WriteFile(filepath.Join(s.Dir, "sealane.yaml"), []byte(conf), 0o600); err != nil {
		return err
	}
	if err := s.Serve(ctx); err != nil {
		return err
	}
	if _, err := s.cli(ctx, append([]string{"instances", "create", instanceName, "--tier", "standard_ha"}, c.Flags...)...); err != nil {
		return err
	}
	if _, err := s.cli(ctx, "instances", "update", instanceName, "--data-path", c.DataPath); err != nil {
		return err
	}
	if err := s.findEndpoint(ctx); err != nil {
		return err
	}
	return s.inSync(ctx)
}

// Serve starts `sealane serve` and waits until it is ready.
func (s *Sealane) Serve(ctx context.Context) error {
	log := filepath.Join(s.Dir, "serve.log")
	before, _ := os.ReadFile(log)
	p, err := startProcess(log, s.program, "serve", "--config", filepath.Join(s.Dir, "sealane.yaml"), "--state", s.state())
	if err != nil {
		return err
	}
	s.serve = p
	return poll(ctx, "sealane serve is ready", 20*time.Millisecond, func() error {
		select {
		case <-p.ended:
			return errors.New("it has ended")
		default:
		}
		text, err := os.ReadFile(log)
		if err == nil && !bytes.Contains(text[min(len(before), len(text)):], []byte("ready\n")) {
			err = errors.New("not yet")
		}
		return err
	})
}

// cli runs a command of the CLI and returns its stdout.
func (s *Sealane) cli(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, s.program, append([]string{"--state", s.state()}, args...)...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("sealane %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.String(), nil
}

// Described is what `instances describe` says.
type Described struct {
	Host, State, StatusMessage string
	Port                       int
}

// Describe asks the server about the instance.
func (s *Sealane) Describe(ctx context.Context) (d Described, err error) {
	text, err := s.cli(ctx, "instances", "describe", instanceName, "--format", "json")
	if err == nil {
		err = json.Unmarshal([]byte(text), &d)
	}
	return d, err
}

func (s *Sealane) findEndpoint(ctx context.Context) error {
	d, err := s.Describe(ctx)
	if err != nil {
		return err
	}
	bundle, err := s.cli(ctx, "ca", "bundle", instanceName)
	if err != nil {
		return err
	}
	s.endpoint = Endpoint{Address: net.JoinHostPort(d.Host, strconv.Itoa(d.Port)), CAFile: filepath.Join(s.Dir, "ca.pem")}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(bundle)) {
		return fmt.Errorf("no certificate in the bundle %q", bundle)
	}
	s.endpoint.TLS = &tls.Config{RootCAs: roots, ServerName: d.Host}
	return os.WriteFile(s.endpoint.CAFile, []byte(bundle), 0o600)
}

func (s *Sealane) Lossless(kind Kind) bool { return kind == Command }

func (s *Sealane) Name() string { return "Sealane, " + s.path }

func (s *Sealane) Endpoint() Endpoint { return s.endpoint }

// Primary is the socket of the engine that takes writes: the one in the snapshot of the gateway that has the endpoint. That is what
// Sealane itself holds to.
func (s *Sealane) Primary() (string, error) {
	files, err := filepath.Glob(filepath.Join(s.state(), "nodes", "*", "snapshot.json"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		var snapshot struct {
			Engine    string
			ReadOnly  bool `json:"read_only"`
			Listeners []struct{ Address string }
		}
		raw, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(raw, &snapshot)
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
		for _, l := range snapshot.Listeners {
			if l.Address == s.endpoint.Address && !snapshot.ReadOnly {
				return snapshot.Engine, nil
			}
		}
	}
	return "", fmt.Errorf("none of %d snapshots has the endpoint %s", len(files), s.endpoint.Address)
}

// Processes are this server's gateways or engines.
func (s *Sealane) Processes(kind string) (pids []int) {
	mark := map[string]string{"gateway": " gateway --dir " + s.state(), "engine": "unixsocket:" + s.state()}[kind]
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && strings.Contains(commandLine(pid), mark) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// engine is the process behind a socket.
func (s *Sealane) engine(socket string) (int, error) {
	for _, pid := range s.Processes("engine") {
		if strings.HasSuffix(commandLine(pid), "unixsocket:"+socket) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no engine has the socket %s", socket)
}

func (s *Sealane) Fail(_ context.Context, kind Kind) error {
	socket, err := s.Primary()
	if err != nil {
		return err
	}
	s.before = socket
	pid, err := s.engine(socket)
	if err != nil {
		return err
	}
	switch kind {
	case Kill:
		return syscall.Kill(pid, syscall.SIGKILL)
	case Stop:
		return syscall.Kill(pid, syscall.SIGSTOP)
	case Socket:
		return os.Remove(socket)
	case Disk:
		if err := s.fillDisk(); err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.SIGKILL)
	case Command:
		s.output.Reset()
		s.command = exec.Command(s.program, "--state", s.state(), "instances", "failover", instanceName)
		s.command.Stdout, s.command.Stderr = &s.output, &s.output
		return s.command.Start()
	}
	return fmt.Errorf("%s: not with Sealane", kind)
}

// fillDisk leaves no byte free.
func (s *Sealane) fillDisk() error {
	if !s.mounted {
		return errors.New("a full disk takes a file system of its own")
	}
	s.filler = filepath.Join(s.state(), "filler")
	f, err := os.Create(s.filler)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10, 1} {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("fill the disk: %w", err)
		}
		err = nil
	}
	return nil
}

func (s *Sealane) Promoted(ctx context.Context) error {
	return poll(ctx, "another engine is the primary", 2*time.Millisecond, func() error {
		now, err := s.Primary()
		if err == nil && now == s.before {
			err = fmt.Errorf("it is still %s", now)
		}
		return err
	})
}

// Heal frees the disk. All else Sealane repairs by itself.
func (s *Sealane) Heal(ctx context.Context) error {
	if s.filler != "" {
		if err := os.Remove(s.filler); err != nil {
			return err
		}
		s.filler = ""
	}
	if s.command != nil {
		err := s.command.Wait()
		s.command = nil
		if err != nil {
			return fmt.Errorf("sealane instances failover: %w: %s", err, s.output.Bytes())
		}
	}
	return s.inSync(ctx)
}

// inSync waits until the primary has a replica that is in sync.
func (s *Sealane) inSync(ctx context.Context) error {
	return poll(ctx, "a replica is in sync", 50*time.Millisecond, s.replicaInSync)
}

// replicaInSync asks the primary itself.
func (s *Sealane) replicaInSync() error {
	socket, err := s.Primary()
	if err != nil {
		return err
	}
	info, err := replicationInfo(socket)
	if err == nil && !(strings.Contains(info, "role:master") && strings.Contains(info, "state=online")) {
		err = errors.New(info)
	}
	return err
}

// Close stops the server with its gateways and engines.
func (s *Sealane) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if s.filler != "" {
		os.Remove(s.filler)
	}
	var all []error
	if s.serve != nil {
		if _, err := s.cli(ctx, "stop"); err != nil {
			all = append(all, err)
		}
		s.serve.kill()
	}
	for _, kind := range []string{"gateway", "engine"} {
		for _, pid := range s.Processes(kind) {
			all = append(all, fmt.Errorf("left behind: process %d: %s", pid, commandLine(pid)))
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	all = append(all, s.broken())
	if s.mounted {
		if out, err := exec.Command("umount", "-l", s.state()).CombinedOutput(); err != nil {
			all = append(all, fmt.Errorf("umount: %w: %s", err, out))
		}
	}
	return errors.Join(append(all, os.RemoveAll(s.Dir))...)
}

// logFiles are the logs of the server, its gateways and its engines.
func (s *Sealane) logFiles() []string {
	files, _ := filepath.Glob(filepath.Join(s.state(), "nodes", "*", "*.log"))
	return append(files, filepath.Join(s.Dir, "serve.log"))
}

// KeepLogs copies the logs to a folder.
func (s *Sealane) KeepLogs(folder string) error {
	for _, file := range s.logFiles() {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, filepath.Base(filepath.Dir(file))+"-"+filepath.Base(file)), text, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Logs is the text of all logs.
func (s *Sealane) Logs() string {
	var all strings.Builder
	for _, file := range s.logFiles() {
		text, _ := os.ReadFile(file)
		fmt.Fprintf(&all, "%s:\n%s\n", file, text)
	}
	return all.String()
}

// broken is an error if a log shows a panic or a data race.
func (s *Sealane) broken() error {
	files, _ := filepath.Glob(filepath.Join(s.state(), "nodes", "*", "gateway.*"))
	for _, file := range append(files, filepath.Join(s.Dir, "serve.log")) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // a socket
		}
		for _, mark := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if bytes.Contains(text, []byte(mark)) {
				return fmt.Errorf("%s: %s:\n%s", file, mark, text)
			}
		}
	}
	return nil
}
