package netloop

// This file is unsafe surgery on crypto/tls: it finds two fields that the package keeps to itself, by reflection, and replaces
// them. Where a field is missing or has another type, nothing is done and nothing breaks; tlsbuffers_test.go fails then, so
// that a new Go release is noticed.

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// rawInput finds the buffer in which crypto/tls keeps undecrypted input. It never shrinks (golang/go#43563): one 64 KiB
// value would hold 20 KiB and more for as long as the connection lives.
var rawInput, hasRawInput = func() (uintptr, bool) {
	f, ok := reflect.TypeFor[tls.Conn]().FieldByName("rawInput")
	return f.Offset, ok && f.Type == reflect.TypeFor[bytes.Buffer]()
}()

// decrypted finds the reader over what was decrypted and not read yet. It lies in the array of rawInput, and keeps that alive.
var decrypted, hasDecrypted = func() (uintptr, bool) {
	f, ok := reflect.TypeFor[tls.Conn]().FieldByName("input")
	return f.Offset, ok && f.Type == reflect.TypeFor[bytes.Reader]()
}()

// smallInput is what the buffer of a connection with small requests comes to by itself.
const smallInput = 2 << 10

// holdsNoInput says that t has nothing that a Read would give without reading from below. It is false where that isn't known.
func holdsNoInput(t *tls.Conn) bool {
	return hasRawInput && (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(t), rawInput)).Len() == 0
}

// freeInput gives the buffer back and returns its size. It is for the loop that owns the connection, while nothing is
// being read. Both fields go together: the reader would keep the buffer's array alive.
func freeInput(t *tls.Conn) int {
	if t == nil || !hasRawInput || !hasDecrypted {
		return 0
	}
	b := (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(t), rawInput))
	r := (*bytes.Reader)(unsafe.Add(unsafe.Pointer(t), decrypted))
	size := b.Cap()
	if b.Len() > 0 || r.Len() > 0 || size <= smallInput {
		return 0
	}
	*b, *r = bytes.Buffer{}, bytes.Reader{}
	return size
}
