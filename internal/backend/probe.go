package backend

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/resp"
)

// maxReply bounds a reply that is looked at: INFO has some KB.
const maxReply = 1 << 20

// Facts are what a server says of itself. What it does not say, or not to this user, is empty.
type Facts struct {
	Version    string // "7.2.4"
	Valkey     bool   // Version is Valkey's
	Mode       string // standalone, cluster, sentinel
	Role       string // master, slave
	MaxClients int
	UsedMemory int64 // bytes
	// ClientsLogIn says that the server lets nobody in without a password, and that Server has none.
	ClientsLogIn bool
}

// Name is the engine's name and version, "" if it does not tell.
func (f Facts) Name() string {
	switch {
	case f.Version == "":
		return ""
	case f.Valkey:
		return "Valkey " + f.Version
	}
	return "Redis " + f.Version
}

// Probe finds out whether clients can be served: a connection, the login if there is one, and PING. The error is a *Fault.
func (d *Dialer) Probe(ctx context.Context) (Facts, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := d.connect(ctx)
	if err != nil {
		return Facts{}, d.server.unreachable(err)
	}
	defer conn.Close()
	stream := resp.Conn(conn)
	if d.config != nil {
		first := &firstBytes{Conn: conn}
		over := tls.Client(first, d.config)
		if err := over.HandshakeContext(ctx); err != nil {
			return Facts{}, d.server.handshakeFault(err, first.b)
		}
		defer over.Close()
		stream = over
	}
	return d.server.ask(ctx, resp.NewClient(stream, maxReply))
}

// firstBytes keeps the first bytes that are read.
type firstBytes struct {
	net.Conn
	b []byte
}

func (f *firstBytes) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if room := 64 - len(f.b); room > 0 {
		f.b = append(f.b, b[:min(n, room)]...)
	}
	return n, err
}

func (s Server) ask(ctx context.Context, client *resp.Client) (facts Facts, err error) {
	if login := s.Login(); login != nil {
		if _, err := client.Do(ctx, append([]string{"AUTH"}, login...)...); err != nil {
			return facts, s.replyFault("AUTH", err)
		}
	}
	reply, err := client.Do(ctx, "PING")
	switch refused, _ := errors.AsType[resp.ReplyError](err); {
	case refused.Code() == "NOAUTH" && s.Password == "":
		return Facts{ClientsLogIn: true}, nil
	case refused.Code() == "MISCONF": // reads are served
	case refused.Code() == "NOPERM": // its user may do other things
	case err != nil:
		return facts, s.replyFault("PING", err)
	case reply.Str != "PONG":
		return facts, s.fault(diagnosis.NotRedis, diagnosis.Details{Said: reply.Str})
	}
	if info, err := client.Do(ctx, "INFO"); err == nil {
		facts = readInfo(info.Str)
	}
	return facts, nil
}

// readInfo reads the answer to INFO.
func readInfo(info string) (f Facts) {
	server := ""
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "redis_version":
			f.Version = cleanVersion(value, f.Version)
		case "valkey_version": // it has a redis_version too, 7.2.4, for clients
			f.Version, f.Valkey = cleanVersion(value, f.Version), true
		case "server_name":
			server = value
		case "redis_mode", "server_mode":
			f.Mode = word(value)
		case "role":
			f.Role = word(value)
		case "maxclients":
			f.MaxClients, _ = strconv.Atoi(value)
		case "used_memory":
			f.UsedMemory, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	f.Valkey = f.Valkey || server == "valkey"
	return f
}

// cleanVersion is a version as it may be shown: what a server says may be anything.
func cleanVersion(value, before string) string {
	if len(value) > 32 || strings.Trim(value, "0123456789.") != "" {
		return before
	}
	return value
}

// Warnings are what should be known of a server that serves. limit is how many clients there may be.
func (f Facts) Warnings(limit int) (all []string) {
	switch f.Mode {
	case "cluster":
		all = append(all, "the backend is a node of a cluster: it sends clients to other nodes (MOVED), which they would reach past Sealane")
	case "sentinel":
		all = append(all, "the backend is a Sentinel, which holds no data: give the address of the Redis (--backend)")
	}
	if f.Role == "slave" {
		all = append(all, "the backend is a replica, and refuses writes: give the address of its master (--backend)")
	}
	if f.MaxClients > 0 && f.MaxClients < limit {
		all = append(all, fmt.Sprintf("the backend takes %d clients (maxclients), and this instance %d: raise maxclients there", f.MaxClients, limit))
	}
	return all
}

func word(value string) string {
	if len(value) > 32 || !isHost(value) {
		return ""
	}
	return value
}
