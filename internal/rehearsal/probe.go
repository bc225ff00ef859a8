package rehearsal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/wire"
)

// probe is a client that does everything right: a chain that it can't verify, no client can.
type probe struct {
	host string
	port int
}

// presentedChain connects, verifies the server with the bundle, and returns the chain that the server presented, in DER. With
// cut it then ends all other client connections, as a failing network would.
func (p probe) presentedChain(ctx context.Context, bundle []byte, cut bool) ([][]byte, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: p.host, MinVersion: tls.VersionTLS12, NextProtos: []string{wire.ALPNProbe}}}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(p.host, strconv.Itoa(p.port)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var chain [][]byte
	for _, c := range conn.(*tls.Conn).ConnectionState().PeerCertificates {
		chain = append(chain, c.Raw)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c := resp.NewClient(conn, maxReply)
	if err := ask(ctx, c, resp.Simple, "PING"); err != nil || !cut {
		return chain, err
	}
	for _, kind := range []string{"normal", "pubsub"} {
		if err := ask(ctx, c, resp.Integer, "CLIENT", "KILL", "TYPE", kind); err != nil {
			return nil, err
		}
	}
	return chain, nil
}

const (
	askTimeout = 5 * time.Second
	maxReply   = 4 << 10
)

// ask sends a command and wants a reply of a kind.
func ask(ctx context.Context, c *resp.Client, want resp.Kind, args ...string) error {
	reply, err := c.Do(ctx, args...)
	if errors.As(err, new(resp.ReplyError)) || err == nil && reply.Kind != want {
		return fmt.Errorf("%s is answered by %q", strings.Join(args, " "), resp.Append(nil, reply))
	}
	return err
}
