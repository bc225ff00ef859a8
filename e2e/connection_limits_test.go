package e2e_test

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// crowded is clients that stay connected, and are asked now and then whether they still are.
type crowded struct {
	t      *testing.T
	i      instance
	config *tls.Config
	all    []*tls.Conn
}

// fill connects until there are n clients.
func (c *crowded) fill(n int) {
	c.t.Helper()
	var mu sync.Mutex
	var dialing sync.WaitGroup
	slots := make(chan struct{}, 16)
	for range n - len(c.all) {
		slots <- struct{}{}
		dialing.Go(func() {
			defer func() { <-slots }()
			conn, answer := c.ping()
			mu.Lock()
			defer mu.Unlock()
			if answer != "+PONG\r\n" {
				c.t.Errorf("client %d of %d is told %q", len(c.all)+1, n, answer)
				return
			}
			c.all = append(c.all, conn)
		})
	}
	dialing.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
}

func (c *crowded) ping() (*tls.Conn, string) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: soakPatience}, "tcp", c.i.address(), c.config)
	if err != nil {
		return nil, err.Error()
	}
	return conn, ask(conn)
}

func ask(conn *tls.Conn) string {
	_ = conn.SetDeadline(time.Now().Add(soakPatience))
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err.Error()
	}
	got := make([]byte, len("-ERR max number of clients reached\r\n"))
	n, err := io.ReadAtLeast(conn, got, len("+PONG\r\n"))
	for err == nil && got[0] == '-' && n < len(got) {
		var more int
		more, err = conn.Read(got[n:])
		n += more
	}
	if n == 0 && err != nil {
		return err.Error()
	}
	return string(got[:n])
}

// wantFull fails the test unless one client more is refused, and all that are connected are served.
func (c *crowded) wantFull() {
	c.t.Helper()
	conn, answer := c.ping()
	if conn != nil {
		conn.Close()
	}
	if answer != "-ERR max number of clients reached\r\n" {
		c.t.Errorf("client %d is told %q", len(c.all)+1, answer)
	}
	c.wantServed()
}

func (c *crowded) wantServed() {
	c.t.Helper()
	for n, conn := range c.all {
		if answer := ask(conn); answer != "+PONG\r\n" {
			c.t.Fatalf("client %d of %d, who was connected, reads %q", n+1, len(c.all), answer)
		}
	}
}

// Before Redis 7.0 the size decides how many connections there may be. A live scale and an upgrade change that at once, and nobody who
// is connected is dropped.
func TestConnectionLimitFollowsSizeAndVersion(t *testing.T) {
	t.Parallel()
	engines := needVersions(t, "REDIS_6_X", "REDIS_7_0")
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, serverOptions{config: withEngines(engines...)})
	i := s.createOn("multiplexed", "first", "--redis-version", "REDIS_6_X", "--size", "1")
	c := &crowded{t: t, i: i, config: verified(t, i, s.bundle("first"))}
	defer func() {
		for _, conn := range c.all {
			conn.Close()
		}
	}()
	scaled := 0
	for _, step := range []struct {
		size  string
		limit int
	}{{"4", 1000}, {"5", 2500}, {"10", 2500}, {"11", 15000}, {"36", 30000}} {
		if int(files.Cur) < 2*step.limit+3000 { // a gateway keeps two for each client, and more for itself
			t.Logf("NOT SHOWN HERE: the limit of %d connections, because only %d files may be open", step.limit, files.Cur)
			break
		}
		scaled++
		s.cli("instances", "update", "first", "--size", step.size)
		c.fill(step.limit)
		c.wantFull()
	}
	// One more is refused until the upgrade, after which there is room for as many as the open files allow.
	s.cli("instances", "upgrade", "first", "--redis-version", "REDIS_7_0", "--quiet")
	c.wantServed()
	c.fill(len(c.all) + 100)
	c.wantServed()
	t.Logf("%d clients connected, none dropped by %d changes of the size and an upgrade", len(c.all), scaled)
}
