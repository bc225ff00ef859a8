// Package ops is what an operator's tools ask a process: /metrics, /livez, /readyz and /debug/pprof. It is meant
// for loopback: it asks nobody who they are, and shows no secret.
package ops

import (
	"fmt"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is what the handler shows.
type Config struct {
	Metrics []prometheus.Collector
	Ready   func() error // nil: ready from the start; the error is shown to whoever asks
	// Notes, where given, are shown by /readyz to whoever should know something although all is ready.
	Notes func() []string
	// Quit, where given, is what POST /quit does. It wants the header X-Sealane-Quit, which no web page can send here unasked.
	Quit func()
}

// Handler returns the HTTP handler of a process. It fails when two metrics have the same name.
func Handler(cfg Config) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	for _, c := range append(cfg.Metrics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})) {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metric: %w", err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if cfg.Ready != nil {
			if err := cfg.Ready(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
		if cfg.Notes != nil {
			for _, n := range cfg.Notes() {
				fmt.Fprintln(w, "note:", n)
			}
		}
	})
	if cfg.Quit != nil {
		mux.HandleFunc("POST /quit", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Sealane-Quit") == "" {
				http.Error(w, "want the header X-Sealane-Quit", http.StatusForbidden)
				return
			}
			fmt.Fprintln(w, "ok")
			cfg.Quit()
		})
	}
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux, nil
}
