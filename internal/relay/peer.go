package relay

import "crypto/tls"

// peer is one side of the relay: a client, or an engine. Where it has TLS, what is written is sealed at the flush, so that
// the requests of many clients are one record.
type peer struct {
	socket
	tls      *tls.Conn
	unsealed []byte
	eof      bool // it has said all
	paused   bool // it is not read, because the other side takes nothing
	said     bool // that we end our direction, in TLS
}

// Write implements io.Writer. Nothing is sent before flush.
func (p *peer) Write(b []byte) (int, error) {
	if p.tls == nil {
		return p.socket.Write(b)
	}
	p.unsealed = append(p.unsealed, b...)
	return len(b), nil
}

// send is Write and flush without a copy where nothing is waiting.
func (p *peer) send(b []byte) error {
	if p.tls == nil {
		return p.socket.send(b)
	}
	if len(p.unsealed) > 0 {
		p.unsealed = append(p.unsealed, b...)
	} else {
		_, _ = p.tls.Write(b) // flush reports it
	}
	return p.flush()
}

// pending is how much the peer has not taken yet.
func (p *peer) pending() int { return len(p.unsealed) + p.socket.pending() }

// flush sends what it can. What is left goes when the kernel says that there is room.
func (p *peer) flush() error {
	if len(p.unsealed) > 0 {
		_, _ = p.tls.Write(p.unsealed)
		if p.unsealed = p.unsealed[:0]; cap(p.unsealed) > readSize {
			p.unsealed = nil
		}
	}
	if p.shutdown && p.tls != nil && !p.said {
		p.said = true
		_ = p.tls.CloseWrite()
	}
	return p.socket.flush()
}

// read returns as much as there is and fits.
func (p *peer) read(b []byte) (int, error) {
	if p.tls == nil {
		if len(p.in) > 0 {
			return p.socket.Read(b)
		}
		return p.readInto(b)
	}
	total := 0
	for total < len(b) {
		n, err := p.tls.Read(b[total:])
		total += n
		if err != nil {
			return total, err
		}
		// crypto/tls allocates for each look at a record, also where there is none.
		if total < len(b) && p.empty() && readAll(p.tls) {
			return total, errAgain
		}
	}
	return total, nil
}
