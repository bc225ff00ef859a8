package resp_test

import (
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/resp"
)

// canonical are replies as servers write them; each must survive a round trip byte for byte.
var canonical = []struct {
	name, wire string
	want       resp.Value
}{
	{"simple", "+OK\r\n", resp.Value{Kind: resp.Simple, Str: "OK"}},
	{"empty simple", "+\r\n", resp.Value{Kind: resp.Simple}},
	{"error", "-ERR no\r\n", resp.Value{Kind: resp.Error, Str: "ERR no"}},
	{"integer", ":-42\r\n", resp.Value{Kind: resp.Integer, Int: -42}},
	{"bulk with CRLF inside", "$4\r\na\r\nb\r\n", resp.Value{Kind: resp.Bulk, Str: "a\r\nb"}},
	{"empty bulk", "$0\r\n\r\n", resp.Value{Kind: resp.Bulk}},
	{"null bulk", "$-1\r\n", resp.Value{Kind: resp.Bulk, IsNull: true}},
	{"array", "*2\r\n:1\r\n$1\r\na\r\n", resp.Value{Kind: resp.Array, Elems: []resp.Value{
		{Kind: resp.Integer, Int: 1}, {Kind: resp.Bulk, Str: "a"}}}},
	{"empty array", "*0\r\n", resp.Value{Kind: resp.Array}},
	{"null array", "*-1\r\n", resp.Value{Kind: resp.Array, IsNull: true}},
	{"null", "_\r\n", resp.Value{Kind: resp.Null, IsNull: true}},
	{"true", "#t\r\n", resp.Value{Kind: resp.Boolean, Int: 1}},
	{"false", "#f\r\n", resp.Value{Kind: resp.Boolean}},
	{"double", ",1.50e3\r\n", resp.Value{Kind: resp.Double, Str: "1.50e3"}},
	{"infinity", ",-inf\r\n", resp.Value{Kind: resp.Double, Str: "-inf"}},
	{"big number", "(-3492890328409238509324850943850943825024385\r\n",
		resp.Value{Kind: resp.BigNumber, Str: "-3492890328409238509324850943850943825024385"}},
	{"verbatim", "=6\r\ntxt:hi\r\n", resp.Value{Kind: resp.Verbatim, Str: "txt:hi"}},
	{"blob error", "!8\r\nERR\r\nbad\r\n", resp.Value{Kind: resp.BlobError, Str: "ERR\r\nbad"}},
	{"map", "%1\r\n+k\r\n%0\r\n", resp.Value{Kind: resp.Map, Elems: []resp.Value{
		{Kind: resp.Simple, Str: "k"}, {Kind: resp.Map}}}},
	{"set", "~1\r\n_\r\n", resp.Value{Kind: resp.Set, Elems: []resp.Value{{Kind: resp.Null, IsNull: true}}}},
	{"push", ">1\r\n+invalidate\r\n", resp.Value{Kind: resp.Push, Elems: []resp.Value{{Kind: resp.Simple, Str: "invalidate"}}}},
	{"attribute", "*1\r\n|1\r\n+ttl\r\n:9\r\n:7\r\n", resp.Value{Kind: resp.Array, Elems: []resp.Value{
		{Kind: resp.Integer, Int: 7, Attrs: []resp.Value{{Kind: resp.Simple, Str: "ttl"}, {Kind: resp.Integer, Int: 9}}}}}},
}

func TestCanonical(t *testing.T) {
	t.Parallel()
	for _, tt := range canonical {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, n, err := resp.ParseReply([]byte(tt.wire+"rest"), resp.Limits{})
			if err != nil || n != len(tt.wire) {
				t.Fatalf("got %d bytes, error %v; want %d bytes", n, err, len(tt.wire))
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if out := resp.Append([]byte("before"), got); string(out) != "before"+tt.wire {
				t.Errorf("re-encoded: got %q, want %q", out, tt.wire)
			}
			for i := range tt.wire {
				if _, _, err := resp.ParseReply([]byte(tt.wire[:i]), resp.Limits{}); !errors.Is(err, resp.ErrIncomplete) {
					t.Errorf("first %d bytes: got %v, want ErrIncomplete", i, err)
				}
			}
		})
	}
}

