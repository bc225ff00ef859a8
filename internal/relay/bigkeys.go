package relay

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// bigKeys remembers keys that had long values lately, so that clients don't meet them on a shared connection.
type bigKeys struct {
	seed  maphash.Seed
	until atomic.Int64 // Unix seconds: for how long there is one
	slots [1024]atomic.Uint64
}

// bigKeyTTL is for how long a key is taken to be big, in seconds.
const bigKeyTTL = 300

func (l *bigKeys) note(args [][]byte, now time.Time) {
	if len(args) < 2 {
		return
	}
	until := now.Unix() + bigKeyTTL
	h := maphash.Bytes(l.seed, args[1])
	l.slots[h%uint64(len(l.slots))].Store(h&^uint64(1<<32-1) | uint64(uint32(until)))
	l.until.Store(until)
}

// empty says that there is none.
func (l *bigKeys) empty(now time.Time) bool { return l.until.Load() <= now.Unix() }

// has says whether a request is about such a key. (Keys with the same hash cost their clients a connection.)
func (l *bigKeys) has(args [][]byte, now time.Time) bool {
	if len(args) < 2 {
		return false
	}
	h := maphash.Bytes(l.seed, args[1])
	v := l.slots[h%uint64(len(l.slots))].Load()
	return v>>32 == h>>32 && int64(uint32(v)) > now.Unix()
}

// isBigKey says whether a request is about a key that had a long value lately.
func (s *Session) isBigKey(raw []byte) bool {
	l := &s.loop.group.bigKeys
	return !l.empty(s.loop.now) && l.has(s.arguments(raw), s.loop.now)
}
