package resp_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/resp"
)

// found is what a scanner says of a stream: where each item ends, and where it gave up (-1: nowhere).
type found struct {
	ends []int
	bad  int
}

// scanner is what both scanners are.
type scanner interface {
	Next(b []byte) (n int, done bool, err error)
}

// scan feeds b in pieces, whose lengths come from cuts in turn; 0 is all that is left.
func scan(t testing.TB, s scanner, b []byte, cuts []byte) found {
	t.Helper()
	f, at, turn := found{bad: -1}, 0, 0
	for at < len(b) {
		end := len(b)
		if turn < len(cuts) && cuts[turn] > 0 {
			end = min(end, at+int(cuts[turn]))
		}
		turn++
		for at < end {
			n, done, err := s.Next(b[at:end:end])
			if n < 0 || n > end-at {
				t.Fatalf("%q at %d: took %d of %d bytes", b, at, n, end-at)
			}
			at += n
			if err != nil {
				f.bad = at
				return f
			}
			if done {
				f.ends = append(f.ends, at)
			} else if at < end {
				t.Fatalf("%q at %d: neither the end of an item nor of the bytes", b, at)
			}
		}
	}
	return f
}

// sameEnds wants the same from every chunking. Where a scanner gives up may differ by the bytes it was given with it.
func sameEnds(t testing.TB, fresh func() scanner, b []byte, cuts []byte) found {
	t.Helper()
	whole := scan(t, fresh(), b, nil)
	for name, got := range map[string]found{
		"single bytes": scan(t, fresh(), b, bytes.Repeat([]byte{1}, len(b))),
		"the cuts":     scan(t, fresh(), b, cuts),
	} {
		if !slices.Equal(got.ends, whole.ends) || (got.bad < 0) != (whole.bad < 0) {
			t.Fatalf("%q by %s (%v): got %+v; want %+v", b, name, cuts, got, whole)
		}
	}
	return whole
}

func replies() scanner  { return new(resp.ReplyScanner) }
func requests() scanner { return new(resp.CommandScanner) }

func TestReplyScannerFindsTheEndOfEveryKind(t *testing.T) {
	t.Parallel()
	var all []byte
	var ends []int
	for _, tt := range canonical {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := sameEnds(t, replies, []byte(tt.wire+tt.wire), []byte{2, 3, 1})
			if want := []int{len(tt.wire), 2 * len(tt.wire)}; !slices.Equal(got.ends, want) || got.bad >= 0 {
				t.Errorf("got %+v; want ends %v", got, want)
			}
			var s resp.ReplyScanner
			if !s.Between() {
				t.Error("a fresh scanner is within a reply")
			}
			for i := range len(tt.wire) - 1 {
				if _, done, err := s.Next([]byte{tt.wire[i]}); done || err != nil || s.Between() || s.Kind() != resp.Kind(tt.wire[0]) {
					t.Fatalf("after %d bytes: done %t, error %v, between %t, kind %q", i+1, done, err, s.Between(), byte(s.Kind()))
				}
			}
		})
		all = append(all, tt.wire...)
		ends = append(ends, len(all))
	}
	if got := sameEnds(t, replies, all, []byte{7, 1, 30, 2}); !slices.Equal(got.ends, ends) {
		t.Errorf("all in a row: got %+v; want ends %v", got, ends)
	}
}

// What ends nowhere must not be taken for the end of somebody's reply.
func TestReplyScannerRefuses(t *testing.T) {
	t.Parallel()
	for name, wire := range map[string]string{
		"no kind":               "?1\r\n",
		"a line feed":           "\n",
		"no length":             "$\r\n",
		"a length with a sign":  "$+1\r\na\r\n",
		"a second null":         "$-2\r\n",
		"a minus alone":         "$-\r\n",
		"two minuses":           "$--1\r\n",
		"a minus within":        "$1-1\r\n",
		"a long length":         "$9999999999999999\r\n",
		"a nest that overflows": strings.Repeat("*999999999999999\r\n", 20),
		"a map that overflows":  "%999999999999999\r\n",
		"a streamed string":     "$?\r\n",
		"an element of no kind": "*2\r\n:1\r\nx\r\n",
		"letters in a count":    "*1a\r\n",
		"a return within":       "*\r1\r\n",
	} {
		if got := sameEnds(t, replies, []byte(wire), []byte{3}); got.bad < 0 || len(got.ends) > 0 {
			t.Errorf("%s: got %+v; want an error", name, got)
		}
	}
}

