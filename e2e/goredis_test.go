package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// goRedis makes options for an instance the way applications do: from a rediss:// URL and the downloaded CA.
func goRedis(t *testing.T, i instance, ca, auth string) *goredis.Options {
	t.Helper()
	user := ""
	if auth != "" {
		user = ":" + auth + "@"
	}
	o, err := goredis.ParseURL("rediss://" + user + i.address())
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", ca)
	}
	o.TLSConfig.RootCAs = roots
	if o.TLSConfig.InsecureSkipVerify || o.TLSConfig.ServerName != i.Host {
		t.Fatalf("the client would not verify: %+v", o.TLSConfig)
	}
	return o
}

func TestGoRedis(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	open, locked := s.create("open"), s.create("locked", "--enable-auth")
	caOpen, caLocked := s.bundle("open"), s.bundle("locked")
	auth := strings.TrimSpace(s.cli("instances", "get-auth-string", "locked"))
	for _, c := range []struct {
		name     string
		options  *goredis.Options
		protocol int
	}{
		{"RESP3", goRedis(t, open, caOpen, ""), 3},
		{"RESP2", goRedis(t, open, caOpen, ""), 2},
		{"RESP3 with AUTH", goRedis(t, locked, caLocked, auth), 3},
		{"RESP2 with AUTH", goRedis(t, locked, caLocked, auth), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.options.Protocol = c.protocol
			db := goredis.NewClient(c.options)
			defer db.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			useCommands(ctx, t, db)
			useBlocking(ctx, t, db)
		})
	}
	t.Run("a wrong password is refused", func(t *testing.T) {
		db := goredis.NewClient(goRedis(t, locked, caLocked, "wrong"))
		defer db.Close()
		if err := db.Ping(t.Context()).Err(); err == nil || !strings.HasPrefix(err.Error(), "WRONGPASS") {
			t.Errorf("got %v, want WRONGPASS", err)
		}
	})
	t.Run("the CA of another instance is refused", func(t *testing.T) {
		o := goRedis(t, open, caLocked, "")
		o.MaxRetries = -1
		db := goredis.NewClient(o)
		defer db.Close()
		if err := db.Ping(t.Context()).Err(); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
			t.Errorf("got %v, want an unknown authority", err)
		}
	})
}

func useCommands(ctx context.Context, t *testing.T, db *goredis.Client) {
	if err := db.Set(ctx, "key", "value\r\n\x00", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	if got, err := db.Get(ctx, "key").Result(); got != "value\r\n\x00" || err != nil {
		t.Errorf("GET: got %q, %v", got, err)
	}
	if err := db.Get(ctx, "missing").Err(); err != goredis.Nil {
		t.Errorf("GET of a missing key: got %v, want Nil", err)
	}
	const n = 10000
	db.Del(ctx, "n")
	replies, err := db.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for range n {
			p.Incr(ctx, "n")
		}
		return nil
	})
	if err != nil || len(replies) != n || replies[n-1].(*goredis.IntCmd).Val() != n {
		t.Errorf("pipeline: got %d replies, %v, want %d in order", len(replies), err, n)
	}
	var first, second *goredis.IntCmd
	_, err = db.TxPipelined(ctx, func(p goredis.Pipeliner) error {
		first, second = p.Incr(ctx, "n"), p.Incr(ctx, "n")
		return nil
	})
	if err != nil || first.Val() != n+1 || second.Val() != n+2 {
		t.Errorf("MULTI: got %v, %v, %v", first.Val(), second.Val(), err)
	}
	err = db.Watch(ctx, func(tx *goredis.Tx) error {
		db.Set(ctx, "key", "changed", 0) // by another connection
		_, err := tx.TxPipelined(ctx, func(p goredis.Pipeliner) error { return p.Set(ctx, "key", "mine", 0).Err() })
		return err
	}, "key")
	if err != goredis.TxFailedErr {
		t.Errorf("WATCH of a changed key: got %v, want that the transaction fails", err)
	}
}

