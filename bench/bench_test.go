package main

import (
	"math"
	"testing"
	"time"
)

func TestParseCSV(t *testing.T) {
	const head = `"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"` + "\n"
	got, err := parseCSV(head + `"GET","23255.81","0.142","0.032","0.119","0.223","0.567","4.327"` + "\n")
	if want := (runResult{rate: 23255.81, p50: 0.119, p99: 0.567}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for name, text := range map[string]string{
		"nothing":          "",
		"old version":      `"GET","23255.81"` + "\n", // before 7.0 there was no line of names
		"names only":       head,
		"not a number":     head + `"GET","fast","0","0","0","0","0","0"` + "\n",
		"nothing was done": head + `"GET","0.00","0","0","0","0","0","0"` + "\n",
		"no percentiles":   "\"test\",\"rps\"\n\"GET\",\"5\"\n",
	} {
		if got, err := parseCSV(text); err == nil {
			t.Errorf("%s: got %+v, want an error", name, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 1 42 42 0 -1 4194560 100 0 0 0 150 25 9 9 20 0 4 0 100"
	// A program chooses its name: it may look like the fields that follow.
	for _, name := range []string{"(redis-server)", "(a b)", "(x) S 1 (y)"} {
		got, err := parseStat("42 " + name + rest)
		if want := 1750 * time.Millisecond; err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", name, got, err, want)
		}
	}
	for _, text := range []string{"", "42 (x) S 1 2", "42 (x) S 1 42 42 0 -1 4194560 100 0 0 0 a 25"} {
		if got, err := parseStat(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v): got %v, want %v", c.values, got, c.want)
		}
	}
}

// The cost of connecting must not be in the cost of an operation, nor its time in the rate.
func TestDifference(t *testing.T) {
	connecting := runResult{ops: 2000, cpu: time.Second, rate: 1000}                               // 2 s
	long := runResult{ops: 102_000, cpu: 2 * time.Second, rate: 102_000.0 / 4, p50: 1.5, p99: 2.5} // 4 s
	got := difference(connecting, long)
	if got.CPU != 10 || math.Abs(got.Rate-50_000) > 1 || got.P50 != 1.5 || got.P99 != 2.5 {
		t.Errorf("got %+v, want 10 µs, 50000 per second, 1.5 ms and 2.5 ms", got)
	}
}

func TestBars(t *testing.T) {
	get := newResult(load{name: "get-500", title: "get"})
	get.Samples["haproxy"] = []sample{{CPU: 20, Rate: 100}}
	get.Samples["native"] = []sample{{CPU: 8, Rate: 200}}
	get.Samples["sealane"] = []sample{{CPU: 9, Rate: 150}, {CPU: 90, Rate: 15}, {CPU: 12, Rate: 105}}
	r := &report{Targets: []string{"native", "haproxy", "sealane"}, Loads: []*result{get}}
	r.summarise()
	if got := get.VsNative["sealane"]; got != 1.5 {
		t.Errorf("against native: got %v, want 1.5", got)
	}
	if got := get.VsHAProxy["sealane"]; got != 0.6 {
		t.Errorf("against HAProxy: got %v, want 0.6", got)
	}
	// What wasn't measured has no verdict.
	if len(r.Bars) != 2 {
		t.Fatalf("got %d bars, want 2: %+v", len(r.Bars), r.Bars)
	}
	if !r.Bars[0].Met {
		t.Errorf("0.6 of at most 0.85: got missed, want met")
	}
	if r.Bars[1].Met {
		t.Errorf("1.05 of at least 1.1: got met, want missed")
	}
}
