package instance

import (
	"fmt"

	"github.com/sealane/sealane/internal/tier"
)

func (s Spec) tierChoice() tier.Choice {
	return tier.Choice{Standard: s.Tier == StandardHA, MemoryGB: s.MemorySizeGB, Replicas: s.ReplicaCount, ReadReplicas: s.ReadReplicas, SecondaryRange: s.SecondaryIPRange}
}

// completeTier checks the tier and the replicas of a new instance, and fills their defaults in.
func (s *Spec) completeTier(build EngineBuild) []Violation {
	if s.Tier != StandardHA {
		s.Tier = Basic
	}
	c, problems := tier.Create(s.tierChoice())
	s.ReplicaCount = c.Replicas
	return append(violations(problems), s.checkReplication(build)...)
}

// checkReplication wants an engine whose nodes can replicate from each other, where there are several.
func (s Spec) checkReplication(build EngineBuild) (vs []Violation) {
	if s.Tier == StandardHA && !build.TLS {
		vs = append(vs, Violation{"tier", fmt.Sprintf("STANDARD_HA: the engine of %s on this server was built without TLS, which replication between nodes needs: install one that has it, such as Debian's or Redis's own packages, or choose another redis_version", s.RedisVersion)})
	}
	return vs
}

// updateTier checks what an update makes of the replicas, and takes the range of addresses that it asks for. It is
// called with Manager.creating held.
func (m *Manager) updateTier(s *Spec, before Spec) error {
	c, problems := tier.Update(before.tierChoice(), s.tierChoice())
	code := FailedPrecondition
	for _, p := range problems {
		if !p.State {
			code = InvalidArgument
		}
	}
	if len(problems) > 0 {
		return NewViolations(code, violations(problems))
	}
	s.ReplicaCount = c.Replicas
	if s.SecondaryIPRange == before.SecondaryIPRange {
		return nil
	}
	if vs := s.checkSecondaryRange(); len(vs) > 0 {
		return NewViolations(InvalidArgument, vs)
	}
	taken, err := m.takenRanges(s.AuthorizedNetwork)
	if err != nil {
		return err
	}
	return s.reserveSecondary(taken)
}

func violations(problems []tier.Problem) (vs []Violation) {
	for _, p := range problems {
		vs = append(vs, Violation{p.Field, p.What})
	}
	return vs
}

// completeZones checks the zones of a new instance, and fills their defaults in. An instance with replicas has nodes in two zones at least.
func (s *Spec) completeZones(name Name) (vs []Violation) {
	zones := Zones(name.Location)
	if s.LocationID == "" {
		s.LocationID = zones[0]
		if s.AlternativeLocationID == s.LocationID && s.Tier == StandardHA {
			s.LocationID = zones[1]
		}
	}
	check := func(field, zone string) {
		if !isZoneOf(zone, name.Location) {
			vs = append(vs, Violation{field, fmt.Sprintf("zone %q is not in %s; want for example %s", zone, name.Location, zones[0])})
		}
	}
	const second = "alternative_location_id"
	check("location_id", s.LocationID)
	switch {
	case s.Tier != StandardHA && s.AlternativeLocationID != "":
		vs = append(vs, Violation{second, fmt.Sprintf("%q is for tier STANDARD_HA, whose replica is in another zone than location_id; tier BASIC has one zone: leave it out", s.AlternativeLocationID)})
	case s.Tier != StandardHA:
	case s.AlternativeLocationID == "":
		s.AlternativeLocationID = zones[0]
		if s.LocationID == zones[0] {
			s.AlternativeLocationID = zones[1]
		}
	case s.AlternativeLocationID == s.LocationID:
		vs = append(vs, Violation{second, fmt.Sprintf("%q is location_id too: want another zone of %s, or nothing to have one chosen", s.AlternativeLocationID, name.Location)})
	default:
		check(second, s.AlternativeLocationID)
	}
	return vs
}
