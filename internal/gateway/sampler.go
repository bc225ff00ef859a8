package gateway

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/durable"
)

// What became of samples. The set is closed.
const (
	sampleAccepted = "accepted"
	sampleRefused  = "refused" // with an alert that says that the certificate was the reason
	sampleFailed   = "failed"  // otherwise
)

// maxRefused is how many sources that failed are remembered; with more there is no sampling.
const maxRefused = 1024

// sampler decides who is presented the next certificate without asking for it. A source is noted as one that failed, on
// disk, before it is sampled, and struck off when it succeeded: so one that failed is never sampled again while the
// anchors are the same, whatever happens to this process, and no source twice at a time.
type sampler struct {
	file     string
	log      *slog.Logger
	now      func() time.Time
	outcomes tally

	mu      sync.Mutex // guards what follows
	hour    time.Time  // when the hour began of which used is
	used    int
	anchors []string // of the certificate that failed is about
	failed  map[netip.Addr]bool
}

// sampled is what is kept on disk.
type sampled struct {
	Hour    time.Time    `json:"hour"`
	Used    int          `json:"used"`
	Anchors []string     `json:"anchors"`
	Failed  []netip.Addr `json:"failed"`
}

func newSampler(dir string, log *slog.Logger) *sampler {
	s := &sampler{
		file: samplingFile(dir), log: log, now: time.Now, failed: make(map[netip.Addr]bool),
		outcomes: newTally([]string{sampleAccepted, sampleRefused, sampleFailed}),
	}
	data, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return s
	}
	var kept sampled
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	if err != nil {
		log.Warn("what is known of sampled clients cannot be read, no client is sampled in the next hour", "error", err)
		kept = sampled{Hour: s.now(), Used: MaxSamplesPerHour}
	}
	s.hour, s.used, s.anchors = kept.Hour, kept.Used, kept.Anchors
	for _, a := range kept.Failed {
		s.failed[a] = true
	}
	return s
}

// take says whether a source is to be sampled, and notes that it is: with which of the two chains doesn't matter.
func (s *sampler) take(from netip.Addr, next NextChain) bool {
	if rand.Float64()*100 >= next.Sampling.Percent {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.anchors, next.Anchors) {
		s.anchors = next.Anchors
		clear(s.failed)
	}
	now := s.now()
	if now.Before(s.hour) || now.Sub(s.hour) >= time.Hour {
		s.hour, s.used = now, 0
	}
	if s.used >= next.Sampling.PerHour || s.failed[from] || len(s.failed) >= maxRefused {
		return false
	}
	s.used++
	s.failed[from] = true
	if err := s.keep(); err != nil {
		delete(s.failed, from)
		s.log.Warn("client is not sampled, because it cannot be noted", "error", err)
		return false
	}
	return true
}

// ended notes what became of a sample.
func (s *sampler) ended(from netip.Addr, outcome string) {
	s.outcomes.Add(outcome)
	if outcome != sampleAccepted {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.failed, from)
	if err := s.keep(); err != nil {
		s.log.Warn("sampled client stays noted as one that failed", "error", err)
	}
}

// keep is called with mu held.
func (s *sampler) keep() error {
	failed := slices.SortedFunc(maps.Keys(s.failed), netip.Addr.Compare)
	data, err := json.Marshal(sampled{s.hour.UTC(), s.used, s.anchors, failed})
	if err != nil {
		return err
	}
	return durable.WriteFile(s.file, data, 0o600)
}