// broken are inputs that must be refused, each with the offset of what is wrong.
var broken = []struct {
	name, wire string
	offset     int
	reason     string
}{
	{"unknown kind", "?1\r\n", 0, "unknown kind"},
	{"line feed alone", "+OK\n", 3, "CRLF"},
	{"carriage return alone", "+OK\rx", 4, "CRLF"},
	{"integer", ":12a\r\n", 1, "64-bit integer"},
	{"integer too big", ":9223372036854775808\r\n", 1, "64-bit integer"},
	{"endless integer", ":" + strings.Repeat("1", 40), 1, "longer than 32"},
	{"negative length", "$-2\r\n", 1, "not a length"},
	{"signed length", "$+2\r\nab\r\n", 1, "not a length"},
	{"null map", "%-1\r\n", 1, "not a length"},
	{"streamed string", "$?\r\n", 1, "not a length"},
	{"bulk over the limit", "$9999999999\r\n", 1, "limit of 100"},
	{"length that overflows", "$99999999999999999999\r\n", 1, "not a length"},
	{"bulk longer than announced", "$1\r\nab\r\n", 5, "CRLF"},
	{"simple over the limit", "+" + strings.Repeat("x", 101), 1, "longer than 100"},
	{"array over the limit", "*11\r\n", 1, "limit of 10"},
	// Half of the count would overflow if it were doubled before the check.
	{"map over the limit", "%6\r\n", 1, "limit of 5"},
	{"map count near overflow", "%4611686018427387905\r\n", 1, "limit of 5"},
	// Each level is below the limit, all together are not.
	{"elements of all levels", "*6\r\n*6\r\n", 5, "limit of 4"},
	{"too deep", "*1\r\n*1\r\n*1\r\n*1\r\n", 12, "deeper than 3"},
	{"too deep by attributes", "|1\r\n|1\r\n|1\r\n|1\r\n", 12, "deeper than 3"},
	{"boolean", "#x\r\n", 1, "neither"},
	{"long boolean", "#true\r\n", 1, "longer than 1"},
	{"null with a value", "_x\r\n", 1, "null with"},
	{"hexadecimal double", ",0x1p4\r\n", 0, "not a double"},
	{"empty double", ",\r\n", 0, "not a double"},
	{"big number", "(12.5\r\n", 0, "not a big number"},
	{"sign alone", "(-\r\n", 0, "not a big number"},
	{"verbatim without format", "=3\r\nabc\r\n", 0, "verbatim"},
}

func TestBroken(t *testing.T) {
	t.Parallel()
	lim := resp.Limits{MaxBulk: 100, MaxElements: 10, MaxDepth: 3}
	for _, tt := range broken {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, n, err := resp.ParseReply([]byte(tt.wire), lim)
			var pe *resp.ProtocolError
			if !errors.As(err, &pe) {
				t.Fatalf("got %v, want a *ProtocolError", err)
			}
			if pe.Offset != tt.offset || !strings.Contains(pe.Reason, tt.reason) || n != 0 {
				t.Errorf("got %v (n=%d), want %q at %d", err, n, tt.reason, tt.offset)
			}
		})
	}
}

// An announced count or length must cost nothing until its bytes are there.
func TestAnnouncedSizeAllocatesNothing(t *testing.T) {
	for _, wire := range []string{"*1048576\r\n:1\r\n", "%524288\r\n", "$536870912\r\nabc", strings.Repeat("*1000\r\n", 100)} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, _, err := resp.ParseReply([]byte(wire), resp.Limits{}); !errors.Is(err, resp.ErrIncomplete) {
			t.Errorf("%.20q: got %v, want ErrIncomplete", wire, err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
			t.Errorf("%.20q: allocated %d bytes", wire, got)
		}
	}
}

