package instance

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
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/wire"
)

// prove connects as a client would, through the network, and returns nil when the intended certificates are
// presented and verify, and an engine answers behind them.
func prove(ctx context.Context, snapshot gateway.Snapshot, node Node) error {
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
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	if l.TLS {
		if conn, err = proveTLS(ctx, conn, chain, name, bundle); err != nil {
			return err
		}
	}
	if _, err := conn.Write(resp.AppendCommand(nil, "PING")); err != nil {
		return err
	}
	reply, err := readReply(conn)
	if err != nil {
		return err
	}
	if text := reply.Str; text != "PONG" && !(reply.IsError() && slices.ContainsFunc(alive, func(p string) bool { return strings.HasPrefix(text, p) })) {
		return fmt.Errorf("PING is answered by %q", text)
	}
	return nil
}

// alive are how errors begin that show just as well that the engine is there: it wants the AUTH string, is busy, can't
// save, loads its data, or all places are taken.
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

// readReply reads one short reply.
func readReply(conn net.Conn) (resp.Value, error) {
	var buf []byte
	chunk := make([]byte, 512)
	for {
		n, err := conn.Read(chunk)
		buf = append(buf, chunk[:n]...)
		if v, _, parseErr := resp.ParseReply(buf, resp.Limits{}); !errors.Is(parseErr, resp.ErrIncomplete) {
			return v, parseErr
		}
		if err != nil {
			return resp.Value{}, fmt.Errorf("read the answer to PING: %w", err)
		}
		if len(buf) > 64<<10 {
			return resp.Value{}, errors.New("the answer to PING has no end")
		}
	}
}