// FuzzReplyScanner: any chunking finds the same ends, and where ParseReply accepts a reply both agree on its end.
func FuzzReplyScanner(f *testing.F) {
	for _, tt := range canonical {
		f.Add([]byte(tt.wire+"+next\r\n"), []byte{1, 3})
	}
	for _, tt := range broken {
		f.Add([]byte(tt.wire), []byte{2})
	}
	f.Add([]byte("|0\r\n$0000000000000000000000003\r\nabc\r\n"), []byte{5})
	f.Fuzz(func(t *testing.T, b, cuts []byte) {
		got := sameEnds(t, replies, b, cuts)
		at := 0
		for i := 0; ; i++ {
			_, n, err := resp.ParseReply(b[at:], resp.Limits{MaxBulk: 1 << 20, MaxElements: 1000, MaxDepth: 20})
			if err != nil {
				return
			}
			if at += n; i >= len(got.ends) || got.ends[i] != at {
				t.Fatalf("%q: reply %d ends at %d for ParseReply; the scanner found %+v", b, i, at, got)
			}
		}
	})
}

// request is what the reference parser found.
type request struct {
	args   []string // nil: an empty request, which servers pass over
	inline bool
	end    int
}

// reference reads requests as redis does (networking.c: processInputBuffer, processMultibulkBuffer, processInlineBuffer).
// Where redis would not look at a byte (the LF of a CRLF) or refuse only if that comes in one read, it is as strict as
// can be: loose says that redis accepts here what it need not accept.
func reference(b []byte) (all []request, refused, loose bool) {
	at := 0
	for at < len(b) {
		if b[at] != '*' {
			r, n, ok, l := referenceLine(b[at:])
			loose = loose || l
			if !ok || n == 0 {
				return all, !ok, loose
			}
			at += n
			r.end = at
			all = append(all, r)
			continue
		}
		r, n, ok, l := referenceMultibulk(b[at:])
		loose = loose || l
		if !ok || n == 0 {
			return all, !ok, loose
		}
		at += n
		r.end = at
		all = append(all, r)
	}
	return all, false, loose
}

const inlineLimit = 64 << 10

func referenceLine(b []byte) (r request, n int, ok, loose bool) {
	text := b
	if i := bytes.IndexByte(text, 0); i >= 0 {
		text = text[:i] // strchr
		loose = true
	}
	i := bytes.IndexByte(text, '\n')
	if i < 0 {
		return r, 0, len(b) <= inlineLimit, loose
	}
	loose = loose && bytes.IndexByte(b, 0) < i || i >= inlineLimit
	line := strings.TrimSuffix(string(b[:i]), "\r")
	args, ok := splitArguments(line)
	return request{args: args, inline: true}, i + 1, ok, loose
}

