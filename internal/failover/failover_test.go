package failover

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"
)

func at(ms int) time.Time {
	return time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(ms) * time.Millisecond)
}

// A primary is given up within a second of its stopping, and a dead one at once. One that is slow, or paused by a client, is not.
func TestPrimaryHasFailed(t *testing.T) {
	t.Parallel()
	for condition, limit := range map[Condition]time.Duration{ // by when it counts as failed; 0: never within a minute
		Ended: 200 * time.Millisecond, Stopped: time.Second, Hung: time.Second, Unreachable: time.Second, Busy: 31 * time.Second, Waiting: 0,
	} {
		var w Watch
		w.Saw(Observation{At: at(0), Condition: Answering, ID: "a"})
		failed := time.Duration(0)
		for ms := 200; ms <= 60_000 && failed == 0; ms += 200 {
			w.Saw(Observation{At: at(ms), Condition: condition})
			if w.Fault() != "" {
				failed = time.Duration(ms) * time.Millisecond
			}
		}
		if limit == 0 && failed != 0 || limit != 0 && (failed == 0 || failed > limit) || condition == Busy && failed < patience {
			t.Errorf("%s: failed after %v, want it by %v: %q", condition, failed, limit, w.Fault())
		}
		w.Saw(Observation{At: at(61_000), Condition: Answering})
		if w.Fault() != "" {
			t.Errorf("%s, and answers again: %q", condition, w.Fault())
		}
	}
}

func TestCandidateIsFurthestOfThoseThatHaveTheData(t *testing.T) {
	t.Parallel()
	good := func(offset int64) Observation {
		return Observation{Condition: Answering, ID: "history", Offset: offset}
	}
	with := func(o Observation, change func(*Observation)) Observation { change(&o); return o }
	for _, c := range []struct {
		name  string
		nodes map[int]Observation
		want  int
		err   error
	}{
		{"the furthest", map[int]Observation{1: good(5), 2: good(7), 3: good(6)}, 2, nil},
		{"the first of equals", map[int]Observation{3: good(7), 1: good(7)}, 1, nil},
		{"not one that loads", map[int]Observation{1: good(5), 2: with(good(7), func(o *Observation) { o.Loading = true })}, 1, nil},
		{"not one in the middle of a copy", map[int]Observation{1: good(5), 2: with(good(7), func(o *Observation) { o.Syncing = true })}, 1, nil},
		{"not one that came back empty", map[int]Observation{1: with(good(900), func(o *Observation) { o.ID, o.Primary = "another", true }), 2: good(3)}, 2, nil},
		{"one that was promoted already", map[int]Observation{1: with(good(9), func(o *Observation) { o.ID, o.ID2, o.Primary = "new", "history", true }), 2: good(8)}, 1, nil},
		{"nobody", map[int]Observation{1: with(good(9), func(o *Observation) { o.ID = "another" })}, 0, ErrNoReplica},
		{"a dead one", map[int]Observation{1: {Condition: Ended}}, 0, ErrNoReplica},
		{"one that is stopped is waited for", map[int]Observation{1: {Condition: Stopped}}, 0, ErrUndecided},
		{"but not where another can take over", map[int]Observation{1: {Condition: Stopped}, 2: good(1)}, 2, nil},
	} {
		if got, err := Candidate("history", c.nodes); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: node-%d, %v; want node-%d, %v", c.name, got, err, c.want, c.err)
		}
	}
	if _, err := Candidate("", map[int]Observation{1: with(good(1), func(o *Observation) { o.ID = "" })}); !errors.Is(err, ErrNoReplica) {
		t.Errorf("a history that is not known: %v", err)
	}
}

func TestLagIsTheTimeForWhichAReplicaLacksSomething(t *testing.T) {
	t.Parallel()
	var l Lag
	primary := func(ms int, offset int64) Observation {
		return Observation{At: at(ms), Condition: Answering, Primary: true, Offset: offset}
	}
	replica := func(ms int, offset int64) Observation {
		return Observation{At: at(ms), Condition: Answering, Offset: offset}
	}
	for _, c := range []struct {
		ms               int
		primary, replica int64
		want             time.Duration
	}{
		{0, 100, 100, 0}, {200, 200, 100, 0}, {400, 300, 100, 200 * time.Millisecond}, {600, 400, 250, 200 * time.Millisecond},
		{800, 400, 400, 0}, {5000, 400, 400, 0}, {5200, 500, 400, 0}, {5400, 500, 400, 200 * time.Millisecond},
	} {
		if got := l.Saw(primary(c.ms, c.primary), replica(c.ms, c.replica)); got != c.want {
			t.Errorf("at %d ms: %v, want %v", c.ms, got, c.want)
		}
	}
}

