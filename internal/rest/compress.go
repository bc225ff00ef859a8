package rest

import (
	"compress/gzip"
	"net/http"
	"strings"
)

// minCompressed is the size from which answers are compressed. An AUTH string's answer is smaller, so its length tells nothing.
const minCompressed = 1 << 10

// compressing returns a writer that compresses an answer of some size, where the client says that it takes that. finish ends it.
func compressing(w http.ResponseWriter, r *http.Request) (_ http.ResponseWriter, finish func()) {
	w.Header().Add("Vary", "Accept-Encoding")
	if !acceptsGzip(r.Header.Values("Accept-Encoding")) {
		return w, func() {}
	}
	c := &compressor{ResponseWriter: w}
	return c, c.finish
}

func acceptsGzip(headers []string) bool {
	for part := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		coding, weight, _ := strings.Cut(part, ";")
		weight = strings.ReplaceAll(strings.TrimSpace(weight), " ", "")
		if coding = strings.ToLower(strings.TrimSpace(coding)); coding == "gzip" || coding == "x-gzip" {
			return strings.Trim(weight, "q=0.") != "" || weight == ""
		}
	}
	return false
}

// compressor decides by the first write, which for all but a batch is the whole answer.
type compressor struct {
	http.ResponseWriter
	code   int
	packed *gzip.Writer // nil: the answer is not compressed
	begun  bool
}

// WriteHeader implements http.ResponseWriter.
func (c *compressor) WriteHeader(code int) { c.code = code }

// Write implements http.ResponseWriter.
func (c *compressor) Write(p []byte) (int, error) {
	if !c.begun {
		c.begin(len(p) >= minCompressed)
	}
	if c.packed != nil {
		return c.packed.Write(p)
	}
	return c.ResponseWriter.Write(p)
}

func (c *compressor) begin(pack bool) {
	c.begun = true
	if pack {
		c.Header().Set("Content-Encoding", "gzip")
		c.packed = gzip.NewWriter(c.ResponseWriter)
	}
	if c.code != 0 {
		c.ResponseWriter.WriteHeader(c.code)
	}
}

func (c *compressor) finish() {
	if !c.begun {
		c.begin(false)
	}
	if c.packed != nil {
		c.packed.Close() // an error means that the client has gone
	}
}
