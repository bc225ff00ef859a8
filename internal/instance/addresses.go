package instance

import (
	"fmt"
	"iter"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sealane/sealane/internal/pki"
)

const (
	tlsPort   = 6378
	plainPort = 6379
)

// Addresses is where clients reach instances. Either each instance has an address of its own out of Pool, with port 6378 (6379
// without encryption); or all instances are at Host, each with a port of its own.
type Addresses struct {
	Pool      netip.Prefix
	Host      netip.Addr
	FirstPort uint16
	LastPort  uint16

	// DNSNames are further names for the certificates; {instance}, {location} and {project} stand for
	// the instance's.
	DNSNames []string

	// Nodes are where node-0, node-1 and so on of every instance run; those that are not in it run as the server does.
	Nodes []Place
}

// maxTries bounds the search for an address that can be listened on, because an IPv6 pool that isn't this machine's has no end.
const maxTries = 1 << 16

// DefaultAddresses is a loopback network that nothing else uses.
func DefaultAddresses() Addresses {
	return Addresses{Pool: netip.MustParsePrefix("127.83.0.0/16")}
}

// candidates are all addresses for a new instance, in the order they are tried.
func (a Addresses) candidates(tls bool) iter.Seq[netip.AddrPort] {
	return func(yield func(netip.AddrPort) bool) {
		if a.Host.IsValid() {
			for port := int(a.FirstPort); port <= int(a.LastPort); port++ {
				if !yield(netip.AddrPortFrom(a.Host, uint16(port))) {
					return
				}
			}
			return
		}
		port := uint16(plainPort)
		if tls {
			port = tlsPort
		}
		pool := a.Pool.Masked()
		single := pool.IsSingleIP()
		for ip := pool.Addr(); pool.Contains(ip); ip = ip.Next() {
			// The first and the last address of a network are not for hosts.
			if !single && (ip == pool.Addr() || !pool.Contains(ip.Next())) {
				continue
			}
			if !yield(netip.AddrPortFrom(ip, port)) {
				return
			}
		}
	}
}

// allocate finds a free address. taken are the addresses of the other instances.
func (a Addresses) allocate(taken map[netip.AddrPort]bool, tls bool) (netip.AddrPort, error) {
	takenHosts := make(map[netip.Addr]bool)
	for t := range taken {
		takenHosts[t.Addr()] = true
	}
	var busy error
	tries := 0
	for c := range a.candidates(tls) {
		if taken[c] || !a.Host.IsValid() && takenHosts[c.Addr()] {
			continue
		}
		// Another program on the machine may listen there.
		l, err := net.Listen("tcp", c.String())
		if err != nil {
			busy = err
			if tries++; tries == maxTries {
				break
			}
			continue
		}
		l.Close()
		return c, nil
	}
	e := &Error{Code: ResourceExhausted, Reason: AddressesExhausted, Message: "no address is free for another instance or replica: delete one, or widen addresses in the configuration"}
	if busy != nil {
		e.Message += " (" + busy.Error() + ")"
	}
	return netip.AddrPort{}, e
}

// secondPort finds a free port for an instance that has one at host already: of the range where host is the configured one, and the usual
// one where host is the instance's alone. taken are the addresses of all instances.
func (a Addresses) secondPort(taken map[netip.AddrPort]bool, host netip.Addr, tls bool) (int, error) {
	if a.Host == host {
		address, err := a.allocate(taken, tls)
		return int(address.Port()), err
	}
	port := plainPort
	if tls {
		port = tlsPort
	}
	address := netip.AddrPortFrom(host, uint16(port))
	if taken[address] {
		return 0, &Error{Code: ResourceExhausted, Reason: AddressesExhausted, Message: fmt.Sprintf("%s is another instance's", address)}
	}
	l, err := net.Listen("tcp", address.String())
	if err != nil {
		return 0, &Error{Code: ResourceExhausted, Reason: AddressesExhausted,
			Message: fmt.Sprintf("another program has the port that this instance needs besides: %v: end it, and try again", err)}
	}
	l.Close()
	return port, nil
}

// dnsNames are the instance's names by the configuration.
func (a Addresses) dnsNames(n Name) []string {
	var names []string
	r := strings.NewReplacer("{instance}", n.ID, "{location}", n.Location, "{project}", n.Project)
	for _, t := range a.DNSNames {
		names = append(names, r.Replace(t))
	}
	return names
}

// Check returns every problem of the configuration; each names the field and the value.
func (a Addresses) Check() []string {
	var problems []string
	switch {
	case a.Pool.IsValid() && a.Host.IsValid():
		problems = append(problems, "addresses: pool and host are both set; want one of them")
	case a.Host.IsValid() && (a.FirstPort == 0 || a.LastPort < a.FirstPort):
		problems = append(problems, fmt.Sprintf("addresses.ports: %d-%d: want FIRST-LAST, such as 6378-6399", a.FirstPort, a.LastPort))
	case a.Host.IsValid() && a.Host.IsUnspecified():
		problems = append(problems, "addresses.host: "+a.Host.String()+": want an address that clients can dial; it goes into the certificates")
	}
	problems = append(problems, a.checkNodes()...)
	for _, n := range a.DNSNames {
		if !dnsName(strings.NewReplacer("{instance}", "i", "{location}", "l", "{project}", "p").Replace(n)) {
			problems = append(problems, fmt.Sprintf("addresses.dns_names: %q: want a DNS name, in which {instance}, {location} and {project} may stand", n))
		}
	}
	return problems
}

func dnsName(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	_, err := strconv.Atoi(s[strings.LastIndexByte(s, '.')+1:])
	return err != nil // a last label of digits would be an address
}

// certificateNames are all names and addresses that clients may use to reach an instance, by the configuration.
func (a Addresses) certificateNames(name Name, host netip.Addr) (pki.Names, error) {
	n := pki.Names{DNS: a.dnsNames(name), IPs: []netip.Addr{host}, URI: name.identity()}
	if host.IsLoopback() {
		// A client that comes through a tunnel or a forwarded port dials one of these.
		n.DNS = append(n.DNS, "localhost")
		for _, ip := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
			if ip != host {
				n.IPs = append(n.IPs, ip)
			}
		}
	}
	for _, d := range n.DNS {
		if !dnsName(d) { // a project may be "example.com:id"
			return n, precondition("addresses.dns_names in the server's configuration gives this instance the name %q, which is no DNS name", d)
		}
	}
	return n, nil
}
