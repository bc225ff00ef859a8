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

// The outcomes of samples.
const (
	sampleAccepted = "accepted"
	sampleRefused  = "refused" // with an alert that says that the certificate was the reason
	sampleFailed   = "failed"  // for any other reason
)

// maxFailedSources is how many sources that failed are remembered. With more, nobody is sampled.
const maxFailedSources = 1024

// sampler decides which clients are served the next certificate without asking for it. A source is noted as failed on disk before it
// is sampled, and taken off the list when the handshake has succeeded. So a source that failed is never sampled again while the anchors
// are the same, even if this process dies meanwhile, and no source is sampled twice at a time.
type sampler struct {
	file     string
	log      *slog.Logger
	now      func() time.Time
	outcomes tally

	mu      sync.Mutex // guards what follows
	hour    time.Time  // when the current hour began
	used    int        // samples in it
	anchors []string   // of the certificate that failed is about
	failed  map[netip.Addr]bool
}

// samplingState is what sampling.json holds.
type samplingState struct {
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
	var kept samplingState
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	if err != nil {
		log.Warn("what is known of sampled clients cannot be read, no client is sampled in the next hour", "error", err)
		kept = samplingState{Hour: s.now(), Used: MaxSamplesPerHour}
	}
	s.hour, s.used, s.anchors = kept.Hour, kept.Used, kept.Anchors
	for _, a := range kept.Failed {
		s.failed[a] = true
	}
	return s
}

// sample decides whether a source is sampled, and notes it if so. It does not matter with which of the two chains.
func (s *sampler) sample(from netip.Addr, next NextChain) bool {
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
	if s.used >= next.Sampling.PerHour || s.failed[from] || len(s.failed) >= maxFailedSources {
		return false
	}
	s.used++
	s.failed[from] = true
	if err := s.save(); err != nil {
		delete(s.failed, from)
		s.log.Warn("client is not sampled, because it cannot be noted", "error", err)
		return false
	}
	return true
}

// ended notes the outcome of a sample.
func (s *sampler) ended(from netip.Addr, outcome string) {
	s.outcomes.Add(outcome)
	if outcome != sampleAccepted {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.failed, from)
	if err := s.save(); err != nil {
		s.log.Warn("sampled client stays noted as one that failed", "error", err)
	}
}

// save is called with mu held.
func (s *sampler) save() error {
	failed := slices.SortedFunc(maps.Keys(s.failed), netip.Addr.Compare)
	data, err := json.Marshal(samplingState{s.hour.UTC(), s.used, s.anchors, failed})
	if err != nil {
		return err
	}
	return durable.WriteFile(s.file, data, 0o600)
}
