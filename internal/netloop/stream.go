package netloop

import "crypto/tls"

// Stream is one end of a connection, plain or with TLS over it. Where it has TLS, what is written is sealed at Flush, so that
// what was written for many purposes in one step is one record.
type Stream struct {
	Socket
	TLS      *tls.Conn // nil: plain
	unsealed []byte
	notified bool // close_notify was written
}

// Attach makes s the loop's end of a connection, which belongs to the loop from then on. s must not be moved afterwards: TLS
// reads from its Socket. Nothing is watched before Watch.
func (s *Stream) Attach(p *Poller, c Conn) {
	*s = Stream{Socket: Socket{fd: int32(c.FD), poller: p, in: c.Head}, TLS: c.TLS}
	if c.Transport != nil {
		c.Transport.socket = &s.Socket
	}
}

// Write implements io.Writer. Nothing is sent before Flush.
func (s *Stream) Write(b []byte) (int, error) {
	if s.TLS == nil {
		return s.Socket.Write(b)
	}
	s.unsealed = append(s.unsealed, b...)
	return len(b), nil
}

// Send is Write and Flush without a copy where nothing is pending.
func (s *Stream) Send(b []byte) error {
	if s.TLS == nil {
		return s.Socket.Send(b)
	}
	if len(s.unsealed) > 0 {
		s.unsealed = append(s.unsealed, b...)
	} else {
		_, _ = s.TLS.Write(b) // Flush reports it
	}
	return s.Flush()
}

// Pending is how much the peer has not taken yet.
func (s *Stream) Pending() int { return len(s.unsealed) + s.Socket.Pending() }

// Flush sends what the peer takes. What is left is to be flushed again at the next event: the poller tells when there is room.
func (s *Stream) Flush() error {
	if len(s.unsealed) > 0 {
		_, _ = s.TLS.Write(s.unsealed)
		if s.unsealed = s.unsealed[:0]; cap(s.unsealed) > ReadSize {
			s.unsealed = nil
		}
	}
	if s.shutdown && s.TLS != nil && !s.notified {
		s.notified = true
		_ = s.TLS.CloseWrite()
	}
	return s.Socket.Flush()
}

// Read returns as much as there is and fits. It never waits; an error may come together with bytes, ErrAgain too.
//
// With TLS it goes on after a record, because a caller that takes many records in one call answers them in one write. It stops
// where the socket is known to be empty and crypto/tls to hold nothing: asking once more would only bring ErrAgain, and
// crypto/tls allocates for each look at a record, also where there is none.
func (s *Stream) Read(b []byte) (int, error) {
	if s.TLS == nil {
		if len(s.in) > 0 {
			return s.Socket.Read(b)
		}
		return s.readInto(b)
	}
	total := 0
	for total < len(b) {
		n, err := s.TLS.Read(b[total:])
		total += n
		if err != nil {
			return total, err
		}
		if total < len(b) && s.empty() && holdsNoInput(s.TLS) {
			return total, ErrAgain
		}
	}
	return total, nil
}

// FreeIdle gives back what the stream needs only while it moves something, and returns how many bytes that were.
func (s *Stream) FreeIdle() int { return freeInput(s.TLS) }