// A replica that hangs falls further behind with each look at the primary, and so does one whose primary has failed too.
func TestLagOfAReplicaThatDoesNotAnswerGrows(t *testing.T) {
	t.Parallel()
	var l Lag
	replica := Observation{At: at(0), Condition: Answering, ID: "h", Linked: true, Offset: 100}
	if l.Known() {
		t.Error("the lag of a replica that nobody has seen is known")
	}
	l.Saw(Observation{At: at(0), Condition: Answering, Offset: 100}, replica)
	l.Saw(Observation{At: at(200), Condition: Answering, Offset: 200}, replica)
	if got := l.Saw(Observation{At: at(3200), Condition: Answering, Offset: 200}, replica); got != 3*time.Second || !l.Known() {
		t.Errorf("hung for 3 s: %v behind", got)
	}
	if got := l.Saw(Observation{At: at(5200), Condition: Ended}, replica); got != 5*time.Second {
		t.Errorf("hung for 5 s, and the primary has ended: %v behind", got)
	}
}

// A replica that was behind when it was first looked at may be further behind than since then.
func TestLagIsNotKnownBeforeTheReplicaHasCaughtUp(t *testing.T) {
	t.Parallel()
	var l Lag
	for ms := 0; ms < 1000; ms += 200 {
		l.Saw(Observation{At: at(ms), Condition: Answering, Offset: int64(1000 + ms)}, Observation{At: at(ms), Condition: Answering, Offset: int64(ms)})
	}
	if l.Known() {
		t.Error("known")
	}
	l.Saw(Observation{At: at(1000), Condition: Answering, Offset: 3000}, Observation{At: at(1000), Condition: Answering, Offset: 1000})
	if !l.Known() {
		t.Error("not known although it has what the primary had a second ago")
	}
}

