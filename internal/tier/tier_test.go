package tier_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/tier"
)

func texts(ps []tier.Problem) string {
	var all []string
	for _, p := range ps {
		all = append(all, fmt.Sprintf("%s: %s [%v]", p.Field, p.What, p.State))
	}
	return strings.Join(all, "; ")
}

func TestCreateOfEachTier(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		asked, want tier.Choice
		refused     string // a part of what is said; "": it is accepted
	}{
		{tier.Choice{MemoryGB: 1}, tier.Choice{MemoryGB: 1}, ""},
		{tier.Choice{MemoryGB: 1, Replicas: 1}, tier.Choice{}, "replica_count: 1: tier BASIC has no replicas"},
		{tier.Choice{MemoryGB: 5, ReadReplicas: true}, tier.Choice{}, "read_replicas_mode: READ_REPLICAS_ENABLED: tier BASIC"},
		{tier.Choice{MemoryGB: 5, SecondaryRange: "auto"}, tier.Choice{}, `secondary_ip_range: "auto": tier BASIC`},
		{tier.Choice{Standard: true, MemoryGB: 1}, tier.Choice{Standard: true, MemoryGB: 1, Replicas: 1}, ""},
		{tier.Choice{Standard: true, MemoryGB: 1, Replicas: 1}, tier.Choice{Standard: true, MemoryGB: 1, Replicas: 1}, ""},
		{tier.Choice{Standard: true, MemoryGB: 5, Replicas: 2}, tier.Choice{}, "replica_count: 2: without read replicas an instance has 1 replica"},
		{tier.Choice{Standard: true, MemoryGB: 5, Replicas: -1}, tier.Choice{}, "replica_count: -1"},
		{tier.Choice{Standard: true, MemoryGB: 5, SecondaryRange: "auto"}, tier.Choice{}, "it is for instances with read replicas"},
		{tier.Choice{Standard: true, MemoryGB: 5, ReadReplicas: true}, tier.Choice{Standard: true, MemoryGB: 5, ReadReplicas: true, Replicas: 2}, ""},
		{tier.Choice{Standard: true, MemoryGB: 5, ReadReplicas: true, Replicas: 5}, tier.Choice{Standard: true, MemoryGB: 5, ReadReplicas: true, Replicas: 5}, ""},
		{tier.Choice{Standard: true, MemoryGB: 5, ReadReplicas: true, Replicas: 6}, tier.Choice{}, "replica_count: 6: want 1 to 5"},
		{tier.Choice{Standard: true, MemoryGB: 4, ReadReplicas: true}, tier.Choice{}, "memory_size_gb: 4: an instance with read replicas has 5 GB or more"},
	} {
		got, ps := tier.Create(c.asked)
		if c.refused != "" {
			if said := texts(ps); !strings.Contains(said, c.refused) || strings.Contains(said, "[true]") {
				t.Errorf("%+v: got %q, want %q, whatever there is already", c.asked, said, c.refused)
			}
			continue
		}
		if len(ps) > 0 || got != c.want {
			t.Errorf("%+v: got %+v, %s; want %+v", c.asked, got, texts(ps), c.want)
		}
	}
}

