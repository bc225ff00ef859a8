// Package rdb checks an RDB file, the format of Redis's and Valkey's snapshots, while it streams by.
//
// Guaranteed: whoever has read a Reader to io.EOF has read a file that begins like an RDB file, ends with its end marker, and has the
// checksum that the engine wrote. Anything else is a *FormatError that says what the file is and what would be right. The memory that
// this takes is bounded.
//
// Not guaranteed: that an engine can load it. The values are not parsed, so a file that was wrong before its checksum was made, or that
// has types of a module, is for the engine to refuse. A file that was written with `rdbchecksum no` can only be checked for its end:
// Reader.Checksummed tells.
package rdb

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"time"
)

// Header is what the head of a file says of it. What it doesn't say is zero.
type Header struct {
	Valkey     bool      // the file begins with VALKEY, as from Valkey 9 on, and not with REDIS
	Version    int       // of the format
	Writer     string    // the engine that wrote it, such as "Redis 7.0.15"
	Created    time.Time // by the clock of its writer
	UsedMemory int64     // bytes that its writer took in memory
	AOF        bool      // it is the base of an AOF, or the beginning of one
}

// Format is the format and its version, such as "RDB version 12" or "Valkey RDB version 80".
func (h Header) Format() string {
	if h.Valkey {
		return fmt.Sprintf("Valkey RDB version %d", h.Version)
	}
	return fmt.Sprintf("RDB version %d", h.Version)
}

const (
	magicSize = 9 // "REDIS" and four digits, or "VALKEY" and three
	endMarker = 0xff
	// checksummedSince is the first version that ends with a checksum, after the end marker. Eight zeros mean that none was made.
	checksummedSince = 5
	checksumSize     = 8
	// headSize is how much of a file is looked at for the fields at its head.
	headSize = 64 << 10
)

// jones is the table of the CRC-64 that engines use. Unlike those of hash/crc64's own users it begins with 0 and is not inverted at the end.
var jones = crc64.MakeTable(0x95ac9329ac4bc9b5)

// updateChecksum undoes the inversions of crc64.Update.
func updateChecksum(sum uint64, p []byte) uint64 { return ^crc64.Update(^sum, jones, p) }

// Reader passes a file on as it is. In place of io.EOF it returns a *FormatError when the file turns out to be wrong.
type Reader struct {
	Header Header

	src  *bufio.Reader
	sum  uint64                 // over all bytes that were read, the checksum at the end included
	tail [checksumSize + 1]byte // the last bytes that were read: the end marker and the checksum
	size int64
	err  error // what ended it
}

// NewReader reads the head of a file. It returns a *FormatError when the file is no RDB file, and the error of r when that fails.
func NewReader(r io.Reader) (*Reader, error) {
	src := bufio.NewReaderSize(r, headSize)
	head, err := src.Peek(headSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	h, err := parseHeader(head)
	if err != nil {
		return nil, err
	}
	return &Reader{Header: h, src: src}, nil
}

// Read is for one goroutine at a time.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.src.Read(p)
	if n > 0 {
		r.add(p[:n])
	}
	if errors.Is(err, io.EOF) {
		if problem := r.atEnd(); problem != nil {
			err = problem
		}
	}
	r.err = err
	return n, err
}

// WriteTo is Read in large pieces: the table that makes the checksum fast is made anew for each piece.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	// Without the methods of the two ends io.CopyBuffer takes the buffer that it is given.
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 1<<20))
}

// Size is how many bytes were read.
func (r *Reader) Size() int64 { return r.size }

// Checksummed is whether the file has a checksum. It is known when the file has been read.
func (r *Reader) Checksummed() bool {
	return r.Header.Version >= checksummedSince && binary.LittleEndian.Uint64(r.tail[1:]) != 0
}

func (r *Reader) add(p []byte) {
	r.size += int64(len(p))
	r.sum = updateChecksum(r.sum, p)
	if len(p) >= len(r.tail) {
		copy(r.tail[:], p[len(p)-len(r.tail):])
		return
	}
	copy(r.tail[:], r.tail[len(p):])
	copy(r.tail[len(r.tail)-len(p):], p)
}

// atEnd says what is wrong with the file as a whole.
func (r *Reader) atEnd() error {
	if r.Header.Version < checksummedSince {
		if r.size <= magicSize || r.tail[len(r.tail)-1] != endMarker {
			return r.withoutEnd()
		}
		return nil
	}
	switch {
	case r.size < magicSize+int64(len(r.tail)) || r.tail[0] != endMarker:
		return r.withoutEnd()
	case !r.Checksummed():
		return nil
	case r.sum != 0: // the checksum over a text and its own checksum, the low byte first, is 0
		return &FormatError{Problem: Damaged, Text: fmt.Sprintf("the RDB file is damaged: its checksum is not that of its %d bytes", r.size),
			Hint: "compare it with the original, or export it once more; redis-check-rdb FILE says where it breaks"}
	}
	return nil
}

func (r *Reader) withoutEnd() error {
	if r.Header.AOF {
		return &FormatError{Problem: NotRDB, Text: "the file is an append-only file (AOF) that begins like an RDB file",
			Hint: "start an engine with it, and take the dump.rdb that its BGSAVE writes"}
	}
	return &FormatError{Problem: Truncated, Text: fmt.Sprintf("the RDB file has no end marker where it ends, after %d bytes: it was cut off, or something was added to it", r.size),
		Hint: "compare its size with the original's and copy it again; an engine that is still writing has not finished it"}
}

// Check reads a file to its end.
func Check(r io.Reader) (*Reader, error) {
	checked, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	if _, err := checked.WriteTo(io.Discard); err != nil {
		return nil, err
	}
	return checked, nil
}
