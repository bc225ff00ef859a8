package ops

import (
	"net/http"
	"time"
)

// What one caller of an HTTP server may cost the process, before and after its headers are there. Callers are on the same machine or in the
// same network, and their requests are small.
const (
	// HeaderTimeout is how long a caller may take over the headers of a request.
	HeaderTimeout = 10 * time.Second
	// MaxHeaderBytes bounds the headers of a request. The largest that a client library sends are some hundreds of bytes.
	MaxHeaderBytes = 32 << 10

	requestTimeout = 30 * time.Second // for the whole request, its body included
	idleTimeout    = 2 * time.Minute  // between two requests of a connection
)

// NewServer returns an HTTP server with these bounds, for a handler of any kind. There is none on the time of an answer: a profile, or
// the end of a process that is waited for, takes as long as it takes.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: HeaderTimeout, ReadTimeout: requestTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: MaxHeaderBytes,
	}
}