func TestUpdateOfEachTier(t *testing.T) {
	t.Parallel()
	basic := tier.Choice{MemoryGB: 5}
	one := tier.Choice{Standard: true, MemoryGB: 5, Replicas: 1}
	three := tier.Choice{Standard: true, MemoryGB: 5, Replicas: 3, ReadReplicas: true, SecondaryRange: "10.0.0.0/28"}
	with := func(c tier.Choice, change func(*tier.Choice)) tier.Choice {
		change(&c)
		return c
	}
	for _, c := range []struct {
		before, asked, want tier.Choice
		refused             string
	}{
		{basic, with(basic, func(c *tier.Choice) { c.Replicas = 1 }), tier.Choice{}, "replica_count: 1: replicas are of tier STANDARD_HA, and this instance is BASIC"},
		{basic, with(basic, func(c *tier.Choice) { c.ReadReplicas, c.SecondaryRange = true, "auto" }), tier.Choice{}, `secondary_ip_range: "auto": replicas are of tier STANDARD_HA`},
		{one, with(one, func(c *tier.Choice) { c.MemoryGB = 1 }), tier.Choice{Standard: true, MemoryGB: 1, Replicas: 1}, ""},
		{one, with(one, func(c *tier.Choice) { c.Replicas = 2 }), tier.Choice{}, "replica_count: 2: without read replicas"},
		{one, with(one, func(c *tier.Choice) { c.Replicas = 0 }), tier.Choice{}, "replica_count: 0: without read replicas"},
		{one, with(one, func(c *tier.Choice) { c.ReadReplicas = true }), tier.Choice{}, "secondary_ip_range: is required"},
		{one, with(one, func(c *tier.Choice) { c.SecondaryRange = "auto" }), tier.Choice{}, "it is for instances with read replicas"},
		{one, with(one, func(c *tier.Choice) { c.ReadReplicas, c.SecondaryRange, c.MemoryGB = true, "auto", 4 }), tier.Choice{}, "memory_size_gb: 4"},
		{one, with(one, func(c *tier.Choice) { c.Replicas, c.ReadReplicas, c.SecondaryRange = 0, true, "auto" }),
			tier.Choice{Standard: true, MemoryGB: 5, Replicas: 2, ReadReplicas: true, SecondaryRange: "auto"}, ""},
		{one, with(one, func(c *tier.Choice) { c.ReadReplicas, c.SecondaryRange = true, "auto" }),
			tier.Choice{Standard: true, MemoryGB: 5, Replicas: 1, ReadReplicas: true, SecondaryRange: "auto"}, ""},
		{three, with(three, func(c *tier.Choice) { c.Replicas = 5 }), with(three, func(c *tier.Choice) { c.Replicas = 5 }), ""},
		{three, with(three, func(c *tier.Choice) { c.Replicas = 0 }), tier.Choice{}, "replica_count: 0: want 1 to 5"},
		{three, with(three, func(c *tier.Choice) { c.Replicas = 6 }), tier.Choice{}, "replica_count: 6: want 1 to 5"},
		{three, with(three, func(c *tier.Choice) { c.ReadReplicas = false }), tier.Choice{}, "read_replicas_mode: READ_REPLICAS_DISABLED: read replicas can't be disabled"},
		{three, with(three, func(c *tier.Choice) { c.ReadReplicas, c.SecondaryRange, c.Replicas = false, "", 1 }), tier.Choice{}, "read replicas can't be disabled"},
		{three, with(three, func(c *tier.Choice) { c.SecondaryRange = "10.0.0.16/28" }), tier.Choice{}, `secondary_ip_range: "10.0.0.16/28": it is 10.0.0.0/28`},
		{three, with(three, func(c *tier.Choice) { c.MemoryGB = 4 }), tier.Choice{}, "memory_size_gb: 4"},
	} {
		got, ps := tier.Update(c.before, c.asked)
		if c.refused != "" {
			if said := texts(ps); !strings.Contains(said, c.refused) {
				t.Errorf("%+v to %+v: got %q, want %q", c.before, c.asked, said, c.refused)
			}
			continue
		}
		if len(ps) > 0 || got != c.want {
			t.Errorf("%+v to %+v: got %+v, %s; want %+v", c.before, c.asked, got, texts(ps), c.want)
		}
	}
}

// Whatever Create accepts is complete: an update that changes nothing is accepted, and changes nothing. Whatever Update accepts is
// what Create could have made.
func TestWhatIsAcceptedIsComplete(t *testing.T) {
	t.Parallel()
	var all []tier.Choice
	for n := range int32(2 * 9 * 8 * 2 * 2) {
		all = append(all, tier.Choice{Standard: n&1 > 0, ReadReplicas: n&2 > 0, SecondaryRange: []string{"", "auto"}[n>>2&1], MemoryGB: n >> 3 % 9, Replicas: n/72%8 - 1})
	}
	accepted := 0
	for _, asked := range all {
		made, ps := tier.Create(asked)
		if len(ps) > 0 {
			continue
		}
		accepted++
		if again, ps := tier.Update(made, made); len(ps) > 0 || again != made {
			t.Errorf("%+v: an update that changes nothing makes it %+v: %s", made, again, texts(ps))
		}
		for _, next := range all {
			next.Standard = made.Standard
			if changed, ps := tier.Update(made, next); len(ps) == 0 {
				if same, ps := tier.Create(changed); len(ps) > 0 || same != changed {
					t.Errorf("%+v becomes %+v, which can't be created: %s", made, changed, texts(ps))
				}
			}
		}
	}
	if accepted < 20 {
		t.Errorf("only %d choices are accepted", accepted)
	}
}
