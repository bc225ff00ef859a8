package local

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/wire"
)

// prove connects as a client would, through the network, and returns nil when the intended certificates are
// presented and verify, and an engine answers behind them.
func prove(ctx context.Context, snapshot gateway.Snapshot, node instance.Node) error {
	if err := proveChain(ctx, snapshot, snapshot.Certificate, node.Host, node.Bundle); err != nil {
		return err
	}
	for _, n := range []*gateway.NextChain{snapshot.Next, snapshot.NextCross} {
		if n == nil {
			continue
		}
		if err := proveChain(ctx, snapshot, n.Certificate, n.Name, node.Bundle); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return nil
}

// proveChain shows that who asks for a name is presented the chain.
func proveChain(ctx context.Context, snapshot gateway.Snapshot, chain []byte, name string, bundle []byte) error {
	l := snapshot.Listeners[0]
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", l.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if l.TLS {
		if conn, err = proveTLS(ctx, conn, chain, name, bundle); err != nil {
			return err
		}
	}
	return provePing(ctx, conn)
}

// maxPong is far above any reply to PING.
const maxPong = 64 << 10

// provePing returns nil when an engine answers PING.
func provePing(ctx context.Context, conn net.Conn) error {
	reply, err := resp.NewClient(conn, maxPong).Do(ctx, "PING")
	if failed, ok := errors.AsType[*resp.ReadError](err); ok {
		return fmt.Errorf("read the answer to PING: %w", failed.Err)
	}
	if reply.Str == "PONG" || err != nil && slices.ContainsFunc(alive, func(p string) bool { return strings.HasPrefix(reply.Str, p) }) {
		return nil
	}
	return fmt.Errorf("PING is answered by %q", reply.Str)
}

// alive are the beginnings of errors that show just as well that the engine is there: it wants the AUTH string, runs a script
// for too long, can't save, loads its data, or has no room for one more client.
var alive = []string{"NOAUTH ", "BUSY ", "MISCONF ", "LOADING ", wire.MaxClients}

func proveTLS(ctx context.Context, conn net.Conn, chain []byte, name string, bundle []byte) (net.Conn, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	// No session cache: a resumed session would prove nothing about the certificate (golang/go#77217).
	c := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12, NextProtos: []string{wire.ALPNProbe}})
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if !presents(c.ConnectionState().PeerCertificates, chain) {
		return nil, errors.New("another certificate than the intended one is presented")
	}
	return c, nil
}

// presents says whether just the chain was presented: without its cross-certificate some clients would fail.
func presents(certs []*x509.Certificate, chain []byte) bool {
	for _, c := range certs {
		intended, rest := pem.Decode(chain)
		if intended == nil || !bytes.Equal(c.Raw, intended.Bytes) {
			return false
		}
		chain = rest
	}
	return len(chain) == 0
}
