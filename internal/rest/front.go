package rest

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// front is what all requests over REST pass before they are matched with a method: what HTTP clients of Google's APIs do beside it.
type front struct {
	*Config
	methods http.Handler
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.allowOrigin(w, r) {
		return // it was a preflight
	}
	w, finish := compressing(w, r)
	defer finish()
	if path := r.URL.Path; path == "/batch" || strings.HasPrefix(path, "/batch/") {
		f.serveBatch(w, r)
		return
	}
	f.serveCall(w, r)
}

// serveCall serves one call, be it a request or a part of a batch.
func (f *front) serveCall(w http.ResponseWriter, r *http.Request) {
	r, err := overrideMethod(r)
	if err == nil {
		err = f.notFound(r.URL.Path)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	f.methods.ServeHTTP(w, r)
}

// overridden are the methods that a client may mean when it sends POST.
var overridden = []string{http.MethodGet, http.MethodPatch, http.MethodPut, http.MethodDelete, http.MethodPost}

// overrideMethod turns a POST into what X-HTTP-Method-Override says. Python's client sends a GET whose URL would be long in that way,
// with the query as a form in the body.
func overrideMethod(r *http.Request) (*http.Request, error) {
	method := strings.ToUpper(r.Header.Get("X-HTTP-Method-Override"))
	if method == "" {
		return r, nil
	}
	if r.Method != http.MethodPost || !slices.Contains(overridden, method) {
		return nil, violation("x-http-method-override", fmt.Sprintf("x-http-method-override: %q of a %s: want POST with one of %s", method, r.Method, strings.Join(overridden, ", ")))
	}
	ctx := r.Context()
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/x-www-form-urlencoded" && method == http.MethodGet {
		ctx = context.WithValue(ctx, formIsQuery{}, true)
	}
	r = r.WithContext(ctx)
	r.Method = method
	return r, nil
}

// formIsQuery marks a request whose body is the query. The body is read like any other: once the caller's token was checked.
type formIsQuery struct{}

// queryOf is the request's query, with the form in its body where that belongs to it.
func queryOf(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	query := parseQuery(r.URL.RawQuery)
	if r.Context().Value(formIsQuery{}) == nil {
		return query, nil
	}
	form, err := readBody(w, r)
	if err != nil {
		return nil, err
	}
	for name, values := range parseQuery(string(form)) {
		query[name] = append(query[name], values...)
	}
	return query, nil
}

// notFound says what is wrong with a path that is nearly right.
func (c *Config) notFound(path string) error {
	if c.NotOffered != nil {
		if err := c.NotOffered(path); err != nil {
			return err
		}
	}
	if strings.HasPrefix(path, "/v1") && (strings.HasSuffix(path, "/") || strings.Contains(path, "//")) {
		return status.Errorf(codes.NotFound, "there is nothing at %s: a part of the path is empty; did you mean %s?", path, strings.TrimRight(emptyParts.ReplaceAllString(path, "/"), "/"))
	}
	return nil
}

var emptyParts = regexp.MustCompile(`//+`)
