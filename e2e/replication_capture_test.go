//go:build capture

package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sealane/sealane/internal/certtest"
)

// What goes from node to node of an instance of tier STANDARD_HA, watched with tcpdump: `make test-replication-capture`. It needs root.

// They are in keys and values that are replicated, and must not be seen on any interface.
const (
	secretKey   = "capture-key-4f1d"
	secretValue = "capture-value-9b27"
)

// What would be seen if replication were not encrypted. Other programs on the machine may replicate in plaintext, so the protocol's own words
// are looked for on the server's addresses alone.
var (
	secrets  = []string{secretKey, secretValue}
	protocol = []string{secretKey, secretValue, "REPLCONF", "replconf", "PSYNC", "FULLRESYNC", "REDIS00", "listening-port", "redis-ver"}
)

// capture is a tcpdump of all interfaces of a network namespace.
type capture struct {
	t    *testing.T
	cmd  *exec.Cmd
	file string
	want []string // what must not be in it
}

// startCapture returns once packets that fit the filter are captured. namespace is "" for the own one.
func startCapture(t *testing.T, s *server, namespace, filter string, want []string) *capture {
	t.Helper()
	c := &capture{t: t, want: want}
	c.file = filepath.Join(s.base, fmt.Sprintf("%s-%d.pcap", namespace, len(filter)))
	// Debian's tcpdump gives root up, and then could not write into a folder of root's.
	args := []string{"tcpdump", "-i", "any", "-n", "-U", "-Z", "root", "--buffer-size=65536", "--snapshot-length=262144", "-w", c.file, filter}
	if namespace != "" {
		args = append([]string{"ip", "netns", "exec", namespace}, args...)
	}
	c.cmd = exec.Command(args[0], args[1:]...)
	errs := newOutput()
	c.cmd.Stderr = errs
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.cmd.Process.Kill() })
	if !within(10*time.Second, func() bool { return strings.Contains(errs.String(), "listening on") }) {
		t.Fatalf("tcpdump does not start: %s", errs)
	}
	return c
}

// check ends the capture, once it has control, which was sent in plaintext, and looks for what must not be in it.
func (c *capture) check(control string) {
	c.t.Helper()
	var all []byte
	read := func() bool {
		var err error
		if all, err = os.ReadFile(c.file); err != nil {
			c.t.Fatal(err)
		}
		return bytes.Contains(all, []byte(control))
	}
	if !within(20*time.Second, read) {
		c.t.Fatalf("the %d bytes that were captured don't have %q, which was sent in plaintext", len(all), control)
	}
	c.cmd.Process.Signal(syscall.SIGINT)
	c.cmd.Wait()
	read()
	for _, text := range c.want {
		if bytes.Contains(all, []byte(text)) {
			c.t.Errorf("%q was seen in plaintext", text)
		}
	}
	c.t.Logf("%d bytes were captured", len(all))
}

// needCapture skips the test where packets can't be captured.
func needCapture(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT TESTED: only root can capture packets")
	}
	need(t, "tcpdump")
}

// sentInPlaintext sends a text over TCP, to show that the capture would have it.
func sentInPlaintext(t *testing.T, address, text string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := peer.Read(make([]byte, len(text))); err != nil {
		t.Fatal(err)
	}
}

// standard is an instance of tier STANDARD_HA with its nodes' folders.
type standard struct {
	*server
	instance
	client *redis.Client
}

func createStandard(t *testing.T, s *server, flags ...string) *standard {
	t.Helper()
	i := s.create("ha", append([]string{"--tier", "standard_ha"}, flags...)...)
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(s.bundle("ha"))
	if err != nil || !roots.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Addr: i.address(), TLSConfig: &tls.Config{RootCAs: roots}, MaxRetries: 10})
	t.Cleanup(func() { client.Close() })
	return &standard{s, i, client}
}

// dir is the folder of a node.
func (h *standard) dir(node int) string {
	h.t.Helper()
	found, err := filepath.Glob(filepath.Join(h.state, "nodes", fmt.Sprintf("*-%d", node)))
	if err != nil || len(found) != 1 {
		h.t.Fatalf("folders of node-%d: %q, %v", node, found, err)
	}
	return found[0]
}

// info is a field of INFO of a node's engine; "" while it doesn't answer.
func (h *standard) info(node int, field string) string {
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: filepath.Join(h.dir(node), "engine.sock"), MaxRetries: -1, Protocol: 2, DisableIdentity: true})
	defer c.Close()
	text, _ := c.Info(context.Background(), "everything").Result()
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			return value
		}
	}
	return ""
}

