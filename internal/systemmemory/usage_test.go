package systemmemory

import (
	"testing"
	"time"
)

func TestMemoryIsJudgedWithSomeSlack(t *testing.T) {
	t.Parallel()
	var s Usage
	for i, step := range []struct {
		used, total int64
		high, full  bool
		fullTime    time.Duration
	}{
		{790, 1000, false, false, 0},
		{800, 1000, true, false, 0},
		{760, 1000, true, false, 0}, // it ends lower than it begins
		{749, 1000, false, false, 0},
		{999, 1000, true, false, 0},
		{1000, 1000, true, true, 0},
		{985, 1000, true, true, time.Second},
		{1200, 1000, true, true, 2 * time.Second},
		{979, 1000, true, false, 3 * time.Second}, // it was full until now
		{985, 1000, true, false, 3 * time.Second},
		{1100, 1000, true, true, 3 * time.Second},
		{1100, 2000, false, false, 4 * time.Second}, // it was given more
		{1100, 0, false, false, 4 * time.Second},    // or nobody looks any more
	} {
		s = Usage{Total: step.total, Engine: step.used - 50, Gateway: 50}.followed(s, time.Second)
		if s.High != step.high || s.Full != step.full || s.FullTime != step.fullTime {
			t.Errorf("step %d, %d of %d: high %t, full %t for %v; want %t, %t, %v", i, step.used, step.total, s.High, s.Full, s.FullTime, step.high, step.full, step.fullTime)
		}
		if (s.Warning() != "") != (step.high || step.full) {
			t.Errorf("step %d: warning %q", i, s.Warning())
		}
	}
}

func TestMemoryIsLookedAtMoreOftenWhereItIsShort(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what        string
		used, grown int64
		high        bool
		took, want  time.Duration
	}{
		{"calm", 500, 0, false, 0, calmPace},
		{"slow growth", 500, 100, false, 0, calmPace},
		{"it may be full before the next look", 500, 200, false, 0, closePace},
		{"shrinking", 790, -300, false, 0, calmPace},
		{"nearly full", 900, 0, true, 0, closePace},
		{"a large child process", 900, 0, true, 50 * time.Millisecond, time.Second},
	} {
		s := Usage{Total: 1000, Engine: c.used, High: c.high}
		if got := s.pace(c.took, c.grown, time.Second); got != c.want {
			t.Errorf("%s: %v; want %v", c.what, got, c.want)
		}
	}
}
