package rdb

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
	"time"
)

// parseHeader reads the magic and the fields at the head, as far as head has them.
func parseHeader(head []byte) (Header, error) {
	h, ok := parseMagic(head)
	if !ok {
		return Header{}, foreign(head)
	}
	fields := head[magicSize:]
	for {
		key, value, rest, ok := nextAux(fields)
		if !ok {
			return h, nil
		}
		h.set(key, value)
		fields = rest
	}
}

// parseMagic reads "REDIS0011" or "VALKEY080".
func parseMagic(head []byte) (h Header, ok bool) {
	if len(head) < magicSize {
		return h, false
	}
	digits := head[len("REDIS"):magicSize]
	switch {
	case bytes.HasPrefix(head, []byte("VALKEY")):
		h.Valkey, digits = true, digits[1:]
	case !bytes.HasPrefix(head, []byte("REDIS")):
		return h, false
	}
	n, err := strconv.ParseUint(string(digits), 10, 16) // takes no sign
	h.Version = int(n)
	return h, err == nil && n > 0
}

// set takes over the fields that are of use. A value that makes no sense counts as none.
func (h *Header) set(key, value string) {
	switch key {
	case "redis-ver", "valkey-ver":
		if len(value) > 32 || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return // it would be shown
		}
		h.Writer = map[string]string{"redis-ver": "Redis ", "valkey-ver": "Valkey "}[key] + value
	case "ctime":
		if n, err := strconv.ParseUint(value, 10, 40); err == nil {
			h.Created = time.Unix(int64(n), 0).UTC()
		}
	case "used-mem":
		if n, err := strconv.ParseUint(value, 10, 63); err == nil {
			h.UsedMemory = int64(n)
		}
	case "aof-base", "aof-preamble":
		h.AOF = value == "1"
	}
}

// What a field and a length begin with.
const (
	auxOpcode      = 0xfa
	length32       = 0x80
	length64       = 0x81
	encodedInt8    = 0xc0
	encodedInt16   = 0xc1
	encodedInt32   = 0xc2
	lengthKindMask = 0xc0
)

// nextAux takes one auxiliary field off p. It is not ok where something else comes, or p ends within the field.
func nextAux(p []byte) (key, value string, rest []byte, ok bool) {
	if len(p) == 0 || p[0] != auxOpcode {
		return "", "", nil, false
	}
	if key, p, ok = nextString(p[1:]); !ok {
		return "", "", nil, false
	}
	value, rest, ok = nextString(p)
	return key, value, rest, ok
}

// nextString takes a string, or an integer that stands for its decimal digits, off p. No engine compresses strings that are as short as
// those of the fields, so compressed ones are not read.
func nextString(p []byte) (s string, rest []byte, ok bool) {
	if len(p) == 0 {
		return "", nil, false
	}
	kind, p := p[0], p[1:]
	var n uint64
	switch {
	case kind == encodedInt8 && len(p) >= 1:
		return strconv.Itoa(int(int8(p[0]))), p[1:], true
	case kind == encodedInt16 && len(p) >= 2:
		return strconv.Itoa(int(int16(binary.LittleEndian.Uint16(p)))), p[2:], true
	case kind == encodedInt32 && len(p) >= 4:
		return strconv.Itoa(int(int32(binary.LittleEndian.Uint32(p)))), p[4:], true
	case kind == length32 && len(p) >= 4:
		n, p = uint64(binary.BigEndian.Uint32(p)), p[4:]
	case kind == length64 && len(p) >= 8:
		n, p = binary.BigEndian.Uint64(p), p[8:]
	case kind&lengthKindMask == 0x00:
		n = uint64(kind)
	case kind&lengthKindMask == 0x40 && len(p) >= 1:
		n, p = uint64(kind&^lengthKindMask)<<8|uint64(p[0]), p[1:]
	default:
		return "", nil, false
	}
	if n > uint64(len(p)) {
		return "", nil, false
	}
	return string(p[:n]), p[n:], true
}
