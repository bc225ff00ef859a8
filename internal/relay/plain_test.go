package relay_test

import (
	"context"
	"net"
	"syscall"

	"github.com/sealane/sealane/internal/netloop"
)

// dialPlain is a Backend.Dial without TLS.
func dialPlain(network, address string) func(context.Context) (netloop.Conn, error) {
	return func(ctx context.Context) (netloop.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return netloop.Conn{}, err
		}
		defer c.Close()
		fd, err := netloop.Descriptor(c.(syscall.Conn))
		return netloop.Conn{FD: fd}, err
	}
}
