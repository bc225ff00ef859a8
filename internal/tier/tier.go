// Package tier has the rules of the Memorystore API's two tiers: which numbers of replicas, read replicas, sizes and ranges of addresses
// go together, when an instance is created and when it is changed. It is pure.
//
// Guaranteed: a choice that Create or Update accepts is complete, and Update accepts it unchanged. A refusal names the field, its value
// and what would be right.
package tier

import "fmt"

const (
	// MaxReplicas is how many replicas an instance with read replicas has at most.
	MaxReplicas = 5
	// DefaultReplicas is how many it has where nobody says.
	DefaultReplicas = 2
	// MinReadReplicasGB is from which size on an instance may have read replicas. The managed service has this bound, and configurations
	// that are tried here are to work there. Nothing here depends on it.
	MinReadReplicasGB = 5
)

// Choice is what an instance's tier, replicas and size are.
type Choice struct {
	Standard       bool // tier STANDARD_HA; else it is BASIC
	MemoryGB       int32
	Replicas       int32 // 0 at a create: the default
	ReadReplicas   bool
	SecondaryRange string // "": none
}

// Problem is what is wrong with a choice.
type Problem struct {
	Field, What string
	// State says that the value is wrong for this instance only, as it is now.
	State bool
}

const (
	fieldReplicas  = "replica_count"
	fieldMode      = "read_replicas_mode"
	fieldMemory    = "memory_size_gb"
	fieldSecondary = "secondary_ip_range"
)

// Create checks what is asked for a new instance, and fills the defaults in.
func Create(c Choice) (Choice, []Problem) {
	if !c.Standard {
		return c, basic(c, Choice{}, "tier BASIC has no replicas: leave it out, or ask for tier STANDARD_HA", false)
	}
	if c.Replicas == 0 {
		c.Replicas = c.defaultReplicas()
	}
	return c, c.standard(false)
}

// Update checks what an update makes of an instance. In what is asked for, Replicas is 0 where the update doesn't name them and enables
// read replicas: then they get their default.
func Update(before, c Choice) (Choice, []Problem) {
	if !before.Standard {
		return c, basic(c, before, "replicas are of tier STANDARD_HA, and this instance is BASIC, which can't be changed: create an instance of tier STANDARD_HA", true)
	}
	enabled := c.ReadReplicas && !before.ReadReplicas
	if enabled && c.Replicas == 0 {
		c.Replicas = c.defaultReplicas()
	}
	var ps []Problem
	switch {
	case before.ReadReplicas && !c.ReadReplicas:
		ps = append(ps, Problem{fieldMode, "READ_REPLICAS_DISABLED: read replicas can't be disabled once they are enabled: leave it out; replica_count 1 makes them as few as possible", true})
		c.ReadReplicas = true // so that nothing else is said about it
	case enabled && c.SecondaryRange == "":
		ps = append(ps, Problem{fieldSecondary, `is required to enable read replicas on an instance that is there: want auto, or a range such as 10.0.0.0/28`, false})
	case before.ReadReplicas && c.SecondaryRange != before.SecondaryRange:
		ps = append(ps, Problem{fieldSecondary, fmt.Sprintf("%q: it is %s, and is chosen when read replicas are enabled: leave it out", c.SecondaryRange, orNone(before.SecondaryRange)), true})
	}
	return c, append(ps, c.standard(true)...)
}

// basic are the problems of an instance of tier BASIC: what asks for something else than it has.
func basic(c, before Choice, what string, state bool) (ps []Problem) {
	if c.Replicas != before.Replicas {
		ps = append(ps, Problem{fieldReplicas, fmt.Sprintf("%d: %s", c.Replicas, what), state})
	}
	if c.ReadReplicas {
		ps = append(ps, Problem{fieldMode, "READ_REPLICAS_ENABLED: " + what, state})
	}
	if c.SecondaryRange != before.SecondaryRange {
		ps = append(ps, Problem{fieldSecondary, fmt.Sprintf("%q: %s", c.SecondaryRange, what), state})
	}
	return ps
}

// standard are the problems of an instance of tier STANDARD_HA.
func (c Choice) standard(exists bool) (ps []Problem) {
	if !c.ReadReplicas {
		if c.Replicas != 1 {
			ps = append(ps, Problem{fieldReplicas, fmt.Sprintf("%d: without read replicas an instance has 1 replica: want 1, or read_replicas_mode READ_REPLICAS_ENABLED, with which it has 1 to %d",
				c.Replicas, MaxReplicas), exists})
		}
		if c.SecondaryRange != "" {
			ps = append(ps, Problem{fieldSecondary, fmt.Sprintf("%q: it is for instances with read replicas: leave it out, or ask for read_replicas_mode READ_REPLICAS_ENABLED", c.SecondaryRange), exists})
		}
		return ps
	}
	if c.Replicas < 1 || c.Replicas > MaxReplicas {
		ps = append(ps, Problem{fieldReplicas, fmt.Sprintf("%d: want 1 to %d", c.Replicas, MaxReplicas), false})
	}
	if c.MemoryGB < MinReadReplicasGB {
		ps = append(ps, Problem{fieldMemory, fmt.Sprintf("%d: an instance with read replicas has %d GB or more: want %d at least", c.MemoryGB, MinReadReplicasGB, MinReadReplicasGB), exists})
	}
	return ps
}

func (c Choice) defaultReplicas() int32 {
	if c.ReadReplicas {
		return DefaultReplicas
	}
	return 1
}

func orNone(s string) string {
	if s == "" {
		return "empty"
	}
	return s
}