func useBlocking(ctx context.Context, t *testing.T, db *goredis.Client) {
	sub := db.Subscribe(ctx, "news")
	defer sub.Close()
	if _, err := sub.Receive(ctx); err != nil { // the confirmation
		t.Fatal(err)
	}
	if n, err := db.Publish(ctx, "news", "hello").Result(); n != 1 || err != nil {
		t.Errorf("PUBLISH: got %d receivers, %v, want 1", n, err)
	}
	if m, err := sub.ReceiveMessage(ctx); err != nil || m.Payload != "hello" {
		t.Errorf("SUBSCRIBE: got %v, %v", m, err)
	}
	if got, err := db.BLPop(ctx, time.Second, "no-list").Result(); err != goredis.Nil {
		t.Errorf("BLPOP that times out: got %v, %v, want Nil", got, err)
	}
	pushed := make(chan error, 1)
	go func() {
		// The push must come after the other connection is blocked. Otherwise it would not show that the client waits.
		blocked := within(5*time.Second, func() bool { return strings.Contains(db.ClientList(ctx).Val(), "cmd=blpop") })
		if !blocked {
			pushed <- fmt.Errorf("no client is blocked in BLPOP")
			return
		}
		pushed <- db.RPush(ctx, "list", "item").Err()
	}()
	if got, err := db.BLPop(ctx, 10*time.Second, "list").Result(); err != nil || len(got) != 2 || got[1] != "item" {
		t.Errorf("BLPOP: got %v, %v, want item", got, err)
	}
	if err := <-pushed; err != nil {
		t.Error(err)
	}
}

// 100 MiB pass in both directions unchanged.
func TestGoRedisLargeValue(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	o := goRedis(t, s.create("first"), s.bundle("first"), "")
	o.ReadTimeout, o.WriteTimeout = time.Minute, time.Minute
	db := goredis.NewClient(o)
	defer db.Close()
	value := make([]byte, 100<<20)
	for i := range value {
		value[i] = byte(i * 31 >> 7)
	}
	if err := db.Set(t.Context(), "large", value, 0).Err(); err != nil {
		t.Fatal(err)
	}
	got, err := db.Get(t.Context(), "large").Bytes()
	if err != nil || !bytes.Equal(got, value) {
		t.Errorf("got %d bytes, %v, want the %d that were set", len(got), err, len(value))
	}
	if want := float64(2 * len(value)); s.metric("sealane_gateway_bytes_total") < want {
		t.Errorf("sealane_gateway_bytes_total: got %v, want at least %v", s.metric("sealane_gateway_bytes_total"), want)
	}
}

func TestGoRedis200Connections(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	o := goRedis(t, s.create("first"), s.bundle("first"), "")
	o.PoolSize, o.MaxRetries = 1, -1
	// Handshakes are slow with the race detector.
	o.DialTimeout, o.ReadTimeout, o.PoolTimeout = 30*time.Second, 30*time.Second, 30*time.Second
	const connections, commands = 200, 20
	var clients [connections]*goredis.Client
	var running sync.WaitGroup
	for n := range clients {
		o := *o
		o.TLSConfig = o.TLSConfig.Clone()
		// Every connection makes a full handshake, because a resumed session would be less work.
		o.TLSConfig.ClientSessionCache = nil
		o.TLSConfig.MinVersion = tls.VersionTLS12
		clients[n] = goredis.NewClient(&o)
		defer clients[n].Close()
		running.Go(func() {
			for range commands {
				if err := clients[n].Incr(t.Context(), fmt.Sprint("counter-", n)).Err(); err != nil {
					t.Errorf("connection %d: %v", n, err)
					return
				}
			}
		})
	}
	running.Wait()
	for n := range clients {
		if got, err := clients[n].Get(t.Context(), fmt.Sprint("counter-", n)).Int(); got != commands || err != nil {
			t.Errorf("counter-%d: got %d, %v, want %d", n, got, err, commands)
		}
	}
	if open := s.metric("sealane_gateway_connections"); open < connections {
		t.Errorf("sealane_gateway_connections: got %v, want at least %d", open, connections)
	}
	for _, c := range clients {
		c.Close()
	}
	eventually(t, 5*time.Second, "the gateway has no connection left", func() bool { return s.metric("sealane_gateway_connections") == 0 })
}
