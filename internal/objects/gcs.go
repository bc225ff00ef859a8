package objects

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"cloud.google.com/go/auth"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	storage "google.golang.org/api/storage/v1"
	htransport "google.golang.org/api/transport/http"
)

// gcsBucket is a bucket at an endpoint with the JSON API of Google Cloud Storage.
type gcsBucket struct {
	Bucket
	name string
}

// service is for one operation.
func (g *gcsBucket) service(ctx context.Context) (*storage.Service, *http.Transport, error) {
	t, err := g.transport()
	if err != nil {
		return nil, nil, err
	}
	var opts []option.ClientOption
	switch {
	case g.Anonymous:
		opts = append(opts, option.WithoutAuthentication())
	case g.CredentialsFile != "":
		kind, err := credentialsType(g.CredentialsFile)
		if err != nil {
			return nil, nil, err
		}
		opts = append(opts, option.WithAuthCredentialsFile(kind, g.CredentialsFile), option.WithScopes(storage.DevstorageReadWriteScope))
	default:
		opts = append(opts, option.WithScopes(storage.DevstorageReadWriteScope))
	}
	// The credentials outlive a request's context: they fetch tokens for as long as the transfer takes.
	authenticated, err := htransport.NewTransport(context.WithoutCancel(ctx), t, opts...)
	if err != nil {
		return nil, nil, newError(CredentialsRejected, "", "the server has no credentials for Google Cloud Storage that it can use", "%s", hintCredentials).because(err)
	}
	opts = []option.ClientOption{option.WithHTTPClient(&http.Client{Transport: authenticated})}
	if g.Endpoint != "" {
		opts = append(opts, option.WithEndpoint(strings.TrimRight(g.Endpoint, "/")+"/storage/v1/"))
	}
	s, err := storage.NewService(ctx, opts...)
	if err != nil {
		return nil, nil, newError(Failed, "", "Google Cloud Storage can't be asked", "the server's log has the cause").because(err)
	}
	return s, t, nil
}

// credentialsType is what the library wants to know beforehand of a file of credentials.
func credentialsType(file string) (option.CredentialsType, error) {
	var head struct {
		Type string `json:"type"`
	}
	raw, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(raw, &head)
	}
	if err == nil && head.Type == "" {
		err = errors.New("no type")
	}
	if err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) || head.Type == "" && !os.IsNotExist(err) && !os.IsPermission(err) {
			err = fmt.Errorf("%s is not the JSON file of a service account", file) // json's errors can repeat what is in the file
		}
		return "", newError(CredentialsRejected, "", "the credentials of its bucket can't be read", "%s", hintCredentials).because(err)
	}
	return option.CredentialsType(head.Type), nil
}

func (g *gcsBucket) open(ctx context.Context, object string, offset int64, version string) (content, error) {
	s, t, err := g.service(ctx)
	if err != nil {
		return content{}, err
	}
	call := s.Objects.Get(g.name, object).Context(ctx)
	if offset > 0 {
		call.Header().Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	if version != "" {
		var generation int64
		if _, err := fmt.Sscan(version, &generation); err == nil {
			call.IfGenerationMatch(generation)
		}
	}
	res, err := call.Download()
	if err != nil {
		t.CloseIdleConnections()
		return content{}, g.error(err)
	}
	c, err := contentOf(res, offset, res.Header.Get("X-Goog-Generation"))
	if err != nil {
		res.Body.Close()
		t.CloseIdleConnections()
		return content{}, err
	}
	c.ReadCloser = closing{res.Body, t}
	return c, nil
}

// contentOf is an answer without its body.
func contentOf(res *http.Response, offset int64, version string) (content, error) {
	if offset > 0 && res.StatusCode != http.StatusPartialContent {
		return content{}, newError(Failed, "", "the connection broke, and its endpoint can't go on in the middle of an object", "try again")
	}
	c := content{version: version}
	if res.ContentLength > 0 {
		c.size = offset + res.ContentLength
	}
	if modified, err := http.ParseTime(res.Header.Get("Last-Modified")); err == nil {
		c.modified = modified
	}
	return c, nil
}

// put is a resumable upload, or for a small object a single request. Either way the object appears when all of it is there.
func (g *gcsBucket) put(ctx context.Context, object string, r io.Reader, size int64) error {
	s, t, err := g.service(ctx)
	if err != nil {
		return err
	}
	defer t.CloseIdleConnections()
	// By itself the library would go on until the context ends.
	var failed atomic.Int32
	retry := func(err error) bool {
		var answer *googleapi.Error
		status := 0
		if errors.As(err, &answer) {
			status = answer.Code
		}
		return !asSent(err) && transient(status, err) && failed.Add(1) < attempts
	}
	counted := &resets{r, &failed}
	_, err = s.Objects.Insert(g.name, &storage.Object{Name: object}).Context(ctx).WithRetry(nil, retry).
		Media(counted, googleapi.ContentType("application/octet-stream"), googleapi.ChunkSize(chunkSize), googleapi.EnableAutoChecksum(),
			googleapi.ChunkTransferTimeout(answerTimeout)).
		Do()
	return g.error(err)
}

// resets counts failures anew when more of the content is asked for, because what was sent before has arrived.
type resets struct {
	io.Reader
	failed *atomic.Int32
}

func (r *resets) Read(p []byte) (int, error) {
	r.failed.Store(0)
	return r.Reader.Read(p)
}

// prepare asks for the object that is to be written: whether the endpoint answers, takes the credentials and has the bucket.
func (g *gcsBucket) prepare(ctx context.Context, object string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	s, t, err := g.service(ctx)
	if err != nil {
		return err
	}
	defer t.CloseIdleConnections()
	for failed, pause := 1, firstPause; ; failed, pause = failed+1, 2*pause {
		_, err = s.Objects.List(g.name).Prefix(object).MaxResults(1).Fields("kind").Context(ctx).Do()
		err = g.error(err)
		var e *Error
		if errors.As(err, &e) && e.Kind == PermissionDenied {
			return nil // who may only write may not list
		}
		if e == nil || e.Kind != Unreachable || failed >= attempts || sleep(ctx, pause) != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// error classes an error of the library.
func (g *gcsBucket) error(err error) error {
	if err == nil || asSent(err) {
		return err
	}
	var answer *googleapi.Error
	var token *auth.Error
	switch {
	case errors.As(err, &answer):
		says := answer.Message
		var parsed *googleapi.Error
		// A download's error is not parsed by the library.
		if says == "" && errors.As(googleapi.CheckResponseWithBody(&http.Response{StatusCode: answer.Code}, []byte(answer.Body)), &parsed) {
			says = parsed.Message
		}
		return statusError(answer.Code, shown(says), err)
	case errors.As(err, &token):
		if token.Response != nil && transient(token.Response.StatusCode, nil) {
			return newError(Unreachable, "", "its endpoint for tokens can't be reached", "try again").because(err)
		}
		return newError(CredentialsRejected, "", "no token is given for the server's credentials", "%s", hintCredentials).because(err)
	}
	return g.networkError(err)
}