func TestReplicaIsReadableWhileItsPrimaryIsGone(t *testing.T) {
	t.Parallel()
	replica := Observation{Condition: Answering, ID: "h", Linked: true}
	cut := replica
	cut.Linked = false
	well, gone := Observation{Condition: Answering, Primary: true}, Observation{Condition: Ended}
	for _, c := range []struct {
		name             string
		primary, replica Observation
		lag              time.Duration
		want             bool
	}{
		{"linked", well, replica, 0, true},
		{"its link is down", well, cut, 0, false},
		{"its link is down, and so is the primary", gone, cut, 0, true},
		{"far behind when the primary went down", gone, cut, lagLimit, false},
		{"of another history", gone, Observation{Condition: Answering, ID: "x"}, 0, false},
		{"hung", gone, Observation{Condition: Hung, ID: "h"}, 0, false},
		{"promoted", gone, Observation{Condition: Answering, ID: "x", ID2: "h", Primary: true}, 0, false},
	} {
		if got := Readable("h", c.primary, c.replica, c.lag); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// One that is slow is read for a moment longer, and one that hangs is not.
func TestSlowReplicaIsReadForAMoment(t *testing.T) {
	t.Parallel()
	for condition, limit := range map[Condition]int{Busy: 1500, Waiting: 1500, Stopped: 200, Hung: 200, Ended: 200} {
		var w Watch
		w.Saw(Observation{At: at(0), Condition: Answering, ID: "h", Linked: true})
		for ms := 100; ms < 3000; ms += 100 {
			w.Saw(Observation{At: at(ms), Condition: condition})
			if got := Readable("h", Observation{Condition: Answering}, w.Lately(), 0); got && ms >= limit || !got && ms < limit && limit > 200 {
				t.Errorf("%s for %d ms: %v", condition, ms, got)
			}
		}
	}
}

func TestReadsAreSpreadEvenly(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name               string
		gateways, readable []int
		primary            int
		want               map[int]int
	}{
		{"all are in sync", []int{1, 2}, []int{1, 2}, 0, map[int]int{1: 1, 2: 2}},
		{"one is not", []int{1, 2, 3}, []int{1, 3}, 0, map[int]int{1: 1, 2: 1, 3: 3}},
		{"two are not", []int{1, 2, 3, 4}, []int{1, 3}, 0, map[int]int{1: 1, 2: 1, 3: 3, 4: 3}},
		{"node-0, which has no gateway there, is a replica", []int{1, 2}, []int{0, 2}, 1, map[int]int{1: 0, 2: 2}},
		{"and the only one", []int{1, 2}, []int{0}, 1, map[int]int{1: 0, 2: 0}},
		{"none is in sync", []int{1, 2}, nil, 2, map[int]int{1: 2, 2: 2}},
	} {
		if got := ReadPlan(c.gateways, c.readable, c.primary); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// machine is a few engines and a gateway as numbers: what Nodes says they do. failAt makes one step fail.
type machine struct {
	engines map[int]*Observation
	served  int
	steps   []string
	failAt  string
	held    bool
}

func (m *machine) step(name string) error {
	m.steps = append(m.steps, name)
	if name == m.failAt {
		return errors.New("it failed")
	}
	return nil
}
func (m *machine) Observe(_ context.Context, k int) Observation { return *m.engines[k] }
func (m *machine) Kill(_ context.Context, k int) error {
	err := m.step("kill")
	if err == nil {
		*m.engines[k] = Observation{Condition: Ended}
	}
	return err
}
func (m *machine) CutReplicas(context.Context, int) error {
	for _, e := range m.engines {
		e.Linked = false
	}
	return m.step("cut")
}
func (m *machine) Promote(_ context.Context, k int) error {
	err := m.step("promote")
	if err == nil {
		e := m.engines[k]
		e.Primary, e.Linked, e.ID, e.ID2 = true, false, e.ID+"'", e.ID
	}
	return err
}
func (m *machine) Follow(_ context.Context, k, _ int) error {
	m.engines[k].Primary = false
	return m.step("follow")
}
func (m *machine) RefuseWrites(_ context.Context, _ int, refuse bool) error {
	if refuse {
		return m.step("refuse writes")
	}
	return m.step("take writes")
}
func (m *machine) Hold(context.Context, time.Duration) error {
	m.held = true
	return m.step("hold")
}
func (m *machine) Release(context.Context) error {
	m.held = false
	return m.step("release")
}
func (m *machine) Serve(_ context.Context, k int) error {
	err := m.step("serve")
	if err == nil {
		m.served, m.held = k, false
	}
	return err
}

func newMachine(failAt string) *machine {
	return &machine{failAt: failAt, engines: map[int]*Observation{
		0: {Condition: Answering, Primary: true, ID: "h", Offset: 10},
		1: {Condition: Answering, Linked: true, ID: "h", Offset: 10},
		2: {Condition: Answering, Linked: true, ID: "h", Offset: 9},
	}}
}

// primaries are the engines that take writes and that the gateway serves: there is one at most, whatever fails.
func TestUnplannedFailoverWhereAStepFails(t *testing.T) {
	t.Parallel()
	for _, failAt := range []string{"", "kill", "cut", "promote", "serve"} {
		m := newMachine(failAt)
		m.engines[0].Condition = Stopped
		to, err := Unplanned(t.Context(), m, 0, []int{1, 2}, "h")
		fatal := failAt == "promote" || failAt == "serve"
		if (err != nil) != fatal || !fatal && (to != 1 || m.served != 1) || fatal && m.served != 0 {
			t.Errorf("%s fails: node-%d takes over, %v; clients are on node-%d; %v", failAt, to, err, m.served, m.steps)
		}
		if !fatal {
			continue
		}
		m.failAt = "" // and is tried again
		if to, err := Unplanned(t.Context(), m, 0, []int{1, 2}, "h"); err != nil || to != 1 || m.served != 1 {
			t.Errorf("%s failed, again: node-%d, %v", failAt, to, err)
		}
	}
}

// A primary that fails before its replicas have followed it is replaced by one that has the data of before it was promoted, but for one that has
// followed it already.
func TestUnplannedFailoverOfAPrimaryThatNobodyFollowsYet(t *testing.T) {
	t.Parallel()
	m := newMachine("")
	if to, err := Unplanned(t.Context(), m, 0, []int{1, 2}, "new", "h"); err != nil || to != 1 {
		t.Errorf("node-%d, %v", to, err)
	}
	m = newMachine("")
	m.engines[2].ID = "new"
	if to, err := Unplanned(t.Context(), m, 0, []int{1, 2}, "new", "h"); err != nil || to != 2 {
		t.Errorf("node-2 has followed: node-%d, %v", to, err)
	}
}

func TestUnplannedFailoverKillsNobodyInVain(t *testing.T) {
	t.Parallel()
	m := newMachine("")
	m.engines[1].ID, m.engines[2].ID = "x", "y"
	if _, err := Unplanned(t.Context(), m, 0, []int{1, 2}, "h"); !errors.Is(err, ErrNoReplica) || len(m.steps) > 0 {
		t.Errorf("%v, %v", err, m.steps)
	}
}

func TestPlannedFailoverWhereAStepFails(t *testing.T) {
	t.Parallel()
	for _, failAt := range []string{"", "hold", "refuse writes", "promote", "serve"} {
		m := newMachine(failAt)
		_, err := Planned(t.Context(), m, 0, 1)
		if failAt == "" {
			if err != nil || m.served != 1 || m.held {
				t.Errorf("%v; clients are on node-%d, held: %v", err, m.served, m.held)
			}
			continue
		}
		takes := m.steps[len(m.steps)-2] == "take writes"
		if err == nil || m.served != 0 || m.held || m.engines[1].Primary || !takes {
			t.Errorf("%s fails: %v; clients are on node-%d, held: %v; node-1 %+v; %v", failAt, err, m.served, m.held, m.engines[1], m.steps)
		}
	}
	m := newMachine("")
	m.engines[1].Offset = 3 // it never catches up
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Planned(ctx, m, 0, 1); err == nil || m.served != 0 || m.held {
		t.Errorf("a replica that is behind: %v, clients are on node-%d", err, m.served)
	}
}

func TestPlannedFailoverKnowsHowFarReplicasAreBehind(t *testing.T) {
	t.Parallel()
	m := newMachine("")
	to, difference, err := PlannedCandidate("h", *m.engines[0], map[int]Observation{1: *m.engines[1], 2: *m.engines[2]})
	if to != 1 || difference != 1 || err != nil {
		t.Errorf("node-%d, %d, %v", to, difference, err)
	}
	if _, _, err := PlannedCandidate("h", *m.engines[0], map[int]Observation{1: {Condition: Answering, ID: "h"}}); !errors.Is(err, ErrNoReplica) {
		t.Errorf("without a link: %v", err)
	}
}
