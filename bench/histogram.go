package main

import (
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"time"
)

const (
	// Each power of two is divided into this many buckets, so a value is known to within 1.6 %.
	bucketsPerOctave = 64
	octaveBits       = 6
	maxRecorded      = 1<<37 - 1 // two minutes in ns; longer durations count as this one
	bucketCount      = (37-octaveBits-1)*bucketsPerOctave + 2*bucketsPerOctave
)

// histogram counts durations in fixed buckets, so that recording costs no memory and histograms can be added.
type histogram struct {
	counts [bucketCount]uint64
	n      uint64
	max    time.Duration
}

func bucketOf(d time.Duration) int {
	v := uint64(min(max(d, 0), maxRecorded))
	shift := max(0, bits.Len64(v)-octaveBits-1)
	return shift*bucketsPerOctave + int(v>>shift)
}

// topOf is the longest duration that belongs to the bucket.
func topOf(bucket int) time.Duration {
	shift := max(0, bucket/bucketsPerOctave-1)
	return time.Duration((bucket-shift*bucketsPerOctave+1)<<shift - 1)
}

func (h *histogram) record(d time.Duration) {
	h.counts[bucketOf(d)]++
	h.n++
	h.max = max(h.max, d)
}

// quantile is the duration that the share q of the recorded ones does not exceed; 0 if nothing was recorded.
func (h *histogram) quantile(q float64) time.Duration {
	rank := max(1, uint64(math.Ceil(q*float64(h.n))))
	var seen uint64
	for bucket, count := range h.counts {
		if seen += count; seen >= rank && count > 0 {
			return min(topOf(bucket), h.max)
		}
	}
	return h.max
}

func (h *histogram) ms(q float64) float64 { return float64(h.quantile(q)) / float64(time.Millisecond) }

// sparse is the form in which a histogram is sent from one process to another.
type sparse struct {
	Buckets [][2]uint64 `json:"buckets"` // bucket, count
	Max     int64       `json:"max"`
}

func (h *histogram) MarshalJSON() ([]byte, error) {
	s := sparse{Max: int64(h.max)}
	for bucket, count := range h.counts {
		if count > 0 {
			s.Buckets = append(s.Buckets, [2]uint64{uint64(bucket), count})
		}
	}
	return json.Marshal(s)
}

func (h *histogram) UnmarshalJSON(text []byte) error {
	var s sparse
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	*h = histogram{max: time.Duration(s.Max)}
	for _, b := range s.Buckets {
		if b[0] >= bucketCount {
			return fmt.Errorf("histogram bucket %d: there are %d", b[0], bucketCount)
		}
		h.counts[b[0]] = b[1]
		h.n += b[1]
	}
	return nil
}
