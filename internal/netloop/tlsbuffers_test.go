package netloop

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"unsafe"

	"github.com/sealane/sealane/internal/certtest"
)

// A Go release that renames the field would make connections hold their largest record again, without a word.
func TestFreeInputGivesTheBufferOfALargeRecordBack(t *testing.T) {
	t.Parallel()
	if !hasRawInput || !hasDecrypted {
		t.Fatal("crypto/tls has no fields rawInput and input of type bytes.Buffer and bytes.Reader any more: see whether it still keeps its input, and how")
	}
	near, far := net.Pipe()
	client := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certtest.SelfSigned(t, nil)}})
	t.Cleanup(func() { near.Close(); far.Close() })
	go client.Handshake()
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	raw := (*bytes.Buffer)(unsafe.Add(unsafe.Pointer(server), rawInput))
	exchange := func(size int) {
		sent := bytes.Repeat([]byte("v"), size)
		go client.Write(sent)
		got := make([]byte, size)
		if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes: %v", size, err)
		}
	}
	exchange(64 << 10)
	if raw.Cap() < 16<<10 {
		t.Fatalf("the buffer has %d bytes after a large record: freeing it is no use any more", raw.Cap())
	}
	freeInput(server)
	if raw.Cap() != 0 {
		t.Errorf("the buffer still has %d bytes", raw.Cap())
	}
	if r := (*bytes.Reader)(unsafe.Add(unsafe.Pointer(server), decrypted)); r.Size() != 0 {
		t.Errorf("the reader of what was decrypted still holds an array of %d bytes", r.Size())
	}
	exchange(10)
	exchange(64 << 10)
}

// Plaintext that waits in crypto/tls must not be lost with the buffer.
func TestFreeInputKeepsWhatWasNotRead(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	client := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certtest.SelfSigned(t, nil)}})
	t.Cleanup(func() { near.Close(); far.Close() })
	go client.Handshake()
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("0123456789"), 1000)
	go client.Write(sent)
	got := make([]byte, len(sent))
	for n := 0; n < len(got); {
		m, err := server.Read(got[n:min(n+7, len(got))])
		if err != nil {
			t.Fatal(err)
		}
		n += m
		freeInput(server)
	}
	if !bytes.Equal(got, sent) {
		t.Error("bytes were lost or changed")
	}
}
