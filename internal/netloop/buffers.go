package netloop

import "sync"

// Buffers of what a peer has not taken yet come in two sizes. chunkSize holds what becomes of one full read, sealed;
// smallSize what most clients get in a step: for hundreds of them at a time the chunks would not stay in the cache.
const (
	chunkSize = 2 * ReadSize
	smallSize = 2 << 10
)

var (
	chunks = sync.Pool{New: func() any { b := make([]byte, 0, chunkSize); return &b }}
	smalls = sync.Pool{New: func() any { b := make([]byte, 0, smallSize); return &b }}
)

// recycle keeps a buffer for whoever needs one next. One that grew, or was made to measure, is for the collector.
func recycle(b *[]byte) {
	c := cap(*b)
	*b = (*b)[:0]
	switch {
	case c == smallSize:
		smalls.Put(b)
	case c >= chunkSize && c <= 2*chunkSize:
		chunks.Put(b)
	}
}
