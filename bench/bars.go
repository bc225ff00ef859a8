package main

import (
	"fmt"
	"slices"
)

// measured names a figure, with its load and its target.
type measured struct {
	load   string
	target string
	figure figure
}

// rule is a limit of docs/performance.md: a figure, or its ratio to another one.
type rule struct {
	path   string
	what   string
	got    measured
	of     measured // what the figure is divided by; zero: the figure itself counts
	limit  float64
	atMost bool // the limit is an upper one; otherwise a lower one
	aim    bool // it is an aim beyond the bars, which is no failure when missed
	// orElse, if not zero, makes the figure itself count. Its limit is then the larger one of limit times the other figure and
	// orElse.
	orElse float64
}

// bar is a rule with its outcome.
type bar struct {
	Path    string  `json:"path"`
	What    string  `json:"what"`
	Limit   float64 `json:"limit"`
	AtMost  bool    `json:"at_most"` // otherwise at least
	Got     float64 `json:"got,omitempty"`
	Low     float64 `json:"low,omitempty"` // the lowest of the single rounds
	High    float64 `json:"high,omitempty"`
	Verdict string  `json:"verdict"` // met, missed, not measured
	Why     string  `json:"why,omitempty"`
	Aim     bool    `json:"aim,omitempty"`
}

const (
	met         = "met"
	missed      = "missed"
	notMeasured = "not measured"
)

// limits are the limits in which the two data paths differ.
type limits struct {
	cpuOf     string // the target with whose CPU and throughput the path is compared
	cpu       map[string]float64
	rate      float64
	residents float64
}

var (
	cpuRows    = []string{"get-50", "get-500", "get-2000", "pipeline", "set-1k", "get-16k"}
	pathLimits = map[string]limits{
		transparent: {haproxy, map[string]float64{
			"get-50": 0.85, "get-500": 0.85, "get-2000": 0.85, "pipeline": 0.85, "set-1k": 0.85, "get-16k": 0.85,
		}, 1.1, 10},
		multiplexed: {native, map[string]float64{
			"get-50": 1.15, "get-500": 0.95, "get-2000": 0.85, "pipeline": 1, "set-1k": 1.1, "get-16k": 1.1,
		}, 1.15, 8},
	}
)

func rules() []rule {
	titles := map[string]string{}
	for _, l := range loads() {
		titles[l.name] = l.title
	}
	var all []rule
	for _, path := range []string{multiplexed, transparent} {
		l := pathLimits[path]
		for _, name := range cpuRows {
			all = append(all, rule{path, titles[name] + ": CPU, of " + l.cpuOf, measured{name, path, cpuPerOp},
				measured{name, l.cpuOf, cpuPerOp}, l.cpu[name], true, false, 0})
		}
		all = append(all, rule{path, titles["get-500"] + ": throughput, of " + l.cpuOf, measured{"get-500", path, opRate},
			measured{"get-500", l.cpuOf, opRate}, l.rate, false, false, 0})
		all = append(all, sameRules(path, l.residents)...)
	}
	for _, name := range []string{"get-500", "get-2000"} {
		all = append(all, rule{multiplexed, "aim: " + titles[name] + ": CPU, of plaintext", measured{name, multiplexed, cpuPerOp},
			measured{name, plaintext, cpuPerOp}, 1, true, true, 0})
	}
	return slices.Concat(all, besideRules(), firstReplyRules(), neighbourRules())
}

// besideRules compare the sidecar with stunnel, which is what people run beside clients today.
func besideRules() []rule {
	of := func(what, load string, f figure, limit float64, atMost bool) rule {
		return rule{sidecar, what + ", of stunnel's", measured{load, sidecar, f}, measured{load, stunnelSide, f}, limit, atMost, false, 0}
	}
	return []rule{
		of("connect, PING and leave: per second", "visits", opRate, 10, false),
		of("GET 64 B, 50 clients: CPU of the process beside the client", "get-50", cpuPerOp, 0.35, true),
		of("GET 64 B, 500 clients: CPU of the process beside the client", "get-500", cpuPerOp, 0.35, true),
		of("KiB per idle connection", "memory", idleKiB, 0.15, true),
	}
}

