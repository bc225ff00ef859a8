package instance

import (
	"fmt"
	"time"
)

// Commands are what users can type, for the texts that tell them what to do next. How they are spelled is known to the program that has
// them. A text without a command says what is to be done in words.
type Commands struct {
	CABundle     func(Name) string // prints an instance's CA bundle
	ForceRestart func(Name) string // restarts an instance's engine, and kills it for that if need be
	ForceStop    string            // stops all instances, and kills engines for that if need be
}

func (c Commands) forceRestart(name Name) string {
	if c.ForceRestart == nil {
		return "a restart with force"
	}
	return "`" + c.ForceRestart(name) + "`"
}

func (c Commands) forceStop() string {
	if c.ForceStop == "" {
		return "a stop with force"
	}
	return "`" + c.ForceStop + "`"
}

// lossByForce is the price of ending an engine that has not saved its data.
func (s Spec) lossByForce() string {
	if s.SnapshotPeriod > 0 {
		return "what was written since its last snapshot is lost"
	}
	return "all its data are lost, because its persistence is off"
}

// lossByForcedRestart is what it costs to restart the engine by force.
func (i Instance) lossByForcedRestart() string {
	if i.Replication != nil {
		return "a replica takes over; what it doesn't have is lost"
	}
	return i.Spec.lossByForce()
}

// advice says what to do about a script that runs in an instance's engine.
func (e *BusyError) advice(i Instance, c Commands, now time.Time) string {
	running := int(now.Sub(e.Since).Seconds())
	end := fmt.Sprintf("%s ends the engine, and %s", c.forceRestart(i.Name), i.lossByForcedRestart())
	if e.Unkillable {
		return fmt.Sprintf("a script or function that has written has been running in the engine for %d s, so the engine refuses to end it (UNKILLABLE), "+
			"and answers no client until it is done: wait for it, or %s", running, end)
	}
	return fmt.Sprintf("a script or function has been running in the engine for %d s, which answers no client until it is done: wait for it, or end it with "+
		"SCRIPT KILL (FUNCTION KILL); if it has written, the engine refuses that (UNKILLABLE), and then %s", running, end)
}
