package doctor

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/sealane/sealane/internal/diagnosis"
)

// maxAddresses of a name are tried.
const maxAddresses = 8

// nameStep finds the addresses of the host.
func (d *diagnoser) nameStep(ctx context.Context) finding {
	host := d.config.Host
	if a, err := netip.ParseAddr(host); err == nil {
		d.addresses = []netip.Addr{a}
		return ok("%s is an address", host)
	}
	found, err := d.config.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		kind, details := diagnosis.Lookup(err)
		if kind == diagnosis.DNSDown && ctx.Err() != nil {
			details.Why = "no answer within " + d.config.Timeout.String()
		}
		return d.failed(kind, details, "%s", diagnosis.Printable(details.Why))
	}
	var shown []string
	for _, a := range found {
		if a = a.Unmap(); !slices.Contains(d.addresses, a) && len(d.addresses) < maxAddresses {
			d.addresses = append(d.addresses, a)
			shown = append(shown, a.String())
		}
	}
	if strings.HasSuffix(host, ".") && !d.dialer.plain {
		retry := d.command(strings.TrimRight(host, "."))
		return d.warned(diagnosis.NameTrailingDot, diagnosis.Details{Retry: retry}, "%s is %s", host, diagnosis.Few(shown))
	}
	return ok("%s is %s", host, diagnosis.Few(shown))
}

// routeStep asks the kernel which way packets would go; none is sent.
func (d *diagnoser) routeStep(ctx context.Context) finding {
	var first error
	for _, a := range d.addresses {
		var dialer net.Dialer
		c, err := dialer.DialContext(ctx, "udp", net.JoinHostPort(a.String(), d.config.Port))
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
	why := diagnosis.Reason(first)
	return d.failed(diagnosis.Unreachable, diagnosis.Details{Address: d.addresses[0].String(), Why: why}, "%s", why)
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
func (d *diagnoser) portStep(ctx context.Context) finding {
	outcomes := make([]chan error, len(d.addresses))
	for i, a := range d.addresses {
		outcomes[i] = make(chan error, 1)
		go func() {
			var dialer net.Dialer
			c, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), d.config.Port))
			if err == nil {
				c.Close()
			}
			outcomes[i] <- err
		}()
	}
	var accepts string
	var refused []string
	var kind diagnosis.Kind
	var details diagnosis.Details
	for i, a := range d.addresses {
		err := <-outcomes[i]
		at := net.JoinHostPort(a.String(), d.config.Port)
		switch {
		case err != nil:
			k, seen := diagnosis.Connect(a.String(), err)
			if len(refused) == 0 {
				kind, details = k, seen
			}
			refused = append(refused, a.String()+": "+seen.Why)
		case accepts == "":
			d.dialer.at, accepts = at, at
		}
	}
	switch {
	case accepts == "":
		return d.failed(kind, details, "%s", diagnosis.Few(refused))
	case len(refused) > 0:
		return d.warned(diagnosis.PortPartly, diagnosis.Details{Refused: refused}, "%s accepts connections, but %s", accepts, diagnosis.Few(refused))
	}
	return ok("%s accepts connections", accepts)
}
