package relay

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"unsafe"
)

// rawInput finds the buffer in which crypto/tls keeps undecrypted input. It never shrinks (golang/go#43563): one 64 KiB
// value would hold 20 KiB and more for as long as the connection lives. Where the field is not what it was, nothing is
// freed, and nothing breaks.
var rawInput, hasRawInput = func() (uintptr, bool) {
	f, ok := reflect.TypeFor[tls.Conn]().FieldByName("rawInput")
	return f.Offset, ok && f.Type == reflect.TypeFor[bytes.Buffer]()
}()

// smallInput is what the buffer of a connection with small requests comes to by itself.
const smallInput = 2 << 10

// readAll says that t has nothing that a Read would give without reading from below. False where that isn't known.
func readAll(t *tls.Conn) bool {
	return hasRawInput && (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(t), rawInput)).Len() == 0
}

// freeInput gives the buffer back and returns its size. It is for the loop that owns the connection, while nothing is
// being read.
func freeInput(t *tls.Conn) int {
	if t == nil || !hasRawInput {
		return 0
	}
	b := (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(t), rawInput))
	// Decrypted bytes that were not read yet lie in the same array, but the reader over them keeps it alive.
	size := b.Cap()
	if b.Len() > 0 || size <= smallInput {
		return 0
	}
	*b = bytes.Buffer{}
	return size
}
