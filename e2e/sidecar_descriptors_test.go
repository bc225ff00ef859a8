package e2e_test

import (
	"bufio"
	"net"
	"strings"
	"testing"
	"time"
)

// A client that connects when no file descriptor is free is told so, and the operator is told the limit. Connected clients are
// served on. When they have left, new ones are served again.
func TestSidecarWithoutFreeDescriptors(t *testing.T) {
	t.Parallel()
	s := newServer(t, serverOptions{})
	n := newNativeRedis(s)
	n.start()
	c := s.launchSidecarUnder([]string{"prlimit", "--nofile=160"}, nil, "--address", net.JoinHostPort(n.host, n.port), "--ca", n.caFile)
	c.waitReady()
	const full = "-ERR max number of clients reached: the sidecar has no free file descriptor"
	var all, served []net.Conn
	told := 0
	for range 200 {
		conn, err := net.Dial("tcp", c.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		all = append(all, conn)
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Write([]byte("PING\r\n")); err != nil {
			t.Fatal(err)
		}
		switch line, err := bufio.NewReader(conn).ReadString('\n'); {
		case line == "+PONG\r\n":
			served = append(served, conn)
		case strings.HasPrefix(line, full):
			told++
		default:
			t.Fatalf("after %d clients: %q %v", served, line, err)
		}
	}
	if len(served) < 80 || told < 20 {
		t.Fatalf("%d clients were served, %d were told that there is no room", len(served), told)
	}
	c.wantNotReadyAnyMore("the sidecar has no free file descriptor: its limit of open files is 160")
	if _, err := served[0].Write([]byte("PING\r\n")); err != nil {
		t.Error(err)
	}
	if line, err := bufio.NewReader(served[0]).ReadString('\n'); line != "+PONG\r\n" {
		t.Errorf("who was there before reads %q %v", line, err)
	}
	// A client that needs a dedicated connection now waits for it, and is then told why there is none. Some get one: idle
	// connections are taken first, and the descriptors that are kept from clients are free for connections (about 24). With a limit
	// of 160 far more clients than that were served, on a busy machine too.
	for _, conn := range served {
		if _, err := conn.Write([]byte("MULTI\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	refused := 0
	for _, conn := range served {
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		switch line, err := bufio.NewReader(conn).ReadString('\n'); {
		case strings.HasPrefix(line, "-ERR the sidecar can't reach the server: the sidecar has no free file descriptor"):
			refused++
		case line != "+OK\r\n":
			t.Errorf("MULTI: %q %v", line, err)
		}
	}
	if refused == 0 {
		t.Error("nobody was told that there is no connection for him")
	}
	for _, conn := range all {
		conn.Close()
	}
	c.wantHealthy()
	if got := c.says("PING"); got != "+PONG" {
		t.Errorf("afterwards: %q", got)
	}
	if log := c.stderr.String(); !strings.Contains(log, " code=descriptors ") || !strings.Contains(log, "LimitNOFILE=") || strings.Count(log, "msg=problem") != 1 {
		t.Errorf("the log says %s", log)
	}
}
