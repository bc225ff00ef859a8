package instance

import (
	"fmt"
	"net"
	"net/netip"
)

// Place is where a node's processes run.
type Place struct {
	NetworkNamespace string     // its file; "": the server's own
	Address          netip.Addr // what other nodes connect to; zero: an address as instances have them
}

// place is where the processes of node k of every instance run.
func (a Addresses) place(k int) Place {
	if k < len(a.Nodes) {
		return a.Nodes[k]
	}
	return Place{}
}

// firstPeerPort is the first port at which a node with a configured address can be connected to by others.
const firstPeerPort = 16378

// allocateNode finds a free address for other nodes to connect to.
func (a Addresses) allocateNode(taken map[netip.AddrPort]bool, k int) (netip.AddrPort, error) {
	place := a.place(k)
	host := place.Address
	switch {
	case host.IsValid():
	case a.apart():
		return netip.AddrPort{}, precondition("the server's configuration has nodes in network namespaces of their own, and does not say where %s of an instance runs: add nodes[%d] to it", NodeName(k), k)
	default:
		return a.allocate(taken, true)
	}
	for port := firstPeerPort; port < 1<<16; port++ {
		address := netip.AddrPortFrom(host, uint16(port))
		if taken[address] {
			continue
		}
		if place.NetworkNamespace == "" { // what is listened on in another namespace can't be seen from here
			l, err := net.Listen("tcp", address.String())
			if err != nil {
				continue
			}
			l.Close()
		}
		return address, nil
	}
	return netip.AddrPort{}, &Error{Code: ResourceExhausted, Reason: AddressesExhausted, Message: fmt.Sprintf("no port of %s, the address of %s, is free", host, NodeName(k))}
}

// apart says whether nodes are in network namespaces of their own.
func (a Addresses) apart() bool {
	for _, p := range a.Nodes {
		if p.NetworkNamespace != "" {
			return true
		}
	}
	return false
}

// checkNodes says what is wrong with where nodes run.
func (a Addresses) checkNodes() (problems []string) {
	for k, p := range a.Nodes {
		switch {
		case k == 0 && p.NetworkNamespace != "":
			problems = append(problems, fmt.Sprintf("nodes[0].network_namespace: %q: want none, because clients and the server connect to node-0", p.NetworkNamespace))
		case a.apart() && (!p.Address.IsValid() || p.Address.IsLoopback()):
			problems = append(problems, fmt.Sprintf("nodes[%d].address: %q: want an address off loopback, because nodes in network namespaces of their own have to reach it", k, addressText(p.Address)))
		case p.Address.IsValid() && p.Address.IsUnspecified():
			problems = append(problems, fmt.Sprintf("nodes[%d].address: %s: want an address that other nodes can connect to", k, p.Address))
		}
	}
	return problems
}

func addressText(a netip.Addr) string {
	if a.IsValid() {
		return a.String()
	}
	return ""
}
