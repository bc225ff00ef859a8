package e2e_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// rueidis sends the commands of all goroutines over one connection and uses another one for blocking commands. It caches what it has
// read until the server says that it changed.
func TestRueidis(t *testing.T) {
	t.Parallel()
	onEveryDataPath(t, func(t *testing.T, path string) {
		s := startServer(t, serverOptions{})
		i := s.createOn(path, "first", "--enable-auth")
		ca := s.bundle("first")
		auth := strings.TrimSpace(s.cli("instances", "get-auth-string", "first"))
		connect := func() rueidis.Client {
			db, err := rueidis.NewClient(rueidis.ClientOption{
				InitAddress: []string{i.address()}, Password: auth, TLSConfig: verified(t, i, ca), ForceSingleClient: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(db.Close)
			return db
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		db, other := connect(), connect()
		rueidisCommands(ctx, t, db, other)
		rueidisCache(ctx, t, db, other)

		s.kill9(s.node("engine"))
		eventually(t, 15*time.Second, "commands are answered after the engine was killed", func() bool {
			return db.Do(ctx, db.B().Set().Key("after").Value("yes").Build()).Error() == nil
		})
		if got, err := db.Do(ctx, db.B().Get().Key("after").Build()).ToString(); got != "yes" || err != nil {
			t.Errorf("after the engine was killed: got %q, %v", got, err)
		}
	})
}

func rueidisCommands(ctx context.Context, t *testing.T, db, other rueidis.Client) {
	var running sync.WaitGroup
	for n := range 50 {
		running.Go(func() {
			key := fmt.Sprint("k", n)
			if err := db.Do(ctx, db.B().Set().Key(key).Value(strconv.Itoa(n)).Build()).Error(); err != nil {
				t.Error(err)
			}
			if got, err := db.Do(ctx, db.B().Get().Key(key).Build()).AsInt64(); got != int64(n) || err != nil {
				t.Errorf("%s: got %d, %v", key, got, err)
			}
		})
	}
	running.Wait()
	var many rueidis.Commands
	for range 2500 { // as many as get dedicated connections
		many = append(many, db.B().Incr().Key("n").Build())
	}
	if replies := db.DoMulti(ctx, many...); len(replies) != 2500 {
		t.Errorf("pipeline: got %d replies", len(replies))
	} else if last, err := replies[2499].AsInt64(); last != 2500 || err != nil {
		t.Errorf("pipeline: the last is %d, %v", last, err)
	}
	err := db.Dedicated(func(c rueidis.DedicatedClient) error {
		c.Do(ctx, c.B().Watch().Key("w").Build())
		other.Do(ctx, other.B().Set().Key("w").Value("changed").Build())
		r := c.DoMulti(ctx, c.B().Multi().Build(), c.B().Set().Key("w").Value("mine").Build(), c.B().Exec().Build())
		return r[2].Error()
	})
	if !rueidis.IsRedisNil(err) {
		t.Errorf("WATCH of a changed key: got %v, want null", err)
	}
	popped := make(chan error, 1)
	go func() {
		got, err := db.Do(ctx, db.B().Blpop().Key("list").Timeout(10).Build()).AsStrSlice()
		if err == nil && (len(got) != 2 || got[1] != "item") {
			err = fmt.Errorf("got %q", got)
		}
		popped <- err
	}()
	other.Do(ctx, other.B().Rpush().Key("list").Element("item").Build())
	if err := <-popped; err != nil {
		t.Errorf("BLPOP: %v", err)
	}
	rueidisMessages(ctx, t, db, other)
	script := rueidis.NewLuaScript("return redis.call('GET', KEYS[1])")
	if got, err := script.Exec(ctx, db, []string{"k7"}, nil).ToString(); got != "7" || err != nil {
		t.Errorf("script: got %q, %v", got, err)
	}
	if got, err := db.Do(ctx, db.B().Scan().Cursor(0).Match("k7").Count(10000).Build()).AsScanEntry(); len(got.Elements) != 1 || err != nil {
		t.Errorf("SCAN: got %v, %v", got, err)
	}
}

func rueidisMessages(ctx context.Context, t *testing.T, db, other rueidis.Client) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	got, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		db.Receive(ctx, db.B().Subscribe().Channel("news").Build(), func(m rueidis.PubSubMessage) { got <- m.Message })
	}()
	eventually(t, 10*time.Second, "the message has a receiver", func() bool {
		n, err := other.Do(ctx, other.B().Publish().Channel("news").Message("hello").Build()).AsInt64()
		return n == 1 && err == nil
	})
	select {
	case m := <-got:
		if m != "hello" {
			t.Errorf("message: got %q", m)
		}
	case <-ctx.Done():
		t.Error("no message came")
	}
	stop()
	<-ended
}

func rueidisCache(ctx context.Context, t *testing.T, db, other rueidis.Client) {
	get := func() rueidis.RedisResult {
		return db.DoCache(ctx, db.B().Get().Key("cached").Cache(), time.Minute)
	}
	other.Do(ctx, other.B().Set().Key("cached").Value("old").Build())
	if got, err := get().ToString(); got != "old" || err != nil {
		t.Errorf("first read: got %q, %v", got, err)
	}
	if again := get(); !again.IsCacheHit() {
		t.Error("the second read was no cache hit")
	}
	other.Do(ctx, other.B().Set().Key("cached").Value("new").Build())
	eventually(t, 10*time.Second, "the cache is invalidated", func() bool {
		got, err := get().ToString()
		return got == "new" && err == nil
	})
}
