package doctor

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxAddresses of a name are tried.
const maxAddresses = 8

// nameStep finds the addresses of the host.
func (x *exam) nameStep(ctx context.Context) finding {
	if a, err := netip.ParseAddr(x.Host); err == nil {
		x.addresses = []netip.Addr{a}
		return ok("%s is an address", x.Host)
	}
	found, err := x.Resolver.LookupNetIP(ctx, "ip", x.Host)
	if err != nil {
		d, isDNS := errors.AsType[*net.DNSError](err)
		if isDNS && d.IsNotFound {
			return failed(x.nameUnknown(), "no such name")
		}
		why := err.Error()
		if isDNS {
			why = d.Err
		}
		if ctx.Err() != nil {
			why = "no answer within " + x.Timeout.String()
		}
		return failed(x.dnsDown(printable(why)), "%s", printable(why))
	}
	var shown []string
	for _, a := range found {
		if a = a.Unmap(); !slices.Contains(x.addresses, a) && len(x.addresses) < maxAddresses {
			x.addresses = append(x.addresses, a)
			shown = append(shown, a.String())
		}
	}
	if strings.HasSuffix(x.Host, ".") && !x.plain {
		return warned(x.nameTrailingDot(), "%s is %s", x.Host, few(shown))
	}
	return ok("%s is %s", x.Host, few(shown))
}

// routeStep asks the kernel which way packets would go; none is sent.
func (x *exam) routeStep(ctx context.Context) finding {
	var first error
	for _, a := range x.addresses {
		var d net.Dialer
		c, err := d.DialContext(ctx, "udp", net.JoinHostPort(a.String(), x.Port))
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		c.Close()
		return ok("to %s from %s%s", a, local, interfaceOf(local))
	}
	return failed(x.unreachable(x.addresses[0], reason(first)), "%v", reason(first))
}

// interfaceOf names the network interface that has an address.
func interfaceOf(a netip.Addr) string {
	all, _ := net.Interfaces()
	for _, i := range all {
		addresses, _ := i.Addrs()
		for _, n := range addresses {
			if p, err := netip.ParsePrefix(n.String()); err == nil && (p.Addr() == a.WithZone("") || a.IsLoopback() && p.Addr().IsLoopback()) {
				return " (" + i.Name + ")"
			}
		}
	}
	return ""
}

// portStep connects to all addresses at once, as clients try one after the other, and goes on with the first that accepts.
func (x *exam) portStep(ctx context.Context) finding {
	type outcome struct {
		took time.Duration
		err  error
	}
	outcomes := make([]chan outcome, len(x.addresses))
	for i, a := range x.addresses {
		outcomes[i] = make(chan outcome, 1)
		go func() {
			began := time.Now()
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), x.Port))
			if err == nil {
				c.Close()
			}
			outcomes[i] <- outcome{time.Since(began), err}
		}()
	}
	var good finding
	var refused []string
	var fault Fault
	for i, a := range x.addresses {
		o := <-outcomes[i]
		at := net.JoinHostPort(a.String(), x.Port)
		switch {
		case o.err != nil:
			if len(refused) == 0 {
				fault = x.noConnection(a, o.err)
			}
			refused = append(refused, a.String()+": "+reason(o.err))
		case !x.at.IsValid():
			x.at, _ = netip.ParseAddrPort(at)
			good = ok("%s accepts connections", at)
		}
	}
	switch {
	case !x.at.IsValid():
		return failed(fault, "%s", few(refused))
	case len(refused) > 0:
		return warned(x.portPartly(refused), "%s, but %s", good.detail, few(refused))
	}
	return good
}

// noConnection says why a connection can't be made.
func (x *exam) noConnection(a netip.Addr, err error) Fault {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return x.portClosed(a)
	case isTimeout(err):
		return x.portSilent(a)
	}
	return x.unreachable(a, reason(err))
}

func isTimeout(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// reason is the last part of a network error: what the system said.
func reason(err error) string {
	if isTimeout(err) {
		return "no answer"
	}
	if alert := alertOf(err); alert != "" {
		return "the server ends it with the alert \"" + alert + "\""
	}
	if errors.Is(err, io.EOF) {
		return "the server closes the connection"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return printable(strings.TrimPrefix(err.Error(), "tls: "))
}
