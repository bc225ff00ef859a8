package relay

import "github.com/sealane/sealane/internal/resp"

// maxRetryBuffer is how much of a client's requests is kept to be asked again.
const maxRetryBuffer = 64 << 10

// retryBuffer keeps a client's requests that are in flight on a shared connection, so that they can be asked again over a
// dedicated one.
type retryBuffer struct {
	requests []byte // since nothing was in flight
	answered int    // of them
	unsafe   bool   // one of them must not be asked twice
	blocked  bool   // what is to be asked again waits until a long reply is over
}

// begin is called before a request is added.
func (r *retryBuffer) begin(inFlight int) {
	if inFlight == 0 {
		*r = retryBuffer{requests: r.requests[:0], blocked: r.blocked}
	}
}

func (r *retryBuffer) add(raw []byte) {
	if !r.unsafe {
		r.requests = append(r.requests, raw...)
	}
}

// full says that another request has to wait until all are answered.
func (r *retryBuffer) full(more int) bool { return !r.unsafe && len(r.requests)+more > maxRetryBuffer }

// unanswered returns the requests that are still to be answered.
func (r *retryBuffer) unanswered() []byte {
	var scan resp.CommandScanner
	left := r.requests
	for range r.answered {
		n, _, _ := scan.Next(left)
		left = left[n:]
	}
	return left
}

// canRetry says that all of the client's requests in flight on a shared connection may be asked twice.
func (s *Session) canRetry() bool { return !s.retry.unsafe && !s.state.PassingRest }

// retryInFlight takes the client's requests in flight back: they are the next that it asks.
func (s *Session) retryInFlight() {
	s.askAgain(append([]byte(nil), s.retry.unanswered()...))
}

// askAgain puts requests that are not in flight any more before all else that the client has said.
func (s *Session) askAgain(requests []byte) {
	in := &s.input
	replay := append(requests, in.buffer...)
	replay = append(replay, in.backlog...)
	replay = append(replay, in.replay...)
	in.discard()
	in.replay, in.passingHead, s.blockedOn = replay, false, nil
	in.scan = resp.CommandScanner{}
	s.state.NothingInFlight()
}
