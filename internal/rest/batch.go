package rest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxBatch is how many calls a batch may have, as in the managed service.
const maxBatch = 100

// serveBatch serves several calls in one request: parts of multipart/mixed, each an HTTP request (cloud.google.com/storage/docs/batch
// describes the form). They are served one after another, as they come, so that the answers don't pile up. A call that has no
// Authorization of its own has the batch's.
func (f *front) serveBatch(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		writeEnvelope(w, http.StatusMethodNotAllowed, f.routingError(r, http.StatusMethodNotAllowed))
		return
	}
	if err := f.Authenticate(f.incoming(r)); err != nil {
		writeError(w, err)
		return
	}
	body, err := readBody(w, r)
	var parts []*batchPart
	if err == nil {
		parts, err = readBatch(r.Header.Get("Content-Type"), body)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	out := multipart.NewWriter(w)
	w.Header().Set("Content-Type", "multipart/mixed; boundary="+out.Boundary())
	w.WriteHeader(http.StatusOK)
	ctx := context.WithValue(r.Context(), isBatch{}, true)
	for _, part := range parts {
		answer := &batchAnswer{header: make(http.Header), code: http.StatusOK}
		f.serveCall(answer, part.request(ctx, r))
		header := textproto.MIMEHeader{"Content-Type": {"application/http"}}
		if part.id != "" {
			header.Set("Content-Id", "<response-"+strings.TrimPrefix(part.id, "<"))
		}
		if section, err := out.CreatePart(header); err != nil || answer.writeTo(section) != nil {
			return // the client has gone
		}
	}
	out.Close() // an error means that the client has gone
}

type isBatch struct{}

// InBatch says whether a call is one of a batch. Its answer should not wait for something, because the calls after it would wait too.
func InBatch(ctx context.Context) bool { return ctx.Value(isBatch{}) != nil }

// batchPart is one call of a batch.
type batchPart struct {
	id     string // its Content-ID
	method string
	target *url.URL
	header http.Header
	body   []byte
}

// request is the call as a request of the batch's caller.
func (p *batchPart) request(ctx context.Context, batch *http.Request) *http.Request {
	r := (&http.Request{
		Method: p.method, URL: p.target, Header: p.header, Host: batch.Host, RemoteAddr: batch.RemoteAddr,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(p.body)), ContentLength: int64(len(p.body)),
	}).WithContext(ctx)
	if r.Header.Get("Authorization") == "" {
		r.Header.Set("Authorization", batch.Header.Get("Authorization"))
	}
	return r
}

func readBatch(contentType string, body []byte) ([]*batchPart, error) {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "multipart/mixed" || params["boundary"] == "" {
		return nil, violation("content-type", fmt.Sprintf("content-type: %q: want multipart/mixed; boundary=…, whose parts are application/http", contentType))
	}
	var parts []*batchPart
	for reader := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		raw, err := reader.NextPart()
		if errors.Is(err, io.EOF) && len(parts) > 0 {
			return parts, nil
		}
		if err == nil && len(parts) == maxBatch {
			return nil, status.Errorf(codes.InvalidArgument, "the batch has more than %d calls: send several batches", maxBatch)
		}
		var part *batchPart
		if err == nil {
			part, err = readBatchPart(raw)
		}
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "call %d of the batch: %v", len(parts)+1, err)
		}
		parts = append(parts, part)
	}
}

// readBatchPart reads a request such as clients write into a batch: the version of HTTP may be missing, and so may the length of the
// body, which ends with the part.
func readBatchPart(raw *multipart.Part) (*batchPart, error) {
	in := textproto.NewReader(bufio.NewReader(raw))
	line, err := in.ReadLine()
	if err != nil {
		return nil, fmt.Errorf("read its first line: %w", err)
	}
	words := strings.Fields(line)
	if len(words) < 2 || len(words) > 3 {
		return nil, fmt.Errorf("%.100q is not the first line of a request: want for example GET /v1/projects/…", line)
	}
	target, err := url.ParseRequestURI(words[1])
	if err != nil {
		return nil, err
	}
	if target.Path == "/batch" || strings.HasPrefix(target.Path, "/batch/") {
		return nil, errors.New("a batch in a batch is not offered")
	}
	header, err := in.ReadMIMEHeader()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	body, err := io.ReadAll(in.R)
	if err != nil {
		return nil, err
	}
	if header == nil {
		header = make(textproto.MIMEHeader)
	}
	return &batchPart{
		id: raw.Header.Get("Content-Id"), method: words[0], header: http.Header(header), body: body,
		target: &url.URL{Path: target.Path, RawPath: target.RawPath, RawQuery: target.RawQuery},
	}, nil
}

// batchAnswer is the answer to one call of a batch.
type batchAnswer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *batchAnswer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *batchAnswer) WriteHeader(code int) { a.code = code }

// Write implements http.ResponseWriter.
func (a *batchAnswer) Write(p []byte) (int, error) { return a.body.Write(p) }

// writeTo writes it as HTTP.
func (a *batchAnswer) writeTo(w io.Writer) error {
	return (&http.Response{
		StatusCode: a.code, ProtoMajor: 1, ProtoMinor: 1, Header: a.header,
		Body: io.NopCloser(&a.body), ContentLength: int64(a.body.Len()),
	}).Write(w)
}
