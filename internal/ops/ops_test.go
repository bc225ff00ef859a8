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