// sameRules are the rules that are the same for both data paths.
func sameRules(path string, residents float64) []rule {
	full := measured{"handshake", path, cpuPerOp}
	nativeFull := measured{"handshake", native, cpuPerOp}
	return []rule{
		{path, "SET 16 KiB with Nagle on: throughput, of native", measured{"set-16k-nagle", path, opRate},
			measured{"set-16k-nagle", native, opRate}, 10, false, false, 0},
		{path, "full handshake, X25519: CPU, of native", full, nativeFull, 1.05, true, false, 0},
		{path, "full handshake, X25519MLKEM768: CPU, of native's X25519", measured{"handshake-mlkem", path, cpuPerOp},
			nativeFull, 1.35, true, false, 0},
		{path, "resumed handshake: CPU, of its own full one", measured{"handshake-resumed", path, cpuPerOp}, full, 0.5, true, false, 0},
		{path, "KiB per idle connection", measured{"memory", path, idleKiB}, measured{}, residents, true, false, 0},
		{path, "KiB per idle connection after a burst of 64 KiB values", measured{"memory", path, burstKiB}, measured{}, residents, true, false, 0},
		{path, "p99 of live traffic beside idle connections, of the quiet one", measured{"live-idle", path, p99Ratio}, measured{}, 1.2, true, false, 0},
		{path, "p99 of live traffic in a storm of handshakes, of the quiet one", measured{"storm", path, p99Ratio}, measured{}, 2, true, false, 0},
		{path, "handshakes done in the storm, of the capacity", measured{"storm", path, goodput}, measured{}, 0.8, false, false, 0},
	}
}

// judge compares a rule with what was measured.
func (r *report) judge(u rule) bar {
	b := bar{Path: u.path, What: u.what, Limit: u.limit, AtMost: u.atMost, Aim: u.aim, Verdict: notMeasured}
	got := r.values(u.got)
	if len(got) == 0 {
		b.Why = r.whyNot(u.got)
		return b
	}
	rounds := got
	b.Got = median(got)
	if u.of != (measured{}) {
		of := r.values(u.of)
		if median(of) == 0 {
			b.Got, b.Why = 0, r.whyNot(u.of)
			return b
		}
		if u.orElse > 0 {
			b.Limit = max(u.limit*median(of), u.orElse)
		} else {
			b.Got = median(got) / median(of)
			rounds = ratios(got, of)
		}
	}
	b.Low, b.High = spread(rounds)
	b.Verdict = missed
	if u.atMost && b.Got <= b.Limit || !u.atMost && b.Got >= b.Limit {
		b.Verdict = met
	}
	r.doubt(u, &b)
	return b
}

// doubt says what may have spoilt a figure, and checks whether enough handshakes arrived for a storm. A bar that is missed in a
// weak storm is missed in a strong one too.
func (r *report) doubt(u rule, b *bar) {
	if late := median(r.values(measured{u.got.load, u.got.target, lateWorst})); u.orElse > 0 && b.Verdict == missed && late > u.orElse/5 {
		b.Why = fmt.Sprintf("the generator itself was late by up to %s ms: the machine was busy", number(late))
	}
	arrived := r.values(measured{u.got.load, u.got.target, offered})
	if len(arrived) == 0 || median(arrived) >= 0.8*stormFactor {
		return
	}
	b.Why = fmt.Sprintf("only %s × the capacity arrived, not %d ×: the load had too little processor", number(median(arrived)), stormFactor)
	if b.Verdict == met {
		b.Verdict = notMeasured
	}
}

// whyNot says why a figure is missing.
func (r *report) whyNot(m measured) string {
	for _, f := range r.Targets {
		if f.Name == m.target && f.Problem != "" {
			return m.target + " did not start"
		}
	}
	l := r.load(m.load)
	for _, why := range []string{l.Notes[m.target], l.Errors[m.target]} {
		if why != "" {
			return fmt.Sprintf("%s: %s", m.target, why)
		}
	}
	return fmt.Sprintf("%s on %s was not run", m.load, m.target)
}

// ratios are the ratios of the single rounds.
func ratios(a, b []float64) []float64 {
	var out []float64
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

// limitText is the limit as the tables show it.
func (b bar) limitText() string {
	if b.AtMost {
		return "≤ " + number(b.Limit)
	}
	return "≥ " + number(b.Limit)
}

func (b bar) spreadText() string {
	if b.Verdict == notMeasured || b.Low == b.High {
		return ""
	}
	return number(b.Low) + "–" + number(b.High)
}