// splitArguments is sdssplitargs.
func splitArguments(line string) (args []string, ok bool) {
	space := func(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }
	i := 0
	at := func(k int) byte {
		if i+k < len(line) {
			return line[i+k]
		}
		return 0
	}
	for {
		for i < len(line) && space(line[i]) {
			i++
		}
		if i >= len(line) {
			return args, true
		}
		var word []byte
		double, single, done := false, false, false
		for ; !done; i++ {
			c := at(0)
			switch {
			case double && c == '\\' && at(1) == 'x' && isHex(at(2)) && isHex(at(3)):
				v, _ := strconv.ParseUint(line[i+2:i+4], 16, 8)
				word = append(word, byte(v))
				i += 3
			case double && c == '\\' && at(1) != 0:
				i++
				word = append(word, map[byte]byte{'n': '\n', 'r': '\r', 't': '\t', 'b': '\b', 'a': '\a'}[line[i]])
				if word[len(word)-1] == 0 {
					word[len(word)-1] = line[i]
				}
			case single && c == '\\' && at(1) == '\'':
				i++
				word = append(word, '\'')
			case double && c == '"', single && c == '\'':
				if at(1) != 0 && !space(at(1)) {
					return nil, false
				}
				done = true
			case double || single:
				if i >= len(line) {
					return nil, false
				}
				word = append(word, c)
			case c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == 0:
				done = true
			case c == '"':
				double = true
			case c == '\'':
				single = true
			default:
				word = append(word, c)
			}
		}
		args = append(args, string(word))
	}
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// strictInteger is string2ll.
func strictInteger(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && strconv.FormatInt(n, 10) == s
}

func referenceMultibulk(b []byte) (r request, n int, ok, loose bool) {
	// number reads a line at at; end is 0 when it is not all there.
	number := func(at int, kind byte) (value int64, end int, ok, loose bool) {
		i := bytes.IndexByte(b[at:], '\r')
		if i < 0 {
			return 0, 0, len(b)-at <= inlineLimit, false
		}
		if at+i+1 >= len(b) {
			return 0, 0, true, false
		}
		if b[at] != kind {
			return 0, 0, false, false
		}
		value, ok = strictInteger(string(b[at+1 : at+i]))
		return value, at + i + 2, ok, b[at+i+1] != '\n'
	}
	count, at, ok, loose := number(0, '*')
	if !ok || at == 0 {
		return r, 0, ok, loose
	}
	if count > math.MaxInt32 {
		return r, 0, false, loose
	}
	for ; count > 0; count-- {
		length, end, ok, l := number(at, '$')
		loose = loose || l
		if !ok || end == 0 {
			return r, 0, ok, loose
		}
		if length < 0 || length > 512<<20 {
			return r, 0, false, loose
		}
		if int64(len(b)-end) < length+2 {
			return r, 0, true, loose
		}
		r.args = append(r.args, string(b[end:end+int(length)]))
		at = end + int(length) + 2
	}
	return r, at, true, loose
}

// agree compares the scanner with the reference. The scanner may refuse more, but never accept more, and what both accept
// ends at the same byte and has the same arguments.
func agree(t testing.TB, b []byte, got found) {
	t.Helper()
	want, refused, loose := reference(b)
	if len(got.ends) > len(want) {
		// A line with quotes that don't match is a whole request of nothing but an error.
		extra := b[0:got.ends[len(want)]]
		if len(want) > 0 {
			extra = b[want[len(want)-1].end:got.ends[len(want)]]
		}
		if extra[0] == '*' || resp.Arguments(nil, extra) != nil {
			t.Fatalf("%q: the scanner found %+v, redis %+v", b, got, want)
		}
		got.ends, got.bad = got.ends[:len(want)], 0
	}
	start := 0
	for i, end := range got.ends {
		if want[i].end != end {
			t.Fatalf("%q: request %d ends at %d; want %d", b, i, end, want[i].end)
		}
		args := resp.Arguments(nil, b[start:end])
		quoted := want[i].inline && bytes.ContainsAny(b[start:end], "\"'\\\x00\v\f")
		if !quoted && !slices.EqualFunc(args, want[i].args, func(a []byte, s string) bool { return string(a) == s }) {
			t.Fatalf("%q: request %d has the arguments %q; want %q", b, i, args, want[i].args)
		}
		start = end
	}
	if got.bad < 0 && len(got.ends) < len(want) {
		t.Fatalf("%q: the scanner found %+v, redis %+v", b, got, want)
	}
	if refused && !loose && got.bad < 0 {
		t.Fatalf("%q: redis refuses it, the scanner does not: %+v", b, got)
	}
}

func TestCommandScannerTakesWhatRedisTakes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 70<<10)
	for _, tt := range []struct {
		name, wire string
		ends       []int
		refused    bool
	}{
		{name: "an array", wire: "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", ends: []int{20}},
		{name: "no arguments", wire: "*0\r\n*1\r\n$4\r\nPING\r\n", ends: []int{4, 18}},
		{name: "fewer than none", wire: "*-1\r\n*-10\r\n", ends: []int{5, 11}},
		{name: "an empty argument", wire: "*1\r\n$0\r\n\r\n", ends: []int{10}},
		{name: "CRLF in an argument", wire: "*1\r\n$4\r\n\r\n\r\n\r\n", ends: []int{14}},
		{name: "another end of an argument", wire: "*1\r\n$1\r\nxyz*0\r\n", refused: true}, // only Valkey 9.1 minds
		{name: "CR without LF behind an argument", wire: "*1\r\n$1\r\nx\ry*0\r\n", refused: true},
		{name: "a long argument", wire: "*2\r\n$3\r\nGET\r\n$71680\r\n" + long + "\r\n", ends: []int{13 + 8 + 70<<10 + 2}},
		{name: "a line", wire: "PING\r\n", ends: []int{6}},
		{name: "a line without CR", wire: "PING\n\n", ends: []int{5, 6}},
		{name: "blanks", wire: "\r\n  \t\v\r\nPING\r\n", ends: []int{2, 8, 14}},
		{name: "an array behind blanks", wire: " *1\r\n", ends: []int{5}},
		{name: "the longest line", wire: long[:64<<10-1] + "\n", ends: []int{64 << 10}},
		{name: "a longer line", wire: long, refused: true},
		{name: "a zero byte in a line", wire: "SET k \x00\r\n", refused: true}, // strchr ends there: redis waits
		{name: "a plus", wire: "*+1\r\n", refused: true},
		{name: "a leading zero", wire: "*01\r\n", refused: true},
		{name: "minus zero", wire: "*-0\r\n", refused: true},
		{name: "a count without a number", wire: "*\r\n", refused: true},
		{name: "a count of letters", wire: "*a\r\n", refused: true},
		{name: "a blank in a count", wire: "*1 \r\n", refused: true},
		{name: "too many arguments", wire: "*2147483648\r\n", refused: true},
		{name: "the most arguments", wire: "*2147483647\r\n"},
		{name: "no bulk", wire: "*1\r\n:1\r\n", refused: true},
		{name: "a negative length", wire: "*1\r\n$-1\r\n", refused: true},
		{name: "a length with a zero", wire: "*1\r\n$03\r\nabc\r\n", refused: true},
		{name: "too long a string", wire: "*1\r\n$536870913\r\n", refused: true},
		{name: "the longest string", wire: "*1\r\n$536870912\r\n"},
		{name: "a number beyond all", wire: "*1\r\n$99999999999999999999\r\n", refused: true},
		{name: "CR without LF", wire: "*1\rx", refused: true}, // redis does not look at the LF; nobody sends that
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := []byte(tt.wire)
			got := sameEnds(t, requests, b, []byte{3, 1, 9})
			if !slices.Equal(got.ends, tt.ends) || (got.bad >= 0) != tt.refused {
				t.Errorf("got %+v; want ends %v, refused %t", got, tt.ends, tt.refused)
			}
			agree(t, b, got)
		})
	}
}

