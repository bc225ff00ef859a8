package local

import "time"

// SetStartLimit changes for how long a new engine without data may take to start.
func (l *Runtime) SetStartLimit(d time.Duration) { l.startLimit = d }
