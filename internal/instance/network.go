package instance

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
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
	autoRange            = "auto" // a secondary range that is to be chosen
	reservedBits         = 29     // of an instance without read replicas
	replicaBits          = 28     // of one with read replicas, and of its secondary range
	widestBits           = 26     // as the managed service takes them
)

// completeNetwork checks the network of a new instance and fills its default in. Ranges are chosen later, by reserveRanges.
func (s *Spec) completeNetwork(name Name) (vs []Violation) {
	if s.AuthorizedNetwork == "" {
		s.AuthorizedNetwork = "projects/" + name.Project + "/global/networks/default"
	}
	s.AuthorizedNetwork = networkHost.ReplaceAllString(s.AuthorizedNetwork, "")
	if !networkPattern.MatchString(s.AuthorizedNetwork) {
		vs = append(vs, Violation{"authorized_network", fmt.Sprintf("%q is not the full name of a network: want projects/PROJECT/global/networks/NETWORK, or nothing for the default network", s.AuthorizedNetwork)})
	}
	return append(append(vs, s.checkRange("reserved_ip_range", s.ReservedIPRange)...), s.checkSecondaryRange()...)
}

// checkSecondaryRange checks the range that read replicas are placed in.
func (s *Spec) checkSecondaryRange() []Violation {
	if strings.EqualFold(s.SecondaryIPRange, autoRange) {
		s.SecondaryIPRange = autoRange
		return nil
	}
	return s.checkRange(secondaryRange, s.SecondaryIPRange)
}

const secondaryRange = "secondary_ip_range"

// checkRange checks a range that is given.
func (s Spec) checkRange(field, given string) []Violation {
	if given == "" || s.ConnectMode == privateServiceAccess && rangeNamePattern.MatchString(given) {
		return nil
	}
	bits, widest, size := reservedBits, reservedBits, "8 IPv4 addresses"
	if s.ReadReplicas || field == secondaryRange {
		bits, widest, size = replicaBits, widestBits, "16, 32 or 64 IPv4 addresses"
	}
	problem := func(format string, args ...any) []Violation {
		return []Violation{{field, fmt.Sprintf("%q", given) + fmt.Sprintf(format, args...)}}
	}
	r, err := netip.ParsePrefix(given)
	switch {
	case err != nil && s.ConnectMode == privateServiceAccess:
		return problem(": want the name of an allocated range, such as google-managed-services-default, or a range such as 10.0.0.0/%d, or %s to have one chosen", bits, chosenBy(field))
	case err != nil:
		return problem(" is not a range of addresses: want one such as 10.0.0.0/%d, or %s to have one chosen; the name of an allocated range goes with connect_mode %s", bits, chosenBy(field), privateServiceAccess)
	case !r.Addr().Is4() || r.Bits() > bits || r.Bits() < widest:
		return problem(": want a range of %s, such as 10.0.0.0/%d", size, bits)
	case r.Masked() != r:
		return problem(" begins within a range: want %s", r.Masked())
	case !r.Addr().IsPrivate():
		return problem(" is not private: want a range of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16")
	}
	return nil
}

// reserveRanges gives a new instance its ranges. It is called with Manager.creating held, so that no other instance gets them too.
func (m *Manager) reserveRanges(s *Spec) error {
	taken, err := m.takenRanges(s.AuthorizedNetwork)
	if err != nil {
		return err
	}
	bits := reservedBits
	if s.ReadReplicas {
		bits = replicaBits
	}
	if s.ReservedIPRange, err = freeRange("reserved_ip_range", s.ReservedIPRange, bits, taken); err != nil {
		return err
	}
	if r, err := netip.ParsePrefix(s.ReservedIPRange); err == nil {
		taken = append(taken, r)
	}
	return s.reserveSecondary(taken)
}

// takenRanges are the ranges of all instances in a network.
func (m *Manager) takenRanges(network string) (taken []netip.Prefix, err error) {
	live, err := m.records.live()
	for _, i := range live {
		for _, text := range []string{i.Spec.ReservedIPRange, i.Spec.SecondaryIPRange} {
			if r, err := netip.ParsePrefix(text); err == nil && i.Spec.AuthorizedNetwork == network {
				taken = append(taken, r)
			}
		}
	}
	return taken, err
}

// reserveSecondary gives an instance the secondary range that it asks for, if any. The name of an allocated range stays as it is:
// Terraform compares it.
func (s *Spec) reserveSecondary(taken []netip.Prefix) (err error) {
	if s.SecondaryIPRange == autoRange || strings.Contains(s.SecondaryIPRange, "/") {
		s.SecondaryIPRange, err = freeRange(secondaryRange, s.SecondaryIPRange, replicaBits, taken)
	}
	return err
}

// freeRange is the range that is asked for, or where none is, one that is free.
func freeRange(field, asked string, bits int, taken []netip.Prefix) (string, error) {
	if strings.Contains(asked, "/") {
		if r := netip.MustParsePrefix(asked); slices.ContainsFunc(taken, r.Overlaps) {
			return "", invalid(field, "%q is the range of another instance in the same network, or overlaps with one: want one that is free, or %s to have one chosen", asked, chosenBy(field))
		}
		return asked, nil
	}
	for addr := reservedRanges.Addr(); reservedRanges.Contains(addr); {
		r := netip.PrefixFrom(addr, bits)
		if !slices.ContainsFunc(taken, r.Overlaps) {
			return r.String(), nil
		}
		for range 1 << (32 - bits) {
			addr = addr.Next()
		}
	}
	return "", nil // more instances than ranges; nothing depends on them
}

// chosenBy is what to give in place of a range, to have one chosen.
func chosenBy(field string) string {
	if field == secondaryRange {
		return autoRange
	}
	return "nothing"
}