func TestCommandScannerKnowsWhatItReads(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args         []string
		name, second string
		longest      int
	}{
		{[]string{"GET", "Key"}, "get", "key", 3},
		{[]string{"cLIENT", "Reply", "OFF"}, "client", "reply", 6},
		{[]string{"PING"}, "ping", "", 4},
		{[]string{strings.Repeat("N", 24), strings.Repeat("S", 25)}, strings.Repeat("n", 24), "<nil>", 25},
		{[]string{strings.Repeat("N", 100000), ""}, "<nil>", "", 100000},
	} {
		wire := resp.AppendCommand(nil, tt.args...)
		for cut := range min(len(wire), 300) {
			var s resp.CommandScanner
			scan(t, &s, wire[:cut], nil)
			n, done, err := s.Next(wire[cut:])
			if !done || err != nil || n != len(wire)-cut {
				t.Fatalf("%.40q cut at %d: %d, %t, %v", wire, cut, n, done, err)
			}
			text := func(b []byte) string {
				if b == nil {
					return "<nil>"
				}
				return string(b)
			}
			if text(s.Name()) != tt.name || text(s.Second()) != tt.second || s.Args() != len(tt.args) ||
				s.Longest() != tt.longest || s.Size() != len(wire) || s.Inline() || !s.Named() {
				t.Fatalf("%.40q cut at %d: name %q, second %q, %d arguments, longest %d, size %d, inline %t, named %t", wire, cut,
					s.Name(), s.Second(), s.Args(), s.Longest(), s.Size(), s.Inline(), s.Named())
			}
		}
	}
}

