package rehearsal

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/wire"
)

// probe is the client that does everything right: what it can't verify, no client can.
type probe struct {
	host string
	port int
}

// look returns the chain that is presented, in DER, once it is verified with the bundle. With cut it ends all other
// connections, as a failing network would.
func (p probe) look(ctx context.Context, bundle []byte, cut bool) ([][]byte, error) {
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
	conn.SetDeadline(time.Now().Add(askTimeout))
	if err := ask(conn, "+PONG", "PING"); err != nil || !cut {
		return chain, err
	}
	if err := ask(conn, ":", "CLIENT", "KILL", "TYPE", "normal"); err != nil {
		return nil, err
	}
	return chain, ask(conn, ":", "CLIENT", "KILL", "TYPE", "pubsub")
}

const askTimeout = 5 * time.Second

// ask sends a command and wants a short reply that begins so.
func ask(conn net.Conn, want string, args ...string) error {
	if _, err := conn.Write(resp.AppendCommand(nil, args...)); err != nil {
		return err
	}
	reply := make([]byte, 256)
	n, err := conn.Read(reply)
	if err == nil && !strings.HasPrefix(string(reply[:n]), want) {
		err = fmt.Errorf("%s is answered by %q", strings.Join(args, " "), reply[:n])
	}
	return err
}