// pids are the processes of a node that are its engine or its gateway.
func (h *standard) pids(node int, kind string) []int {
	var pids []int
	for _, p := range processes(h.dir(node)) {
		if strings.Contains(p.line, "redis-server") == (kind == "engine") {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// replicated waits until a replica has everything.
func (h *standard) replicated(replica int) {
	h.t.Helper()
	eventually(h.t, 60*time.Second, fmt.Sprintf("node-%d is in sync", replica), func() bool {
		return h.info(replica, "master_link_status") == "up" && h.info(replica, "master_sync_in_progress") == "0" &&
			h.info(replica, "slave_repl_offset") == h.info(1-replica, "master_repl_offset")
	})
}

// exercise replicates secrets in every way: in the stream, in a full synchronisation and after a failover.
func (h *standard) exercise() {
	h.t.Helper()
	ctx := context.Background()
	for n := range 50 {
		if err := h.client.Set(ctx, secretKey+strconv.Itoa(n), strings.Repeat(secretValue, 20), 0).Err(); err != nil {
			h.t.Fatal(err)
		}
	}
	h.replicated(1)
	full := h.info(0, "sync_full")
	h.kill9(h.pids(1, "engine")...)
	eventually(h.t, 30*time.Second, "node-1 has copied the data", func() bool {
		return h.info(0, "sync_full") != full && h.info(1, "db0") != ""
	})
	h.replicated(1)
	h.cli("instances", "failover", "ha")
	h.replicated(0)
	if err := h.client.Set(ctx, secretKey, secretValue, 0).Err(); err != nil {
		h.t.Fatal(err)
	}
	h.replicated(0)
	for node := range 2 {
		c := redis.NewClient(&redis.Options{Network: "unix", Addr: filepath.Join(h.dir(node), "engine.sock"), Protocol: 2, DisableIdentity: true})
		defer c.Close()
		if got, err := c.Get(ctx, secretKey).Result(); got != secretValue {
			h.t.Errorf("node-%d has %q, %v", node, got, err)
		}
	}
}

// replicationAddress is where the other node connects to.
func (h *standard) replicationAddress(replica int) string {
	return net.JoinHostPort(h.info(replica, "master_host"), h.info(replica, "master_port"))
}

// No command, key or value of replication is seen in plaintext on any interface, loopback included, whatever happens.
func TestCaptureOfReplication(t *testing.T) {
	needCapture(t)
	pool := newPool()
	s := startServer(t, serverOptions{config: "http: 127.0.0.1:0\ngrpc: 127.0.0.1:0\nops: 127.0.0.1:0\naddresses: {pool: " + pool + "}\n"})
	everywhere, own := startCapture(t, s, "", "tcp", secrets), startCapture(t, s, "", "tcp and net "+pool, protocol)
	h := createStandard(t, s)
	h.exercise()
	const control = "sent-in-plaintext-77aa"
	sentInPlaintext(t, net.JoinHostPort(h.Host, "0"), control)
	everywhere.check(control)
	own.check(control)
}

// Neither who has no certificate nor who has one of another CA gets a word out of the address that replicas connect to.
func TestCaptureForeignCertificateIsRefused(t *testing.T) {
	t.Parallel()
	h := createStandard(t, startServer(t, serverOptions{}))
	address := h.replicationAddress(1)
	own, err := tls.LoadX509KeyPair(filepath.Join(h.dir(1), "replication.pem"), filepath.Join(h.dir(1), "replication.pem"))
	if err != nil {
		t.Fatal(err)
	}
	foreign := certtest.NewAuthority(t, "Sealane Redis Server CA").Leaf(t, func(c *x509.Certificate) {
		c.URIs, c.ExtKeyUsage = own.Leaf.URIs, own.Leaf.ExtKeyUsage
	})
	for name, certificates := range map[string][]tls.Certificate{"none": nil, "of another CA": {foreign}, "the node's own": {own}} {
		got := ""
		c, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, Certificates: certificates})
		if err == nil {
			c.SetDeadline(time.Now().Add(10 * time.Second))
			c.Write([]byte("PING\r\n"))
			b := make([]byte, 100)
			var n int
			n, err = c.Read(b)
			got = string(b[:n])
			c.Close()
		}
		if name == "the node's own" && got != "+PONG\r\n" || name != "the node's own" && (got != "" || !strings.Contains(fmt.Sprint(err), "remote error: tls:")) {
			t.Errorf("certificate %s: got %q, %v", name, got, err)
		}
	}
	h.replicated(1)
	// A CA that was given up lets nobody stay, the replica included, which goes on where it was with its next certificate.
	full, partial := h.info(0, "sync_full"), h.info(0, "sync_partial_ok")
	h.cli("ca", "compromise", "ha", "--quiet")
	eventually(t, 30*time.Second, "the replica has connected anew", func() bool { return h.info(0, "sync_partial_ok") != partial })
	h.replicated(1)
	if now := h.info(0, "sync_full"); now != full {
		t.Errorf("full synchronisations: %s, and %s before", now, full)
	}
}

// links numbers the namespaces of this process.
var links int

// startNamespaced starts a server whose node-1 is in a network namespace of its own, and returns the namespace and the link to it.
func startNamespaced(t *testing.T) (s *server, namespace, link string) {
	t.Helper()
	needCapture(t)
	need(t, "ip")
	links++
	id := fmt.Sprintf("%d-%d", os.Getpid()%100000, links)
	namespace, link = "slns"+id, "slh"+id
	inner := "sln" + id
	network := fmt.Sprintf("10.%d.%d", 200+links, os.Getpid()%250)
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	if out, err := exec.Command("ip", "netns", "add", namespace).CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: no network namespace can be made here: %s", out)
	}
	// The server is stopped before the namespace goes: its cleanup is registered later.
	t.Cleanup(func() { exec.Command("ip", "netns", "del", namespace).Run() })
	ip("link", "add", link, "type", "veth", "peer", "name", inner, "netns", namespace)
	ip("addr", "add", network+".1/24", "dev", link)
	ip("link", "set", link, "up")
	ip("-n", namespace, "addr", "add", network+".2/24", "dev", inner)
	ip("-n", namespace, "link", "set", inner, "up")
	ip("-n", namespace, "link", "set", "lo", "up")
	s = startServer(t, serverOptions{config: localConfig() + fmt.Sprintf(
		"nodes: [{address: %s.1}, {address: %s.2, network_namespace: /run/netns/%s}]\n", network, network, namespace)})
	return s, namespace, link
}

