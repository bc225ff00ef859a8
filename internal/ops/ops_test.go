package ops_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealane/sealane/internal/ops"
)

func TestHandler(t *testing.T) {
	t.Parallel()
	notReady := errors.New("instances are still being looked at")
	ready := notReady
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "sealane_test_total", Help: "Of the test."})
	h, err := ops.Handler(ops.Config{Metrics: []prometheus.Collector{counter}, Ready: func() error { return ready }})
	if err != nil {
		t.Fatal(err)
	}
	want := func(path string, code int, text string) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != code || !strings.Contains(w.Body.String(), text) {
			t.Errorf("%s: %d %q; want %d and %q", path, w.Code, w.Body, code, text)
		}
	}
	want("/livez", 200, "ok")
	want("/readyz", 503, notReady.Error())
	ready = nil
	want("/readyz", 200, "ok")
	counter.Inc()
	want("/metrics", 200, "sealane_test_total 1")
	want("/metrics", 200, "go_goroutines")
	want("/debug/pprof/", 200, "goroutine")
	if _, err := ops.Handler(ops.Config{Metrics: []prometheus.Collector{counter, counter}}); err == nil {
		t.Error("two metrics of one name were accepted")
	}
}

func TestNotesAreShownByWhatIsReady(t *testing.T) {
	t.Parallel()
	h, err := ops.Handler(ops.Config{Notes: func() []string { return []string{"goes on with what it has"} }})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if got, want := w.Body.String(), "ok\nnote: goes on with what it has\n"; w.Code != 200 || got != want {
		t.Errorf("%d %q; want %q", w.Code, got, want)
	}
}

// A web page can make a browser post here, but not with a header of its own unless it is let.
func TestQuitIsOffUnlessAskedForAndNotForWebPages(t *testing.T) {
	t.Parallel()
	quits := 0
	for _, tc := range []struct {
		name, method, header string
		quit                 func()
		code, quits          int
	}{
		{"off", http.MethodPost, "1", nil, http.StatusNotFound, 0},
		{"without the header", http.MethodPost, "", func() { quits++ }, http.StatusForbidden, 0},
		{"by GET", http.MethodGet, "1", func() { quits++ }, http.StatusMethodNotAllowed, 0},
		{"on", http.MethodPost, "1", func() { quits++ }, http.StatusOK, 1},
	} {
		h, err := ops.Handler(ops.Config{Quit: tc.quit})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(tc.method, "/quit", nil)
		if tc.header != "" {
			r.Header.Set("X-Sealane-Quit", tc.header)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tc.code || quits != tc.quits {
			t.Errorf("%s: %d, quit %d times; want %d, %d", tc.name, w.Code, quits, tc.code, tc.quits)
		}
	}
}
