package routing

import (
	"bytes"

	"github.com/sealane/sealane/internal/resp"
)

const (
	// maxFlightBytes is how much is kept of the requests that a client has in flight.
	maxFlightBytes = 64 << 10
	// maxFlight is how many requests may be in flight and still be known one by one.
	maxFlight = 4096
)

// Flight keeps the requests that a client has in flight, as the client has made them, so that they can be asked again when their engine
// has ended. The zero value is ready to use.
type Flight struct {
	bytes []byte
	ends  []int // of each request in bytes; one with no bytes is not kept
	lost  bool  // some are missing, so that it is not known which is which

	trailed bool // something was sent behind the last one that is no request
}

// Add notes a request that is about to be sent; raw is nil for one that is not at hand. inFlight is how many have no reply yet.
func (f *Flight) Add(raw []byte, inFlight int) {
	f.trailed = false
	switch {
	case inFlight == 0:
		f.bytes, f.ends, f.lost = f.bytes[:0], f.ends[:0], false
	case f.lost:
		return
	case inFlight >= maxFlight:
		*f = Flight{lost: true}
		return
	case len(f.bytes)+len(raw) > maxFlightBytes, len(f.ends) >= 2*maxFlight:
		f.forget(len(f.ends) - inFlight)
	}
	if len(f.bytes)+len(raw) <= maxFlightBytes {
		f.bytes = append(f.bytes, raw...)
	}
	f.ends = append(f.ends, len(f.bytes))
}

// forget drops the first n requests, which have been answered, if that is worth the move of the others.
func (f *Flight) forget(n int) {
	if n <= 0 || n > len(f.ends) {
		return
	}
	at := f.ends[n-1]
	if at < maxFlightBytes/4 && n < maxFlight/2 {
		return
	}
	f.bytes = f.bytes[:copy(f.bytes, f.bytes[at:])]
	f.ends = f.ends[:copy(f.ends, f.ends[n:])]
	for i := range f.ends {
		f.ends[i] -= at
	}
}

// Trail is called when something is sent that is no request to the engine: an empty one.
func (f *Flight) Trail() { f.trailed = true }

// Trailed says that the last request is not what was sent last.
func (f *Flight) Trailed() bool { return f.trailed }

// Last returns the last n requests. Those that are not known are nil.
func (f *Flight) Last(n int) [][]byte {
	all := make([][]byte, n)
	if f.lost {
		return all
	}
	for i := range n {
		if k := len(f.ends) - n + i; k >= 0 {
			begin := 0
			if k > 0 {
				begin = f.ends[k-1]
			}
			if end := f.ends[k]; end > begin {
				all[i] = f.bytes[begin:end:end]
			}
		}
	}
	return all
}

// IsOf says whether a request is one of a command. A name that is not in the table is not looked at: only an engine knows it.
func IsOf(raw []byte, c *Command) bool {
	args := resp.Arguments(nil, raw)
	if len(args) == 0 {
		return false
	}
	var second []byte
	if len(args) > 1 {
		second = bytes.ToLower(args[1])
	}
	found := find(bytes.ToLower(args[0]), second).With(args)
	return found.Name == c.Name || found == Unknown && Named(c.Name) == Unknown
}
