package snapshot_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/snapshot"
)

func at(text string) time.Time {
	if text == "" {
		return time.Time{}
	}
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestWhenSnapshotsAreMade(t *testing.T) {
	t.Parallel()
	six := snapshot.Schedule{Start: at("2030-01-01 00:30:00"), Period: 6 * time.Hour}
	good := func(finished string) snapshot.Run { return snapshot.Run{Finished: at(finished)} }
	failed := func(finished string) snapshot.Run { return snapshot.Run{Finished: at(finished), Failure: "disk"} }
	for _, c := range []struct {
		what, now, good string
		history         snapshot.History
		begin           bool
		due, next       string
	}{
		{"before the first", "2029-12-31 00:00:00", "", nil, false, "", "2030-01-01 00:30:00"},
		{"the first", "2030-01-01 00:30:00", "", nil, true, "2030-01-01 00:30:00", "2030-01-01 06:30:00"},
		{"the first was made", "2030-01-01 00:31:00", "2030-01-01 00:30:40", snapshot.History{good("2030-01-01 00:30:40")}, false, "", "2030-01-01 06:30:00"},
		{"the second", "2030-01-01 06:30:00", "2030-01-01 00:30:40", nil, true, "2030-01-01 06:30:00", "2030-01-01 12:30:00"},
		{"several were missed: one is made", "2030-01-03 05:00:00", "2030-01-01 00:30:40", nil, true, "2030-01-03 00:30:00", "2030-01-03 06:30:00"},
		{"a stop has made one since", "2030-01-03 05:00:00", "2030-01-03 04:00:00", nil, false, "", "2030-01-03 06:30:00"},
		{"the clock of the files is late", "2030-01-01 06:31:00", "2030-01-01 06:29:00", snapshot.History{{Due: at("2030-01-01 06:30:00"), Finished: at("2030-01-01 06:29:00")}}, false, "", "2030-01-01 12:30:00"},
		{"the file is gone", "2030-01-01 06:31:00", "", snapshot.History{{Due: at("2030-01-01 06:30:00"), Finished: at("2030-01-01 06:30:10")}}, true, "2030-01-01 06:30:00", "2030-01-01 12:30:00"},
		{"it has just failed", "2030-01-01 00:32:00", "", snapshot.History{failed("2030-01-01 00:31:00")}, false, "", "2030-01-01 00:36:00"},
		{"it failed some time ago", "2030-01-01 00:36:00", "", snapshot.History{failed("2030-01-01 00:31:00")}, true, "2030-01-01 00:30:00", "2030-01-01 06:30:00"},
		{"the next is due before another attempt", "2030-01-01 06:29:00", "", snapshot.History{failed("2030-01-01 06:28:00")}, false, "", "2030-01-01 06:30:00"},
		{"the clock was put back", "2030-01-02 00:00:00", "2033-01-01 00:00:00", snapshot.History{good("2033-01-01 00:00:00")}, true, "2030-01-01 18:30:00", "2030-01-02 00:30:00"},
		{"the clock was put back after a failure", "2030-01-02 00:00:00", "", snapshot.History{failed("2033-01-01 00:00:00")}, true, "2030-01-01 18:30:00", "2030-01-02 00:30:00"},
		{"the clock was put forward", "2040-01-02 00:31:00", "2030-01-01 00:30:40", nil, true, "2040-01-02 00:30:00", "2040-01-02 06:30:00"},
	} {
		p := six.Plan(at(c.now), at(c.good), c.history)
		if p.Begin != c.begin || !p.Due.Equal(at(c.due)) || !p.Next.Equal(at(c.next)) {
			t.Errorf("%s: begin %t, due %v, next %v; want %t, %s, %s", c.what, p.Begin, p.Due, p.Next, c.begin, c.due, c.next)
		}
	}
}

// What the engine does by itself never comes first: not even when a snapshot was late by some minutes.
func TestFallbackIsLaterThanTheSchedule(t *testing.T) {
	t.Parallel()
	for period, want := range map[time.Duration]time.Duration{time.Hour: 65 * time.Minute, 24 * time.Hour: 26 * time.Hour} {
		if got := (snapshot.Schedule{Period: period}).Fallback(); got != want {
			t.Errorf("%v: %v; want %v", period, got, want)
		}
	}
}

func TestHistoryKeepsTheLastGoodOne(t *testing.T) {
	t.Parallel()
	start := at("2030-01-01 00:00:00")
	var h snapshot.History
	if h.Problem() != "" {
		t.Error("none was made, and there is a problem")
	}
	h = h.With(snapshot.Run{Started: start, Finished: start.Add(time.Minute), Size: 7})
	if h.Problem() != "" {
		t.Errorf("a good one: %q", h.Problem())
	}
	for i := range 100 {
		h = h.With(snapshot.Run{Started: start.Add(time.Duration(i) * time.Hour), Finished: start.Add(time.Duration(i) * time.Hour), Failure: "No space left on device"})
	}
	good, ok := h.LastGood()
	if len(h) != 24 || !ok || good.Size != 7 || good.Took() != time.Minute {
		t.Errorf("%d are kept, the last good one is %+v", len(h), good)
	}
	const want = "the snapshot of 2030-01-05T03:00:00Z failed: No space left on device; the last good one is of 2030-01-01T00:01:00Z; writes go on"
	if got := h.Problem(); !strings.HasPrefix(got, want) {
		t.Errorf("problem: %q", got)
	}
	if latest, ok := h.Latest(); !ok || latest.Failure == "" {
		t.Errorf("the latest is %+v", latest)
	}
}

func TestDamagedSnapshotIsNoGoodOne(t *testing.T) {
	t.Parallel()
	h := snapshot.History{{Finished: at("2030-01-01 00:00:00"), Size: 1}, {Finished: at("2030-01-02 00:00:00"), Size: 2}}
	if got := h.Damaged(at("2030-01-02 00:00:00")); got != nil {
		t.Errorf("the last one was restored: %+v", got)
	}
	after := h.Damaged(at("2030-01-01 00:00:00"))
	if good, ok := after.LastGood(); !ok || good.Size != 1 || after[1].Failure == "" || h[1].Failure != "" {
		t.Errorf("the first one was restored: %+v", after)
	}
}
