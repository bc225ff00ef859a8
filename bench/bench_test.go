package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParseCSV(t *testing.T) {
	const head = `"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"` + "\n"
	got, err := parseCSV(head + `"GET","23255.81","0.142","0.032","0.119","0.223","0.567","4.327"` + "\n")
	if want := (summary{rate: 23255.81, p50: 0.119, p99: 0.567}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for name, text := range map[string]string{
		"nothing":          "",
		"old version":      `"GET","23255.81"` + "\n", // before 7.0 there is no line of names
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

func TestParseCalls(t *testing.T) {
	const text = "# Commandstats\r\ncmdstat_getdel:calls=7,usec=1\r\ncmdstat_get:calls=12345,usec=99,usec_per_call=0.5\r\n"
	for command, want := range map[string]int{"get": 12345, "getdel": 7, "set": 0} {
		if got, err := parseCalls(text, command); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", command, got, err, want)
		}
	}
	if got, err := parseCalls("cmdstat_get:calls=x,", "get"); err == nil {
		t.Errorf("not a number: got %d, want an error", got)
	}
}

func TestReadBulk(t *testing.T) {
	in := strings.NewReader("$3\r\na\nb\r\nrest")
	if got, err := readBulk(in); err != nil || got != "a\nb" || in.Len() != len("rest") {
		t.Errorf("got %q, %v and %d bytes left, want a\\nb and 4 left", got, err, in.Len())
	}
	for _, text := range []string{"", "$3\r\na", "-ERR no\r\n", "$-1\r\n", "$99999999999\r\n", strings.Repeat("$", 300)} {
		if got, err := readBulk(strings.NewReader(text)); err == nil {
			t.Errorf("%.20q: got %q, want an error", text, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 1 42 42 0 -1 4194560 100 0 0 0 150 25 9 9 20 0 4 0 100"
	// A program chooses its own name, which may look like the fields that follow.
	for _, name := range []string{"(redis-server)", "(a b)", "(x) S 1 (y)"} {
		user, system, err := parseStat("42 " + name + rest)
		if err != nil || user != 1500*time.Millisecond || system != 250*time.Millisecond {
			t.Errorf("%s: got %v, %v, %v, want 1.5s and 250ms", name, user, system, err)
		}
	}
	for _, text := range []string{"", "42 (x) S 1 2", "42 (x) S 1 42 42 0 -1 4194560 100 0 0 0 a 25"} {
		if user, system, err := parseStat(text); err == nil {
			t.Errorf("%q: got %v, %v, want an error", text, user, system)
		}
	}
}

func TestParseStatm(t *testing.T) {
	if got, err := parseStatm("5000 321 100 1 0 400 0\n"); err != nil || got != 321 {
		t.Errorf("got %d, %v, want 321", got, err)
	}
	if got, err := parseStatm("5000"); err == nil {
		t.Errorf("one field: got %d, want an error", got)
	}
}

// isSleeping says whether a process waits for something. One that only gets no CPU does not.
func isSleeping(t *testing.T, pid int) bool {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.HasPrefix(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" S "))
}

// The kernel's CPU clock of another process agrees with the two other ways to read its CPU time, also for threads that have
// ended.
func TestProcessClock(t *testing.T) {
	const script = `i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; read wait`
	cmd := exec.Command("sh", "-c", script)
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	var got time.Duration
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		// The state comes first: once the script waits in read, its clock doesn't move any more.
		waits := isSleeping(t, pid)
		if got, err = processClock(pid); err != nil {
			t.Fatal(err)
		}
		if waits && got > 5*time.Millisecond {
			break
		}
	}
	user, system, err := kernelPart([]int{pid})
	if err != nil {
		t.Fatal(err)
	}
	hold.Close()
	_ = cmd.Wait() // the read that it waits in ends with an error
	used := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	want := time.Duration(used.Utime.Nano() + used.Stime.Nano())
	if diff := (want - got).Abs(); diff > 10*time.Millisecond {
		t.Errorf("the clock says %v, getrusage %v", got, want)
	}
	if diff := (user + system - got).Abs(); diff > 3*tick {
		t.Errorf("the clock says %v, stat %v", got, user+system)
	}
	if got, err := processClock(pid); err == nil {
		t.Errorf("of a process that has ended: got %v, want an error", got)
	}
	if !alive([]int{os.Getpid()}) || alive([]int{os.Getpid(), pid}) {
		t.Errorf("alive: want true of this process and false of the ended one")
	}
}

func TestBuckets(t *testing.T) {
	last := -1
	for d := time.Duration(0); d < 2*maxRecorded; d += 1 + d/100 {
		b := bucketOf(d)
		if b < last || b >= bucketCount {
			t.Fatalf("%v is in bucket %d of %d, after %d", d, b, bucketCount, last)
		}
		if b > 0 && d <= maxRecorded && (d > topOf(b) || d <= topOf(b-1)) {
			t.Fatalf("%d is in bucket %d, which goes from %d to %d", d, b, topOf(b-1)+1, topOf(b))
		}
		if top := topOf(b); d <= maxRecorded && float64(top-d) > float64(d)/60 {
			t.Fatalf("%d is shown as %d", d, top)
		}
		last = b
	}
	if last != bucketCount-1 {
		t.Errorf("the longest duration is in bucket %d of %d", last, bucketCount)
	}
}

func TestHistogram(t *testing.T) {
	a, b := &histogram{}, &histogram{}
	if got := a.quantile(.99); got != 0 {
		t.Errorf("of nothing: got %v", got)
	}
	for i := range 990 {
		a.record(time.Duration(i+1) * time.Microsecond)
	}
	for range 10 {
		b.record(time.Second)
	}
	b.record(-time.Second) // as after a clock that went back
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	copied := &histogram{}
	if err := json.Unmarshal(text, copied); err != nil || *copied != *b {
		t.Fatalf("%s isn't what was written (%v)", text, err)
	}
	a.add(copied)
	for q, want := range map[float64]time.Duration{.5: 500 * time.Microsecond, .98: 980 * time.Microsecond, .999: time.Second, 1: time.Second} {
		if got := a.quantile(q); (got - want).Abs() > want/50 {
			t.Errorf("quantile %v: got %v, want %v", q, got, want)
		}
	}
	if err := json.Unmarshal([]byte(`{"buckets":[[999999,1]]}`), copied); err == nil {
		t.Errorf("a bucket that isn't there: want an error")
	}
}

func TestMedianAndSpread(t *testing.T) {
	for _, c := range []struct {
		values            []float64
		median, low, high float64
	}{{nil, 0, 0, 0}, {[]float64{3}, 3, 3, 3}, {[]float64{9, 1, 2}, 2, 1, 9}, {[]float64{4, 1, 3, 2}, 2.5, 1, 4}} {
		low, high := spread(c.values)
		if got := median(c.values); got != c.median || low != c.low || high != c.high {
			t.Errorf("%v: got %v, %v to %v, want %v, %v to %v", c.values, got, low, high, c.median, c.low, c.high)
		}
	}
}

// A late operation counts from the time at which it was due, also if it is never answered.
func TestSchedule(t *testing.T) {
	s := newSchedule(request{Rate: 1000, For: 30 * time.Millisecond})
	var n int
	s.run(t.Context(), func(i int) {
		if early := time.Until(s.due(i)); early > 0 {
			t.Errorf("operation %d came %v early", i, early)
		}
		n++
	})
	if n != 30 {
		t.Errorf("got %d operations, want 30", n)
	}
}

func TestBars(t *testing.T) {
	get := newResult(load{name: "get-500", title: "get"})
	get.Samples[haproxy] = []sample{{cpuPerOp: 20, opRate: 100}, {cpuPerOp: 20, opRate: 100}}
	get.Samples[native] = []sample{{cpuPerOp: 10, opRate: 200}}
	get.Samples[transparent] = []sample{{cpuPerOp: 9, opRate: 150}, {cpuPerOp: 90, opRate: 15}, {cpuPerOp: 12, opRate: 105}}
	r := &report{Targets: []facts{{Name: native}, {Name: haproxy}, {Name: transparent}, {Name: multiplexed, Problem: "no"}}, Loads: []*result{get}}
	r.summarise()
	find := func(path, part string) bar {
		for _, b := range r.Bars {
			if b.Path == path && strings.Contains(b.What, part) {
				return b
			}
		}
		t.Fatalf("there is no bar %q", part)
		return bar{}
	}
	if b := find(transparent, "500 clients: CPU"); b.Verdict != met || b.Got != 0.6 || b.Low != 0.45 || b.High != 4.5 {
		t.Errorf("CPU: got %+v, want 0.6 (0.45 to 4.5), met", b)
	}
	if b := find(transparent, "500 clients: throughput"); b.Verdict != missed || b.Got != 1.05 {
		t.Errorf("throughput: got %+v, want 1.05 of at least 1.1, missed", b)
	}
	if b := find(transparent, "idle connection"); b.Verdict != notMeasured || b.Why == "" {
		t.Errorf("memory: got %+v, want not measured, with a reason", b)
	}
	if b := find(multiplexed, "500 clients: CPU"); b.Verdict != notMeasured || !strings.Contains(b.Why, "did not start") {
		t.Errorf("multiplexed: got %+v, want not measured, because it did not start", b)
	}
}

// A bar is not met if too few handshakes arrived for a storm.
func TestWeakStorm(t *testing.T) {
	for name, c := range map[string]struct {
		sample
		want string
	}{
		"met":            {sample{p99Ratio: 1, offered: 10}, met},
		"weak":           {sample{p99Ratio: 1, offered: 5}, notMeasured},
		"weak, yet lost": {sample{p99Ratio: 3, offered: 5}, missed},
	} {
		l := newResult(load{name: "storm"})
		l.Samples[transparent] = []sample{c.sample}
		r := &report{Targets: []facts{{Name: transparent}}, Loads: []*result{l}}
		r.summarise()
		for _, b := range r.Bars {
			if b.Path == transparent && strings.Contains(b.What, "p99 of live traffic in a storm") && b.Verdict != c.want {
				t.Errorf("%s: got %+v, want %s", name, b, c.want)
			}
		}
	}
}

// Every bar names a load and figures that exist.
func TestRules(t *testing.T) {
	loads := names(loads(), loadName)
	for _, u := range rules() {
		for _, m := range []measured{u.got, u.of} {
			if m == (measured{}) {
				continue
			}
			found := false
			for _, l := range loads {
				found = found || l == m.load
			}
			if !found || u.limit == 0 {
				t.Errorf("%s: %+v, limit %v", u.what, m, u.limit)
			}
		}
	}
}

// Beside a neighbour the limit of a figure is 1.2 times the bare Redis's, or a fixed one if that is larger.
func TestNeighbourBars(t *testing.T) {
	for name, c := range map[string]struct {
		bare, got, limit float64
		want             string
	}{
		"less than the fixed one":   {10, 49, 50, met},
		"more than the fixed one":   {10, 51, 50, missed},
		"less than a part more":     {1000, 1199, 1200, met},
		"more than a part more":     {1000, 1201, 1200, missed},
		"the bare one shows little": {0.5, 3, 50, met},
	} {
		l := newResult(load{name: "unread"})
		l.Samples[plaintext] = []sample{{othersWorst: c.bare}}
		l.Samples[transparent] = []sample{{othersWorst: c.got}}
		r := &report{Targets: []facts{{Name: plaintext}, {Name: transparent}}, Loads: []*result{l}}
		r.summarise()
		found := false
		for _, b := range r.Bars {
			if b.Path != transparent || !strings.Contains(b.What, "others' worst ms") || b.Verdict == notMeasured {
				continue
			}
			found = true
			if b.Verdict != c.want || b.Limit != c.limit || b.Got != c.got {
				t.Errorf("%s: got %+v, want %v of %v, %s", name, b, c.got, c.limit, c.want)
			}
		}
		if !found {
			t.Errorf("%s: no bar was judged", name)
		}
	}
}

// Every neighbour gets all its bytes from a server that keeps them for it, and says what was wrong with another server.
func TestNeighbours(t *testing.T) {
	for name, c := range map[string]struct {
		request
		lies bool
		want string // part of the reason; empty: all is well
	}{
		"pipeline": {request: request{Kind: pipelineNeighbour, Bytes: 64, Replies: 5000}},
		"unread":   {request: request{Kind: unreadNeighbour, Bytes: 10_000, Replies: 20, For: 20 * time.Millisecond}},
		"slow":     {request: request{Kind: slowNeighbour, Bytes: 1 << 20, Replies: 1, For: 50 * time.Millisecond}},
		"large":    {request: request{Kind: largeNeighbour, Bytes: 1 << 20, Replies: 1}},
		"cut off":  {request: request{Kind: pipelineNeighbour, Bytes: 64, Replies: 5000}, lies: true, want: "reply 5000 of 5000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, server := tcpPair(t)
			go answerNeighbour(server, c.request, c.lies)
			c.Timeout = 10 * time.Second
			got, err := (&generator{conns: []net.Conn{client}}).neighbour(c.request)
			if err != nil || got.Sent != 1 || (got.Done == 1) != (c.want == "") || !strings.Contains(got.WhyFailed, c.want) {
				t.Errorf("got %+v, %v, want it to fail with %q", got, err, c.want)
			}
		})
	}
}

func tcpPair(t *testing.T) (client, server net.Conn) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp4", l.Addr().String()); err == nil {
		server, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// answerNeighbour reads all requests before it answers. If it lies, it ends in the middle of the last reply.
func answerNeighbour(conn net.Conn, r request, lies bool) {
	defer conn.Close()
	asked := r.Replies * len(neighbourGet())
	if r.Kind == largeNeighbour {
		asked += r.Bytes
	}
	if _, err := io.CopyN(io.Discard, conn, int64(asked)); err != nil {
		return
	}
	reply := fmt.Sprintf("$%d\r\n%s\r\n", r.Bytes, value(r.Bytes))
	for range r.Replies - 1 {
		_, _ = io.WriteString(conn, reply)
	}
	if lies {
		reply = reply[:len(reply)-10]
	}
	_, _ = io.WriteString(conn, reply)
	if r.Kind == largeNeighbour {
		_, _ = io.WriteString(conn, "+OK\r\n")
		_, _ = io.Copy(io.Discard, conn) // a close with unread input would reset the connection
	}
}

func TestParsePeak(t *testing.T) {
	if got, err := parsePeak("Name:\tx\nVmHWM:\t  12345 kB\nVmRSS:\t 9 kB\n"); err != nil || got != 12345 {
		t.Errorf("got %v, %v, want 12345", got, err)
	}
	for _, text := range []string{"", "VmRSS: 9 kB\n", "VmHWM: much\n"} {
		if got, err := parsePeak(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestReportSurvives(t *testing.T) {
	get := newResult(load{name: "get-50", title: "get <50>"})
	get.Samples[native] = []sample{{cpuPerOp: 10, opRate: 200}}
	get.Errors[haproxy] = "it isn't running any more"
	r := &report{Targets: []facts{{Name: native}, {Name: haproxy}}, Loads: []*result{get}, Interrupted: true}
	r.summarise()
	dir := t.TempDir()
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := readReport(dir + "/report.json")
	if err != nil {
		t.Fatal(err)
	}
	again.summarise()
	var a, b strings.Builder
	r.writeText(&a, true)
	again.writeText(&b, true)
	if a.String() != b.String() || !strings.Contains(a.String(), "failed") {
		t.Errorf("got\n%s\nafter reading it, was\n%s", b.String(), a.String())
	}
	html, _ := os.ReadFile(dir + "/report.html")
	if !strings.Contains(string(html), "Interrupted") || strings.Contains(string(html), "<50>") {
		t.Errorf("the page doesn't say that it is partial, or doesn't escape")
	}
}

// A decoy counts when the target has answered with its flight, and not when it has sent an alert.
func TestDecoys(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		want   int
	}{"server hello": {"\x16\x03\x03", 1}, "alert": {"\x15\x03\x03", 0}, "silence": {"", 0}} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan bool, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			first := make([]byte, 1)
			_, _ = io.ReadFull(conn, first)
			heard <- first[0] == 22
			_, _ = io.WriteString(conn, c.answer)
			_, _ = io.Copy(io.Discard, conn) // until the decoy hangs up
			conn.Close()
		}()
		d, err := newDecoys(request{Addr: l.Addr().String(), Timeout: 200 * time.Millisecond}, &tls.Config{ServerName: "x"}, 10)
		if err != nil {
			t.Fatal(err)
		}
		d.end = time.Now().Add(time.Minute)
		d.arrive(time.Now())
		if !<-heard {
			t.Errorf("%s: the target heard no ClientHello", name)
		}
		for d.open > 0 {
			d.collect(time.Now())
			time.Sleep(time.Millisecond)
		}
		if d.sent != 1 || d.answered != c.want {
			t.Errorf("%s: got %d of %d answered, want %d of 1", name, d.answered, d.sent, c.want)
		}
		d.close()
		l.Close()
	}
}