// FuzzCommandScanner: any chunking finds the same ends, those that redis finds, and the arguments that it finds.
func FuzzCommandScanner(f *testing.F) {
	for _, wire := range []string{
		"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n", "*0\r\n\r\n*-1\r\nset k v\n", "*1\r\n$03\r\nabc\r\n", "*1\r\n$-1\r\n",
		"echo \"a\\x41\\n\" 'b\\''\r\n", "echo \"a\"b\r\n", "a\x00b\r\nPING\r\n", "a\vb c\fd\r\n", "*1\rx$1\ryab\r\n", "*1\r\n$1\r\nab", "*1\r\n$1\r\na\rb",
		"\xff\xc2\x85 \xe2\x80\x83x\r\n", "*3\r\n$0\r\n\r\n$2\r\n\r\n\r\n$1\r\n*\r\n*1\r\n", "*-0\r\n",
	} {
		f.Add([]byte(wire), []byte{1, 5, 2})
	}
	f.Fuzz(func(t *testing.T, b, cuts []byte) {
		agree(t, b, sameEnds(t, requests, b, cuts))
	})
}

// FuzzArguments: what was written comes back, however it is cut.
func FuzzArguments(f *testing.F) {
	f.Add("SET", "k", "v\r\n*1\r\n$1\r\n", []byte{3})
	f.Add("", "\x00", "$", []byte{1, 1, 1})
	f.Fuzz(func(t *testing.T, a, b, c string, cuts []byte) {
		wire := resp.AppendCommand(nil, a, b, c)
		got := sameEnds(t, requests, append(wire, wire...), cuts)
		if want := []int{len(wire), 2 * len(wire)}; !slices.Equal(got.ends, want) {
			t.Fatalf("%q: got %+v; want %v", wire, got, want)
		}
		args := resp.Arguments(nil, wire)
		if len(args) != 3 || string(args[0]) != a || string(args[1]) != b || string(args[2]) != c {
			t.Fatalf("%q: got %q", wire, args)
		}
	})
}

// pipeline are requests and replies of many kinds, about 64 KiB of each.
func pipeline() (requests, replies []byte) {
	for i := 0; len(requests) < 64<<10; i++ {
		requests = resp.AppendCommand(requests, "SET", "key:"+strconv.Itoa(i), strings.Repeat("v", i%100))
		requests = append(requests, "GET key\r\n"...)
	}
	for i := 0; len(replies) < 64<<10; i++ {
		replies = fmt.Appendf(replies, "+OK\r\n:%d\r\n$5\r\nhello\r\n*2\r\n$1\r\na\r\n_\r\n%%1\r\n+k\r\n,1.5\r\n", i)
	}
	return requests, replies
}

// scanAll counts the items of b, which comes in pieces of the size that the loops read.
func scanAll(s scanner, b []byte, piece int) (items int) {
	for at := 0; at < len(b); {
		end := min(len(b), at+piece)
		for at < end {
			n, done, err := s.Next(b[at:end])
			if err != nil {
				return -1
			}
			at += n
			if done {
				items++
			}
		}
	}
	return items
}

func TestScannersDoNotAllocate(t *testing.T) {
	asked, said := pipeline()
	var c resp.CommandScanner
	var r resp.ReplyScanner
	args := make([][]byte, 0, 8)
	one := resp.AppendCommand(nil, "SET", "key", "value")
	for name, f := range map[string]func(){
		"requests":  func() { scanAll(&c, asked, 1000) },
		"replies":   func() { scanAll(&r, said, 1000) },
		"arguments": func() { args = resp.Arguments(args[:0], one) },
	} {
		if n := testing.AllocsPerRun(20, f); n > 0 {
			t.Errorf("%s: %v allocations; want none", name, n)
		}
	}
}

func BenchmarkCommandScanner(b *testing.B) {
	asked, _ := pipeline()
	b.SetBytes(int64(len(asked)))
	b.ReportAllocs()
	var s resp.CommandScanner
	for b.Loop() {
		if scanAll(&s, asked, len(asked)) <= 0 {
			b.Fatal("the requests are no requests")
		}
	}
}

func BenchmarkReplyScanner(b *testing.B) {
	_, said := pipeline()
	b.SetBytes(int64(len(said)))
	b.ReportAllocs()
	var s resp.ReplyScanner
	for b.Loop() {
		if scanAll(&s, said, len(said)) <= 0 {
			b.Fatal("the replies are no replies")
		}
	}
}