// The same with a network namespace per node, where replication is all that crosses the link between them.
func TestCaptureBetweenNamespaces(t *testing.T) {
	s, namespace, _ := startNamespaced(t)
	here, there := startCapture(t, s, "", "tcp", secrets), startCapture(t, s, namespace, "tcp", protocol)
	h := createStandard(t, s)
	for _, kind := range []string{"engine", "gateway"} {
		for _, pid := range h.pids(1, kind) {
			if own, other := namespaceOf(t, os.Getpid()), namespaceOf(t, pid); own == other {
				t.Errorf("the %s of node-1 is in the server's own network namespace", kind)
			}
		}
	}
	h.exercise()
	if listeners := s.mustRun(s.program("ip", "netns", "exec", namespace, "ss", "-H", "-l", "-n", "-t", "-p")); strings.Contains(listeners, "redis-server") || strings.Count(listeners, "\n") != 1 {
		t.Errorf("node-1 listens for more than replication:\n%s", listeners)
	}
	const control = "sent-in-plaintext-31ce"
	address, _, _ := net.SplitHostPort(h.replicationAddress(0))
	if !strings.HasSuffix(address, ".2") {
		t.Errorf("node-0 replicates from %s, which is not node-1", address)
	}
	first := strings.TrimSuffix(address, "2") + "1"
	l, err := net.Listen("tcp", net.JoinHostPort(first, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Write([]byte(control))
			c.Close()
		}
	}()
	host, port, _ := net.SplitHostPort(l.Addr().String())
	s.mustRun(s.program("ip", "netns", "exec", namespace, "bash", "-c", "cat < /dev/tcp/"+host+"/"+port))
	for _, c := range []*capture{here, there} {
		c.check(control)
	}
}

func namespaceOf(t *testing.T, pid int) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// The server certificate, the peer certificate and the CA are replaced while a replica copies the data, and the copy goes on to its end.
func TestCaptureRotationInTheMiddleOfAFullSynchronisation(t *testing.T) {
	s, _, link := startNamespaced(t)
	need(t, "tc")
	h := createStandard(t, s)
	ctx := context.Background()
	for n := range 128 {
		value := make([]byte, 1<<20) // nothing that compression makes smaller
		rand.Read(value)
		if err := h.client.Set(ctx, fmt.Sprintf("big-%d", n), value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	h.replicated(1)
	if out, err := exec.Command("tc", "qdisc", "add", "dev", link, "root", "tbf", "rate", "80mbit", "burst", "256kb", "latency", "50ms").CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: the link between the nodes can't be made slow: %s", out)
	}
	full := h.info(0, "sync_full")
	began := time.Now()
	h.kill9(h.pids(1, "engine")...)
	eventually(t, 30*time.Second, "node-1 copies the data", func() bool { return h.info(1, "master_sync_in_progress") == "1" })
	before := h.peerCertificate(1)
	for _, args := range [][]string{{"certificates", "rotate", "ha"}, {"ca", "rotate", "ha"}, {"ca", "activate", "ha", "--force"}, {"ca", "retire", "ha", "--force"}} {
		s.cli(args...)
	}
	if got := h.info(1, "master_sync_in_progress"); got != "1" {
		t.Fatalf("the rotation was not in the middle of the copy, which was over after %v", time.Since(began))
	}
	t.Logf("four changes of certificates took %v", time.Since(began))
	eventually(t, 20*time.Second, "node-1 has the new peer certificate", func() bool { return h.peerCertificate(1) != before })
	h.replicated(1)
	t.Logf("the copy took %v", time.Since(began))
	n, _ := strconv.Atoi(full)
	if got := h.info(0, "sync_full"); got != strconv.Itoa(n+1) {
		t.Errorf("there were %s full synchronisations, and %s before; want one more", got, full)
	}
	if size, err := h.client.DBSize(ctx).Result(); err != nil || !strings.HasPrefix(h.info(1, "db0"), fmt.Sprintf("keys=%d,", size)) {
		t.Errorf("the primary has %d keys, the replica %s, %v", size, h.info(1, "db0"), err)
	}
}

// peerCertificate stands for what an engine shows the other node.
func (h *standard) peerCertificate(node int) string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir(node), "replication.pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	return hex.EncodeToString(text[:min(len(text), 400)])
}
