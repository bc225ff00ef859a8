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

// prove connects as a client would, through the network, to each listener. It returns nil when those with TLS present the intended
// certificates, which verify, and an engine answers behind all of them.
func prove(ctx context.Context, snapshot gateway.Snapshot, node instance.Node) error {
	tested := false
	for _, l := range snapshot.Listeners {
		if l.Shared {
			continue // another gateway may answer
		}
		if err := proveListener(ctx, l, snapshot.Certificate, node.Host, node.Bundle); err != nil {
			return fmt.Errorf("prove that %s serves: %w", l.Address, err)
		}
		if !l.TLS || tested {
			continue
		}
		tested = true
		for _, n := range []*gateway.NextChain{snapshot.Next, snapshot.NextCross} {
			if n == nil {
				continue
			}
			if err := proveListener(ctx, l, n.Certificate, n.Name, node.Bundle); err != nil {
				return fmt.Errorf("prove that %s serves: %s: %w", l.Address, n.Name, err)
			}
		}
	}
	return nil
}

// proveListener shows that who connects is answered, and with TLS that who asks for a name is presented the chain.
func proveListener(ctx context.Context, l gateway.Listener, chain []byte, name string, bundle []byte) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", l.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if !l.TLS {
		return provePlaintext(ctx, conn)
	}
	if conn, err = proveTLS(ctx, conn, chain, name, bundle); err != nil {
		return err
	}
	return provePing(ctx, conn)
}

// provePlaintext says first that it is no client, so that it isn't listed as one that has to move to TLS. Whether the engine knows that
// command doesn't matter.
func provePlaintext(ctx context.Context, conn net.Conn) error {
	reply, err := resp.NewClient(conn, maxPong).Do(ctx, "CLIENT", "SETINFO", "LIB-NAME", wire.ProbeLibrary)
	if failed, ok := errors.AsType[*resp.ReadError](err); ok {
		return fmt.Errorf("read the answer to CLIENT SETINFO: %w", failed.Err)
	}
	if strings.HasPrefix(reply.Str, wire.MaxClients) {
		return nil // the connection is closed now
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
