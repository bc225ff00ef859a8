package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// The kinds of neighbour. Each asks for replies that are larger than all buffers on the way.
const (
	unreadNeighbour   = "unread"   // sends many GETs and reads nothing for a while
	slowNeighbour     = "slow"     // sends a GET and reads the reply slowly
	largeNeighbour    = "large"    // sends a GET and a SET in one write, and reads after that
	pipelineNeighbour = "pipeline" // sends many GETs, and reads after that
)

// slowRate is how many bytes a slow reader reads in a second.
const slowRate = 1 << 20

// neighbour uses the connections that "connect" has opened: first to prepare, so that the large values are there when
// it begins. A connection that did not get all its bytes in time has failed, which is no error.
func (g *generator) neighbour(r request) (response, error) {
	if r.Prepare {
		return response{}, g.prepareNeighbour(r)
	}
	start := time.Now()
	var all response
	var mu sync.Mutex // guards all
	var connections sync.WaitGroup
	for _, conn := range g.conns {
		conn.SetDeadline(start.Add(r.For + r.Timeout))
		connections.Go(func() {
			err := misbehave(conn, r, start)
			mu.Lock()
			defer mu.Unlock()
			all.Sent++
			if err == nil {
				all.Done++
				return
			}
			all.Failed++
			if all.WhyFailed == "" {
				all.WhyFailed = err.Error()
			}
		})
	}
	connections.Wait()
	all.Elapsed = time.Since(start)
	return all, nil
}

// neighbourKey has the value that neighbours ask for. It is long because a pipeline whose requests all fit into the
// kernel's buffers would show nothing.
var neighbourKey = "neighbour:" + strings.Repeat("k", 100)

// prepareNeighbour creates the value with a request that is small itself, so that the process in between does not grow by
// it.
func (g *generator) prepareNeighbour(r request) error {
	g.conns[0].SetDeadline(time.Now().Add(connectTimeout))
	return exchange(g.conns[0], fmt.Appendf(nil, "SETRANGE %s %d x\r\n", neighbourKey, r.Bytes-1), fmt.Appendf(nil, ":%d\r\n", r.Bytes))
}

func misbehave(conn net.Conn, r request, start time.Time) error {
	switch r.Kind {
	case unreadNeighbour:
		return writeAllFirst(conn, r, start.Add(r.For))
	case slowNeighbour:
		return readSlowly(conn, r, start.Add(r.For))
	case largeNeighbour:
		return writeLarge(conn, r)
	case pipelineNeighbour:
		return writeAllFirst(conn, r, start)
	}
	return fmt.Errorf("unknown neighbour %q", r.Kind)
}

func neighbourGet() []byte {
	return fmt.Appendf(nil, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(neighbourKey), neighbourKey)
}

// writeAllFirst reads nothing until the given time, and then everything.
func writeAllFirst(conn net.Conn, r request, until time.Time) error {
	if err := write(conn, bytes.Repeat(neighbourGet(), r.Replies)); err != nil {
		return err
	}
	time.Sleep(time.Until(until))
	in := bufio.NewReaderSize(conn, 64<<10)
	for i := range r.Replies {
		if err := skipValue(in, in, r.Bytes); err != nil {
			return fmt.Errorf("reply %d of %d: %w", i+1, r.Replies, err)
		}
	}
	return nil
}

// readSlowly reads at slowRate until the given time. Then it reads the rest as fast as it comes, which would take minutes at
// slowRate.
func readSlowly(conn net.Conn, r request, until time.Time) error {
	if err := write(conn, neighbourGet()); err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, 16<<10)
	return skipValue(in, &slowReader{in: in, start: time.Now(), until: until}, r.Bytes)
}

// slowReader reads at slowRate until the given time.
type slowReader struct {
	in           io.Reader
	start, until time.Time
	read         int
}

func (s *slowReader) Read(p []byte) (int, error) {
	due := s.start.Add(time.Duration(float64(s.read) / slowRate * float64(time.Second)))
	if due.After(s.until) {
		due = s.until
	}
	time.Sleep(time.Until(due))
	n, err := s.in.Read(p[:min(len(p), 16<<10)])
	s.read += n
	return n, err
}

func writeLarge(conn net.Conn, r request) error {
	const key = "neighbour:written"
	ask := append(neighbourGet(), fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(key), key, r.Bytes, value(r.Bytes))...)
	if err := write(conn, ask); err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, 64<<10)
	if err := skipValue(in, in, r.Bytes); err != nil {
		return fmt.Errorf("reply to GET: %w", err)
	}
	line, err := in.ReadString('\n')
	if err == nil && line != "+OK\r\n" {
		err = fmt.Errorf("the answer was %.80q", line)
	}
	if err != nil {
		return fmt.Errorf("reply to SET: %w", err)
	}
	return nil
}

// write sends everything before the first read.
func write(conn net.Conn, all []byte) error {
	n, err := conn.Write(all)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("only %d of %d bytes could be sent before the first reply was read: %w", n, len(all), err)
	}
	return err
}

// skipValue reads a bulk string of this many bytes. It takes the body from another reader over the same connection.
func skipValue(in *bufio.Reader, body io.Reader, size int) error {
	head, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("$%d\r\n", size); string(head) != want {
		return fmt.Errorf("the answer began with %.80q, want %q", head, want)
	}
	n, err := io.CopyN(io.Discard, body, int64(size))
	if err != nil {
		return fmt.Errorf("byte %d of %d: %w", n, size, err)
	}
	var end [2]byte
	if _, err := io.ReadFull(in, end[:]); err != nil || string(end[:]) != "\r\n" {
		return fmt.Errorf("the value ended with %q, %w", end, err)
	}
	return nil
}
