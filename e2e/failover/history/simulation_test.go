package history

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// simulation is a primary and a replica that behave as asynchronous replication allows. Each operation takes effect at a moment between
// its start and its end.
type simulation struct {
	r       *rand.Rand
	now     time.Duration
	values  map[string][]string // a list's elements; a register has one
	log     []effect            // what the replica may not have yet
	history History
}

type effect struct {
	op  int // its index in the history
	key string
	old []string
}

func (s *simulation) step() {
	client := s.r.IntN(6)
	start := s.now
	s.now += time.Duration(1+s.r.IntN(1000)) * time.Microsecond
	o := Op{Client: client, Start: start, End: s.now + time.Duration(s.r.IntN(3000))*time.Microsecond, Outcome: Done}
	o.Value = fmt.Sprint(client, ".", len(s.history.Ops))
	switch s.r.IntN(6) {
	case 0, 1:
		o.Kind, o.Key = Append, fmt.Sprint("l", client)
	case 2:
		o.Kind, o.Key = Set, fmt.Sprint("s", client)
	case 3:
		o.Kind, o.Key, o.Value = Get, fmt.Sprint("s", client), ""
	case 4:
		o.Kind, o.Key, o.Value = List, fmt.Sprint("l", client), ""
	default:
		o.Kind, o.Key = Swap, fmt.Sprint("x", s.r.IntN(2))
	}
	old := s.values[o.Key]
	if o.Kind != Append && o.Kind != Set {
		o.Read = slices.Clone(old)
	}
	if n := s.r.IntN(20); n == 0 {
		o.Outcome, o.Read = Unknown, nil
	} else if n == 1 && o.Value != "" {
		o.Outcome, o.Read = Refused, nil
	}
	if o.Value != "" && o.Outcome != Refused && (o.Outcome == Done || s.r.IntN(2) == 0) {
		s.log = append(s.log, effect{len(s.history.Ops), o.Key, old})
		if o.Kind == Append {
			s.values[o.Key] = append(slices.Clone(old), o.Value)
		} else {
			s.values[o.Key] = []string{o.Value}
		}
		if o.Outcome == Done && s.r.IntN(2) == 0 {
			o.Replicated, s.log = true, nil
		}
	}
	s.history.Ops = append(s.history.Ops, o)
	// A client has one operation at a time, and no other client is in the way of this one.
	s.now = max(s.now, o.End-time.Millisecond)
	for _, before := range s.history.Ops {
		if before.Client == client {
			s.now = max(s.now, before.End)
		}
	}
}

// failover makes the replica, which has all but the end of the log, the primary.
func (s *simulation) failover() {
	start := s.now
	for keep := s.r.IntN(len(s.log) + 1); len(s.log) > keep; s.log = s.log[:len(s.log)-1] {
		e := s.log[len(s.log)-1]
		s.values[e.key] = e.old
	}
	s.log = nil
	s.now += 5 * time.Millisecond
	s.history.Failovers = append(s.history.Failovers, Failover{Start: start, End: s.now})
}

// readAll reads all keys, as the end of a run does.
func (s *simulation) readAll() {
	for _, key := range slices.Sorted(maps.Keys(s.values)) {
		o := Op{Client: 100, Kind: Get, Key: key, Start: s.now + 5*time.Millisecond, End: s.now + 6*time.Millisecond, Outcome: Done, Read: s.values[key]}
		if key[0] == 'l' {
			o.Kind = List
		}
		s.history.Ops = append(s.history.Ops, o)
		s.now = o.End
	}
}

func TestWhatAsynchronousReplicationDoesIsNoViolation(t *testing.T) {
	t.Parallel()
	losses := 0
	for seed := range uint64(60) {
		s := &simulation{r: rand.New(rand.NewPCG(seed, 1)), values: make(map[string][]string), history: History{MaxLag: time.Second}}
		for range 4 {
			for range 60 {
				s.step()
			}
			s.failover()
		}
		s.readAll()
		got := Check(s.history)
		for _, v := range got.Violations {
			t.Errorf("seed %d: %v", seed, v)
		}
		losses += len(got.Losses)
	}
	if losses < 60 {
		t.Errorf("got %d losses in 60 runs: the simulation shows little", losses)
	}
}
