package failover

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

// secure starts TLS on a connection if the endpoint has it.
func (e Endpoint) secure(ctx context.Context, c net.Conn, err error) (net.Conn, error) {
	if err != nil || e.TLS == nil {
		return c, err
	}
	t := tls.Client(c, e.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("%w: TLS handshake: %w", errNotSent, err)
	}
	return t, nil
}

func init() { goredis.SetLogger(silent{}) } // it logs each failure of each connection

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

type goRedis struct{ db *goredis.Client }

func newGoRedis(e Endpoint, o *owner) (Client, error) {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := o.dial(ctx, network, address)
		if e.isSentinel(address) {
			return c, err
		}
		return e.secure(ctx, c, err)
	}
	if e.Sentinels != nil {
		return goRedis{goredis.NewFailoverClient(&goredis.FailoverOptions{
			MasterName: e.Master, SentinelAddrs: e.Sentinels, Dialer: dial, PoolSize: 1, MaxRetries: -1,
			DialTimeout: dialTimeout, ReadTimeout: replyTimeout, WriteTimeout: replyTimeout,
		})}, nil
	}
	return goRedis{goredis.NewClient(&goredis.Options{
		Addr: e.Address, Dialer: dial, PoolSize: 1, MaxRetries: -1,
		DialTimeout: dialTimeout, ReadTimeout: replyTimeout, WriteTimeout: replyTimeout,
	})}, nil
}

func (c goRedis) Do(ctx context.Context, commands [][]string) []Reply {
	p := c.db.Pipeline()
	var cmds []*goredis.Cmd
	for _, command := range commands {
		args := make([]any, len(command))
		for i, a := range command {
			args[i] = a
		}
		cmds = append(cmds, p.Do(ctx, args...))
	}
	p.Exec(ctx) // each command has its error
	var replies []Reply
	for _, cmd := range cmds {
		value, err := cmd.Result()
		var answered goredis.Error
		switch {
		case errors.Is(err, goredis.Nil):
			err = nil
		case errors.As(err, &answered):
			err = ServerError(err.Error())
		}
		replies = append(replies, reply(value, err))
	}
	return replies
}

func (c goRedis) Close() { c.db.Close() }

// reply turns what a library returns into the types of Reply.
func reply(value any, err error) Reply {
	if err != nil {
		return Reply{Err: err}
	}
	switch v := value.(type) {
	case []byte:
		return Reply{Value: string(v)}
	case float64: // JSON
		return Reply{Value: int64(v)}
	case []any:
		all := make([]string, len(v))
		for i, e := range v {
			if b, ok := e.([]byte); ok {
				all[i] = string(b)
			} else {
				all[i] = fmt.Sprint(e)
			}
		}
		return Reply{Value: all}
	}
	return Reply{Value: value}
}

type rueidisClient struct{ db rueidis.Client }

func newRueidis(e Endpoint, o *owner) (Client, error) {
	option := rueidis.ClientOption{
		InitAddress: []string{e.Address}, ForceSingleClient: true,
		PipelineMultiplex: -1, AlwaysPipelining: true, // one connection
		DisableRetry: true, DisableCache: true, ConnWriteTimeout: replyTimeout,
		DialCtxFn: func(ctx context.Context, address string, _ *net.Dialer, _ *tls.Config) (net.Conn, error) {
			c, err := o.dial(ctx, "tcp", address)
			if e.isSentinel(address) {
				return c, err
			}
			return e.secure(ctx, c, err)
		},
	}
	if e.Sentinels != nil {
		option.InitAddress, option.ForceSingleClient = e.Sentinels, false
		option.Sentinel = rueidis.SentinelOption{MasterSet: e.Master, TopologyRefreshInterval: 5 * time.Second} // what its documentation recommends
	}
	db, err := rueidis.NewClient(option)
	return rueidisClient{db}, err
}

func (c rueidisClient) Do(ctx context.Context, commands [][]string) []Reply {
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	var built []rueidis.Completed
	for _, command := range commands {
		built = append(built, c.db.B().Arbitrary(command...).Build())
	}
	var replies []Reply
	for _, r := range c.db.DoMulti(ctx, built...) {
		value, err := r.ToAny()
		if rueidis.IsRedisNil(err) {
			value, err = nil, nil
		} else if answered, ok := rueidis.IsRedisErr(err); ok {
			err = ServerError(answered.Error())
		}
		replies = append(replies, reply(value, err))
	}
	return replies
}

func (c rueidisClient) Close() { c.db.Close() }

// redigoClient is a connection that is made anew after an error. redigo does not know sentinels: its users ask one before they dial, and
// check the role of what they reach.
type redigoClient struct {
	endpoint Endpoint
	owner    *owner
	conn     redis.Conn // nil: none
}

func newRedigo(e Endpoint, o *owner) (Client, error) {
	return &redigoClient{endpoint: e, owner: o}, nil
}

func (c *redigoClient) dial(ctx context.Context) (redis.Conn, error) {
	address := c.endpoint.Address
	if c.endpoint.Sentinels != nil {
		var err error
		if address, err = askSentinels(ctx, c.endpoint); err != nil {
			return nil, fmt.Errorf("%w: %w", errNotSent, err)
		}
	}
	conn, err := redis.DialContext(ctx, "tcp", address, redis.DialReadTimeout(replyTimeout), redis.DialWriteTimeout(replyTimeout),
		redis.DialContextFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := c.owner.dial(ctx, network, address)
			return c.endpoint.secure(ctx, conn, err)
		}))
	if err != nil || c.endpoint.Sentinels == nil {
		return conn, err
	}
	if role, err := redis.Values(conn.Do("ROLE")); err != nil || len(role) == 0 || fmt.Sprintf("%s", role[0]) != "master" {
		conn.Close()
		return nil, fmt.Errorf("%w: not a primary yet", errNotSent)
	}
	return conn, nil
}

// askSentinels asks one after the other where the primary is.
func askSentinels(ctx context.Context, e Endpoint) (string, error) {
	var last error
	for _, s := range e.Sentinels {
		c, err := redis.DialContext(ctx, "tcp", s, redis.DialConnectTimeout(dialTimeout), redis.DialReadTimeout(dialTimeout))
		if err != nil {
			last = err
			continue
		}
		hostPort, err := redis.Strings(c.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", e.Master))
		c.Close()
		if err == nil && len(hostPort) == 2 {
			return net.JoinHostPort(hostPort[0], hostPort[1]), nil
		}
		last = fmt.Errorf("sentinel %s: %w", s, err)
	}
	return "", last
}

func (c *redigoClient) Do(ctx context.Context, commands [][]string) []Reply {
	if c.conn == nil {
		conn, err := c.dial(ctx)
		if err != nil {
			return failed(err, commands)
		}
		c.conn = conn
	}
	for _, command := range commands {
		c.conn.Send(command[0], redis.Args{}.AddFlat(command[1:])...) // an error shows with the flush
	}
	var replies []Reply
	err := c.conn.Flush()
	notPrimary := false
	for range commands {
		var value any
		if err == nil {
			value, err = redis.ReceiveWithTimeout(c.conn, replyTimeout)
		}
		var answered redis.Error
		if errors.As(err, &answered) {
			replies = append(replies, Reply{Err: ServerError(answered)})
			notPrimary = notPrimary || strings.HasPrefix(string(answered), "READONLY")
			err = nil
			continue
		}
		replies = append(replies, reply(value, err))
	}
	if err != nil || notPrimary {
		c.Close()
	}
	return replies
}

func (c *redigoClient) Close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}
