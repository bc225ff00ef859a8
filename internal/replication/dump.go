// Package replication takes data out of an engine over its replication protocol, in which the engine gives out a snapshot of its data
// as an RDB file and then what changes: Link lets another engine copy them, and Dump reads the snapshot alone.
//
// Guaranteed: through a Link nobody but the process that it is for reaches the engine. A Dump that was read to io.EOF has all that the
// engine sent, which the engine itself says.
//
// Not guaranteed: that what a Dump has sent is a good RDB file; package rdb checks that.
package replication

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/resp"
)

const (
	// eofMarkSize is the length of the mark that ends a snapshot whose size isn't known before: 40 random characters.
	eofMarkSize = 40
	eofPrefix   = "$EOF:"
	maxHead     = 64 << 10
	dumpBuffer  = 1 << 20
	// stalledAfter is how long an engine may send nothing: by then its own patience with replicas (repl-timeout) has ended too.
	stalledAfter = 2 * time.Minute
)

// ErrCut says that the engine ended a snapshot before its end.
var ErrCut = errors.New("the engine ended the snapshot before its end")

// Dump is a snapshot of an engine's data, as an RDB file that is read while the engine writes it.
type Dump struct {
	src *bufio.Reader
	// mark ends the file where its size is not known; nil: left bytes are to come.
	mark []byte
	left int64
	done bool
}

// options are what an engine is told of who wants its snapshot (REPLCONF). One that doesn't know an option refuses it.
var options = []struct {
	name, value string
	needed      bool
}{
	{"capa", "eof", true},        // it may send a snapshot whose size it does not know. Without this it writes a file of its own first
	{"rdb-only", "1", false},     // what changes meanwhile is not wanted (from Redis 7.0 on); what older engines send of it is not read
	{"version", "99.0.0", false}, // Valkey 9 takes who says nothing for old: then it can't send fields of hashes that expire, and breaks off
}

// NewDump asks an engine for a snapshot, over a connection that is logged in as a user who may replicate and is of no other use
// afterwards. It returns when the engine begins to send, which may take as long as a snapshot that is under way. The end of ctx ends
// the wait only; whoever gives the Dump up closes the connection.
func NewDump(ctx context.Context, conn net.Conn) (*Dump, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	d, err := newDump(conn)
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return d, err
}

func newDump(conn net.Conn) (*Dump, error) {
	d := &Dump{src: bufio.NewReaderSize(impatient{conn}, dumpBuffer)}
	for _, option := range options {
		if _, err := conn.Write(resp.AppendCommand(nil, "REPLCONF", option.name, option.value)); err != nil {
			return nil, err
		}
		if line, err := d.line(); err != nil {
			return nil, err
		} else if line != "+OK" && option.needed {
			return nil, fmt.Errorf("the engine refuses REPLCONF %s %s: %w", option.name, option.value, resp.ReplyError(strings.TrimPrefix(line, "-")))
		}
	}
	if _, err := conn.Write(resp.AppendCommand(nil, "SYNC")); err != nil {
		return nil, err
	}
	line, err := d.line()
	switch {
	case err != nil:
		return nil, err
	case strings.HasPrefix(line, "-"):
		return nil, resp.ReplyError(line[1:])
	case strings.HasPrefix(line, eofPrefix):
		if d.mark = []byte(line[len(eofPrefix):]); len(d.mark) != eofMarkSize {
			return nil, fmt.Errorf("the engine announces its snapshot with %.80q", line)
		}
		return d, nil
	}
	if d.left, err = strconv.ParseInt(strings.TrimPrefix(line, "$"), 10, 64); err != nil || line[0] != '$' || d.left < 0 {
		return nil, fmt.Errorf("the engine announces its snapshot with %.80q", line)
	}
	return d, nil
}

// impatient is a connection on which something comes now and then: an engine that prepares a snapshot sends line ends.
type impatient struct{ net.Conn }

func (c impatient) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(stalledAfter)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// line reads one line that is not empty: while the snapshot is prepared the engine sends empty ones.
func (d *Dump) line() (string, error) {
	for read := 0; read < maxHead; {
		text, err := d.src.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrCut
			}
			return "", err
		}
		read += len(text)
		if text = bytes.TrimRight(text, "\r\n"); len(text) > 0 {
			return string(text), nil
		}
	}
	return "", fmt.Errorf("the engine sends no snapshot but %d bytes of line ends", maxHead)
}

// Size is how many bytes the file has; 0: not known, because the engine writes it while it is read.
func (d *Dump) Size() int64 {
	if d.mark == nil {
		return d.left
	}
	return 0
}

// Read reads the file. Its io.EOF says that the file is whole.
func (d *Dump) Read(p []byte) (int, error) {
	if d.done {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := d.read(p)
	if errors.Is(err, io.EOF) && !d.done {
		err = ErrCut
	}
	return n, err
}

func (d *Dump) read(p []byte) (int, error) {
	if d.mark == nil {
		if d.left == 0 {
			d.done = true
			return 0, io.EOF
		}
		n, err := d.src.Read(p[:min(int64(len(p)), d.left)])
		d.left -= int64(n)
		return n, err
	}
	// The mark may come in pieces. What could be its beginning is left in the buffer until more has come.
	if _, err := d.src.Peek(eofMarkSize); err != nil {
		return 0, err
	}
	have, _ := d.src.Peek(d.src.Buffered())
	if at := bytes.Index(have, d.mark); at == 0 {
		d.done = true
		return 0, io.EOF
	} else if at > 0 {
		have = have[:at]
	} else if have = have[:len(have)-eofMarkSize+1]; len(have) == 0 {
		return 0, io.ErrNoProgress // it can't be: there are as many bytes as the mark has
	}
	n := copy(p, have)
	d.src.Discard(n)
	return n, nil
}
