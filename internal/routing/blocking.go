package routing

import "strconv"

// Commands for which the engine makes a client wait for something that others do. Where a client moves to another engine while it
// waits, the request is asked again there, with what is left of its timeout.

// timeout says where a blocking command has its timeout.
type timeout struct {
	at      int  // the argument's index; negative: counted from the end; 0: behind the word BLOCK
	seconds bool // in seconds, with a fraction; otherwise in milliseconds
}

// timeouts are those of all commands that can wait. VSIM and VADD with CAS compute meanwhile and are not among them, and neither are
// commands that keep the whole engine busy.
var timeouts = map[string]timeout{
	"blpop": {-1, true}, "brpop": {-1, true}, "brpoplpush": {-1, true}, "blmove": {-1, true}, "bzpopmin": {-1, true}, "bzpopmax": {-1, true},
	"blmpop": {1, true}, "bzmpop": {1, true},
	"wait": {2, false}, "waitaof": {3, false},
	"xread|block": {}, "xreadgroup|block": {},
}

// Waits says that the engine may keep the client waiting for what others do.
func (c *Command) Waits() bool { return c.timeout != nil }

// AfterWaiting returns the arguments of a request that has waited for so many nanoseconds, with what is left of its timeout. A timeout
// that is over by now becomes the shortest there is, because 0 means for ever.
func (c *Command) AfterWaiting(args []string, waited int64) []string {
	if c.timeout == nil {
		return args
	}
	at := c.timeout.at
	switch {
	case at < 0:
		at += len(args)
	case at == 0:
		at = blockOption(args)
	}
	if at < 1 || at >= len(args) {
		return args
	}
	left := timeLeft(args[at], c.timeout.seconds, waited)
	if left == args[at] {
		return args
	}
	after := append([]string(nil), args...)
	after[at] = left
	return after
}

// timeLeft is what is left of a timeout; "0" and what is no number stay as they are.
func timeLeft(timeout string, seconds bool, waited int64) string {
	if seconds {
		f, err := strconv.ParseFloat(timeout, 64)
		if err != nil || f <= 0 {
			return timeout
		}
		return strconv.FormatFloat(max(0.001, f-float64(waited)/1e9), 'f', 3, 64)
	}
	n, err := strconv.ParseInt(timeout, 10, 64)
	if err != nil || n <= 0 {
		return timeout
	}
	return strconv.FormatInt(max(1, n-waited/1e6), 10)
}

// blockOption returns the index of BLOCK's value in XREAD and XREADGROUP; 0: there is none.
func blockOption(args []string) int {
	for i := 1; i < len(args); i++ {
		switch word := []byte(args[i]); {
		case is(word, "block"):
			return i + 1
		case is(word, "group"):
			i += 2
		case is(word, "count"), is(word, "claim"):
			i++
		case is(word, "streams"):
			return 0
		}
	}
	return 0
}
