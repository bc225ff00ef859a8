// Package ops is what a process shows to operators and their tools, over HTTP. /livez and /readyz are for whoever can connect. /metrics
// and /debug/pprof want a bearer token, because every user of a machine can connect to its loopback addresses, and these two tell much
// about a process. No answer has a secret in it.
//
// No web page gets an answer, not even one whose name was made to lead here (DNS rebinding).
//
// NewServer has the bounds that all HTTP servers of Sealane share.
package ops

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is what the handler shows.
type Config struct {
	Metrics []prometheus.Collector
	Ready   func() error // nil: ready from the start; its error is shown to whoever asks
	// Notes are lines that /readyz shows when the process is ready, for what an operator should know all the same. Nil: there are none.
	Notes func() []string
	// Quit is what POST /quit does. The request must have the header X-Sealane-Quit, which a web page cannot add to a request for another
	// site without being allowed to. Nil: there is no /quit.
	Quit func()
	// Token is the bearer token for /metrics and /debug/pprof. "": nobody gets these.
	Token string
	// TokenHint tells whoever asks without the token where it is, or how to get one.
	TokenHint string
	// OpenMetrics lets whoever can connect read /metrics without the token.
	OpenMetrics bool
	// Address is HOST:PORT as it was configured. A request without the token must be for that HOST, for localhost, or for an IP address.
	Address string
}

// Handler returns the HTTP handler of a process. It fails when two metrics have the same name.
func Handler(cfg Config) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	for _, c := range append(cfg.Metrics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})) {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metric: %w", err)
		}
	}
	g := newGuard(cfg)
	mux := http.NewServeMux()
	metrics := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	if !cfg.OpenMetrics {
		metrics = g.withToken(metrics)
	}
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", cfg.readyz)
	if cfg.Quit != nil {
		mux.HandleFunc("POST /quit", cfg.quit)
	}
	for path, h := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/cmdline": pprof.Cmdline, "/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/symbol": pprof.Symbol, "/debug/pprof/trace": pprof.Trace,
	} {
		mux.Handle(path, g.withToken(h))
	}
	return g.noWebPages(mux), nil
}

func (cfg *Config) readyz(w http.ResponseWriter, _ *http.Request) {
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
}

func (cfg *Config) quit(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Sealane-Quit") == "" {
		http.Error(w, "want the header X-Sealane-Quit", http.StatusForbidden)
		return
	}
	fmt.Fprintln(w, "ok")
	cfg.Quit()
}

// guard decides who gets an answer.
type guard struct {
	token [32]byte // the token's hash: comparing hashes takes the same time for all guesses
	none  bool     // there is no token
	hint  string
	host  string // the one of Config.Address
}

func newGuard(cfg Config) *guard {
	g := &guard{token: sha256.Sum256([]byte(cfg.Token)), none: cfg.Token == "", hint: cfg.TokenHint}
	g.host, _, _ = net.SplitHostPort(cfg.Address)
	return g
}

func (g *guard) hasToken(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return !g.none && strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(sum[:], g.token[:]) == 1
}

func (g *guard) withToken(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case g.hasToken(r):
			next.ServeHTTP(w, r)
		case g.none:
			http.Error(w, r.URL.Path+" is for nobody here: there is no token; "+g.hint, http.StatusForbidden)
		default:
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, r.URL.Path+" wants a token: Authorization: Bearer TOKEN; "+g.hint, http.StatusUnauthorized)
		}
	})
}

// noWebPages refuses what a browser sends for a web page. A request of another site's page has an Origin or a Sec-Fetch-Site header. That of
// a page whose name was made to lead here (DNS rebinding) has neither, but its Host is that name. A request with the token is no web page's.
func (g *guard) noWebPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		site := r.Header.Get("Sec-Fetch-Site")
		switch {
		case r.Header.Get("Origin") != "", site != "" && site != "none" && site != "same-origin":
			http.Error(w, "web pages get no answer here", http.StatusForbidden)
		case !g.isAskedBy(r.Host) && !g.hasToken(r):
			http.Error(w, fmt.Sprintf("asked by the name %.100q: ask by an IP address, by localhost, by the name in the setting ops, or with the token", r.Host), http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isAskedBy reports whether a request without the token may have this Host. A client of HTTP/1.0 may leave it out; browsers always send it.
func (g *guard) isAskedBy(hostPort string) bool {
	host := hostPort
	if h, _, err := net.SplitHostPort(hostPort); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	_, err := netip.ParseAddr(host)
	return host == "" || err == nil || strings.EqualFold(host, "localhost") || g.host != "" && strings.EqualFold(host, strings.TrimSuffix(g.host, "."))
}
