package instance

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// An instance's network exists in the managed service only. What describes it is checked as there, kept and shown, so that clients and
// what they hand on to other tools work; it changes nothing here. Addresses come from the server's configuration.

var (
	networkPattern = regexp.MustCompile(`^projects/([a-z][a-z0-9.-]{0,61}:)?[a-z0-9][a-z0-9-]{0,61}/global/networks/[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// networkHost is what a network's URL has before its name.
	networkHost = regexp.MustCompile(`^https://(www\.googleapis\.com/compute|compute\.googleapis\.com/compute)/[a-z0-9]+/`)
	// rangeNamePattern is the name of a range that was allocated for private service access.
	rangeNamePattern = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// reservedRanges is where ranges are chosen from.
	reservedRanges = netip.MustParsePrefix("10.83.0.0/16")
)

const (
	privateServiceAccess = "PRIVATE_SERVICE_ACCESS"
	reservedBits         = 29 // of an instance without replicas
)

// completeNetwork checks the network of a new instance and fills its default in. The range is chosen later, by reserveRange.
func (s *Spec) completeNetwork(name Name) (vs []Violation) {
	if s.AuthorizedNetwork == "" {
		s.AuthorizedNetwork = "projects/" + name.Project + "/global/networks/default"
	}
	s.AuthorizedNetwork = networkHost.ReplaceAllString(s.AuthorizedNetwork, "")
	if !networkPattern.MatchString(s.AuthorizedNetwork) {
		vs = append(vs, Violation{"authorized_network", fmt.Sprintf("%q is not the full name of a network: want projects/PROJECT/global/networks/NETWORK, or nothing for the default network", s.AuthorizedNetwork)})
	}
	given := s.ReservedIPRange
	if given == "" || s.ConnectMode == privateServiceAccess && rangeNamePattern.MatchString(given) {
		return vs
	}
	const field = "reserved_ip_range"
	r, err := netip.ParsePrefix(given)
	switch {
	case err != nil && s.ConnectMode == privateServiceAccess:
		return append(vs, Violation{field, fmt.Sprintf("%q: want the name of an allocated range, such as google-managed-services-default, or a range such as 10.0.0.0/%d, or nothing to have one chosen", given, reservedBits)})
	case err != nil:
		return append(vs, Violation{field, fmt.Sprintf("%q is not a range of addresses: want one such as 10.0.0.0/%d, or nothing to have one chosen; the name of an allocated range goes with connect_mode %s", given, reservedBits, privateServiceAccess)})
	case !r.Addr().Is4() || r.Bits() != reservedBits:
		return append(vs, Violation{field, fmt.Sprintf("%q: want a range of 8 IPv4 addresses, such as 10.0.0.0/%d", given, reservedBits)})
	case r.Masked() != r:
		return append(vs, Violation{field, fmt.Sprintf("%q begins within a range: want %s", given, r.Masked())})
	case !r.Addr().IsPrivate():
		return append(vs, Violation{field, fmt.Sprintf("%q is not private: want a range of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16", given)})
	}
	return vs
}

// reserveRange gives a new instance its range. It is called with Manager.creating held, so that no other instance gets it too.
func (m *Manager) reserveRange(s *Spec) error {
	live, err := m.records.live()
	if err != nil {
		return err
	}
	taken := make(map[netip.Prefix]bool)
	for _, i := range live {
		if r, err := netip.ParsePrefix(i.Spec.ReservedIPRange); err == nil && i.Spec.AuthorizedNetwork == s.AuthorizedNetwork {
			taken[r] = true
		}
	}
	if strings.Contains(s.ReservedIPRange, "/") {
		// Ranges have one size, so two of them overlap only when they are the same.
		if taken[netip.MustParsePrefix(s.ReservedIPRange)] {
			return invalid("reserved_ip_range", "%q is the range of another instance in the same network: want one that is free, or nothing to have one chosen", s.ReservedIPRange)
		}
		return nil
	}
	for addr := reservedRanges.Addr(); reservedRanges.Contains(addr); {
		r := netip.PrefixFrom(addr, reservedBits)
		if !taken[r] {
			s.ReservedIPRange = r.String()
			return nil
		}
		for range 1 << (32 - reservedBits) {
			addr = addr.Next()
		}
	}
	s.ReservedIPRange = "" // more instances than ranges; nothing depends on them
	return nil
}