func TestAppendCommand(t *testing.T) {
	t.Parallel()
	got := string(resp.AppendCommand(nil, "SET", "k\r\n", ""))
	if want := "*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$0\r\n\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A Value made by hand must not be able to break the framing.
func TestAppendKeepsFraming(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		v    resp.Value
		want string
	}{
		{"line breaks", resp.Value{Kind: resp.Error, Str: "ERR a\r\n+OK"}, "-ERR a  +OK\r\n"},
		{"half a map entry", resp.Value{Kind: resp.Map, Elems: make([]resp.Value, 3)}, "%1\r\n_\r\n_\r\n"},
		{"half an attribute", resp.Value{Attrs: make([]resp.Value, 1)}, "_\r\n"},
		{"zero", resp.Value{}, "_\r\n"},
		{"unknown kind", resp.Value{Kind: 'x'}, "_\r\n"},
	}
	for _, tt := range tests {
		if got := string(resp.Append(nil, tt.v)); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestDoubles(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"1.5": true, "-1.50e3": true, "inf": true, "+inf": true, "-inf": true, "nan": true, "-nan": true, "1e999": true,
		"x": false, "": false, "0x1p4": false, "Infinity": false, "1_000": false, "1e": false, "+nan": false,
	} {
		v, _, err := resp.ParseReply([]byte(","+s+"\r\n"), resp.Limits{})
		if want && (err != nil || v.Str != s) || !want && !errors.As(err, new(*resp.ProtocolError)) {
			t.Errorf("%q: %+v, %v", s, v, err)
		}
	}
}

// FuzzParseReply: no panic, the same outcome however the input is cut, and a re-encoded reply is a fixed point.
func FuzzParseReply(f *testing.F) {
	for _, tt := range canonical {
		f.Add([]byte(tt.wire))
	}
	for _, tt := range broken {
		f.Add([]byte(tt.wire))
	}
	f.Add([]byte("|0\r\n|1\r\n+a\r\n:+01\r\n$-1\r\n"))
	lim := resp.Limits{MaxBulk: 1000, MaxElements: 100, MaxDepth: 10}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, n, err := resp.ParseReply(b, lim)
		for i := range min(len(b), 300) {
			pv, pn, perr := resp.ParseReply(b[:i], lim)
			if errors.Is(perr, resp.ErrIncomplete) {
				if err == nil && i >= n {
					t.Fatalf("first %d bytes of %q: incomplete, want %d bytes", i, b, n)
				}
				continue
			}
			if pn != n || !reflect.DeepEqual(pv, v) || !reflect.DeepEqual(perr, err) {
				t.Fatalf("first %d bytes of %q: got %+v, %d, %v; want %+v, %d, %v", i, b, pv, pn, perr, v, n, err)
			}
		}
		if err != nil {
			return
		}
		out := resp.Append(nil, v)
		again, m, err := resp.ParseReply(out, lim)
		if err != nil || m != len(out) || !reflect.DeepEqual(again, v) {
			t.Fatalf("%q re-encoded as %q: got %+v, %d, %v; want %+v", b, out, again, m, err, v)
		}
	})
}

// FuzzAppend builds a canonical reply from the fuzzer's bytes and wants the very bytes back.
func FuzzAppend(f *testing.F) {
	f.Add([]byte("+-:$*_#,(=!%~>|"))
	f.Add([]byte("*\x03%\x02~\x01>\x00$\x05abcde"))
	f.Add([]byte{'|', 1, '+', '-', '*', 2, '$', 0, ':', 200})
	f.Fuzz(func(t *testing.T, b []byte) {
		wire := resp.Append(nil, build(&b, 0))
		got, n, err := resp.ParseReply(wire, resp.Limits{})
		if err != nil || n != len(wire) {
			t.Fatalf("%q: got %d bytes, %v", wire, n, err)
		}
		if out := resp.Append(nil, got); string(out) != string(wire) {
			t.Fatalf("got %q, want %q", out, wire)
		}
	})
}

// build takes its decisions from the front of b, so that the fuzzer can steer it.
func build(b *[]byte, depth int) resp.Value {
	next := func() byte {
		if len(*b) == 0 {
			return 0
		}
		c := (*b)[0]
		*b = (*b)[1:]
		return c
	}
	many := func(n int) (out []resp.Value) {
		for range n {
			out = append(out, build(b, depth+1))
		}
		return out
	}
	v := resp.Value{Kind: resp.Kind(next())}
	if v.Kind == resp.Attribute && depth < 20 {
		v.Attrs = many(2 * (1 + int(next()%2)))
		v.Kind = resp.Kind(next())
	}
	n := int(next())
	switch v.Kind {
	case resp.Integer, resp.Boolean:
		v.Int = int64(n) - 100
	case resp.Double:
		v.Str = []string{"0", "-1.25", "inf", "-inf", "nan", "1e9"}[n%6]
	case resp.BigNumber:
		v.Str = "-" + strings.Repeat("9", n+1)
	case resp.Array, resp.Set, resp.Push, resp.Map:
		if v.IsNull = v.Kind == resp.Array && n == 255; !v.IsNull && depth < 20 {
			v.Elems = many(2 * (n % 3))
		}
	default:
		n = min(n, len(*b))
		v.Str = string((*b)[:n])
		*b = (*b)[n:]
		if v.Kind == resp.Verbatim {
			v.Str = "mkd:" + v.Str
		}
	}
	return v
}
