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
	h, err := ops.Handler(ops.Config{Metrics: []prometheus.Collector{counter}, Ready: func() error { return ready }, Token: "right"})
	if err != nil {
		t.Fatal(err)
	}
	want := func(path string, code int, text string) {
		t.Helper()
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Authorization", "Bearer right")
		h.ServeHTTP(w, r)
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
	h.ServeHTTP(w, request(http.MethodGet, "/readyz"))
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
		r := request(tc.method, "/quit")
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

// request is one of a program on this machine.
func request(method, path string) *http.Request {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:7380"
	return r
}

// Whoever can connect may ask whether the process is well; what it does is for who has the token.
func TestMetricsAndProfilesWantTheToken(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name          string
		cfg           ops.Config
		authorization string
		metrics       int
		pprof         int
	}{
		{"none is shown", ops.Config{Token: "right"}, "", 401, 401},
		{"a wrong one", ops.Config{Token: "right"}, "Bearer wrong", 401, 401},
		{"an empty one", ops.Config{Token: "right"}, "Bearer ", 401, 401},
		{"by another scheme", ops.Config{Token: "right"}, "Basic right", 401, 401},
		{"the right one", ops.Config{Token: "right"}, "Bearer right", 200, 200},
		{"in small letters", ops.Config{Token: "right"}, "bearer right", 200, 200},
		{"there is none", ops.Config{TokenHint: "say --ops-token-file"}, "Bearer ", 403, 403},
		{"metrics are open", ops.Config{Token: "right", OpenMetrics: true}, "", 200, 401},
		{"metrics are open, and there is no token", ops.Config{OpenMetrics: true}, "Bearer ", 200, 403},
	} {
		h, err := ops.Handler(tc.cfg)
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]int{
			"/livez": 200, "/readyz": 200, "/metrics": tc.metrics, "/debug/pprof/": tc.pprof, "/debug/pprof/cmdline": tc.pprof, "/debug/pprof/heap": tc.pprof,
			"/debug/pprof/symbol": tc.pprof,
		} {
			r, w := request(http.MethodGet, path), httptest.NewRecorder()
			if tc.authorization != "" {
				r.Header.Set("Authorization", tc.authorization)
			}
			h.ServeHTTP(w, r)
			if w.Code != want || !strings.Contains(w.Body.String(), tc.cfg.TokenHint) && w.Code == 403 || strings.Contains(w.Body.String(), "right") {
				t.Errorf("%s: %s: %d %.80q; want %d", tc.name, path, w.Code, w.Body, want)
			}
		}
	}
}

// A browser sends what web pages want it to, also to loopback, and a name of theirs may lead here.
func TestWebPagesGetNoAnswer(t *testing.T) {
	t.Parallel()
	quits := 0
	h, err := ops.Handler(ops.Config{Quit: func() { quits++ }, OpenMetrics: true, Token: "right", Address: "ops.example.com:7380"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, host, header, value string
		want                      int
	}{
		{"a program", "127.0.0.1:7380", "", "", 200},
		{"a program, by IPv6", "[::1]:7380", "", "", 200},
		{"a kubelet, by the pod's address", "10.1.2.3:7380", "", "", 200},
		{"an address without a port", "127.0.0.1", "", "", 200},
		{"localhost", "LocalHost:7380", "", "", 200},
		{"the configured name", "ops.example.com:7380", "", "", 200},
		{"HTTP/1.0, which names no host", "", "", "", 200},
		{"a browser's address line", "127.0.0.1:7380", "Sec-Fetch-Site", "none", 200},
		{"another site's page", "127.0.0.1:7380", "Origin", "https://evil.example", 403},
		{"a sandboxed page", "127.0.0.1:7380", "Origin", "null", 403},
		{"another site's image", "127.0.0.1:7380", "Sec-Fetch-Site", "cross-site", 403},
		{"a page of another port", "127.0.0.1:7380", "Sec-Fetch-Site", "same-site", 403},
		{"a page whose name was made to lead here", "evil.example:7380", "", "", 403},
		{"a name like an address", "127.0.0.1.evil.example:7380", "", "", 403},
		{"a name like localhost", "localhost.evil.example", "", "", 403},
		{"Prometheus by name, with the token", "db1.example.com:7380", "Authorization", "Bearer right", 200},
		{"a page with the token", "127.0.0.1:7380", "Origin", "https://evil.example", 403},
	} {
		for _, path := range []string{"/readyz", "/livez", "/metrics", "/quit"} {
			r, w := request(http.MethodGet, path), httptest.NewRecorder()
			if path == "/quit" {
				r = request(http.MethodPost, path)
				r.Header.Set("X-Sealane-Quit", "1")
			}
			r.Host = tc.host
			if tc.header != "" {
				r.Header.Set(tc.header, tc.value)
			}
			before := quits
			h.ServeHTTP(w, r)
			if w.Code != tc.want || path == "/quit" && (quits > before) != (tc.want == 200) {
				t.Errorf("%s: %s: %d %q; want %d", tc.name, path, w.Code, w.Body, tc.want)
			}
		}
	}
}
