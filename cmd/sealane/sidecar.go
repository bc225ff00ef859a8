package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/internal/ops"
	"github.com/sealane/sealane/internal/sidecar"
	"github.com/sealane/sealane/internal/statedir"
)

const defaultSidecarOps = "127.0.0.1:7381"

func newSidecar(e *env) *cobra.Command {
	var f sidecarFlags
	c := &cobra.Command{
		Use:   "sidecar",
		Short: "Give clients without TLS a plaintext port on this machine, and do the TLS for them",
		Long: `Listen on this machine without TLS, and carry what clients say to a Redis with TLS: an instance of Sealane's, whose
address, CA bundle and AUTH string come from the server, or any other. The server is always verified. What is trusted
is kept new, and a change of certificates, CAs, AUTH or address moves clients to fresh connections without their
noticing. Clients that connect for one request pay no handshake.

It prints "ready" when requests are served. SIGTERM and Ctrl-C let clients finish, after --drain if that is given; a second one ends
it at once.

docs/sidecar.md says what survives what, and lists everything that it may say.`,
		Example: "  sealane sidecar --instance first\n  sealane sidecar --address redis.example.com:6378 --ca ca.pem --auth file:/run/secrets/redis\n" +
			"  sealane sidecar --instance first --listen unix:/run/redis.sock --listen-mode 0660\n" +
			"  sealane sidecar --config sidecar.yaml\n  sealane sidecar --from-stunnel /etc/stunnel/redis.conf > sidecar.yaml",
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c, e) },
	}
	f.add(c)
	c.AddCommand(newSidecarWait(e), newSidecarQuit(e))
	return c
}

func (f *sidecarFlags) run(c *cobra.Command, e *env) error {
	if f.fromStunnel != "" {
		if n := changed(c, "from-stunnel"); n != "" {
			return usage(c, "--%s does not go with --from-stunnel, which only prints a configuration", n)
		}
		return printStunnel(e, f.fromStunnel)
	}
	cfg, err := f.config(c)
	if err != nil {
		return err
	}
	return runSidecar(c.Context(), e, cfg)
}

// runSidecar is `sealane sidecar` while it runs.
func runSidecar(ctx context.Context, e *env, cfg *sidecarConfig) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	log := slog.New(slog.NewTextHandler(e.err, nil))
	links, err := cfg.links(e)
	if err != nil {
		return err
	}
	s, err := sidecar.New(sidecar.Config{Links: links, Log: log})
	if err != nil {
		return withHint(err, "choose another address to listen on, or stop what has it (`ss -ltnp`)")
	}
	defer s.Close()
	quit := make(chan struct{}, 1)
	opsAt, closeOps, err := serveSidecarOps(e, cfg, s, log, quit)
	if err != nil {
		return err
	}
	defer closeOps()
	log.Info("listening", "links", s.Ways(), "ops", opsAt)
	for proven := s.Proven(); ; {
		select {
		case <-proven:
			proven = nil
			fmt.Fprintf(e.out, "ready: %s; ops %s\n", s.Ways(), opsAt)
			notify(log, "READY=1\nSTATUS="+s.Ways())
			continue
		case <-ctx.Done():
		case <-signals:
		case <-quit:
			cfg.Drain = 0 // who says so says that the application has ended
		}
		// A service manager that would kill it sooner is asked for as long as this may take.
		most := cfg.Drain + cfg.DrainTimeout + 5*time.Second
		notify(log, fmt.Sprintf("STOPPING=1\nEXTEND_TIMEOUT_USEC=%d", most.Microseconds()))
		drainSidecar(s, cfg, signals, quit, log)
		return nil
	}
}

// drainQuiet is for how long no client must be there to end before drain is over. Applications that connect for each request have
// pauses, also while they end.
const drainQuiet = 5 * time.Second

// drainSidecar serves on for a time, and then lets clients finish. Another signal ends both at once, another quit the first.
func drainSidecar(s *sidecar.Sidecar, cfg *sidecarConfig, signals <-chan os.Signal, quit <-chan struct{}, log *slog.Logger) {
	now, end := context.WithCancel(context.Background())
	defer end()
	go func() {
		select {
		case <-signals:
			end()
		case <-now.Done():
		}
	}()
	if cfg.Drain > 0 {
		log.Info("draining: serving on for applications that end at the same time", "at_most", cfg.Drain)
		ctx, cancel := context.WithTimeout(now, cfg.Drain)
		go func() {
			select {
			case <-quit:
				cancel()
			case <-ctx.Done():
			}
		}()
		s.Linger(ctx, min(drainQuiet, cfg.Drain))
		cancel()
	}
	log.Info("stopping: clients get to finish what they have under way", "at_most", cfg.DrainTimeout)
	ctx, cancel := context.WithTimeout(now, cfg.DrainTimeout)
	defer cancel()
	if left := s.Drain(ctx); left > 0 {
		log.Warn("clients were cut that had something under way", "clients", left)
	}
}

func serveSidecarOps(e *env, cfg *sidecarConfig, s *sidecar.Sidecar, log *slog.Logger, quit chan<- struct{}) (string, func(), error) {
	if cfg.Ops == "none" {
		return "none", func() {}, nil
	}
	oc := ops.Config{Metrics: s.Metrics(), Ready: s.Ready, Notes: s.Notes, OpenMetrics: cfg.Metrics == ops.Anyone, Address: cfg.Ops}
	var err error
	if oc.Token, oc.TokenHint, err = cfg.opsToken(e, log); err != nil {
		return "", nil, err
	}
	if cfg.AllowQuit {
		oc.Quit = func() {
			select {
			case quit <- struct{}{}:
			default:
			}
		}
	}
	handler, err := ops.Handler(oc)
	if err != nil {
		return "", nil, err
	}
	listeners, at, err := sidecar.ListenLocal(cfg.Ops)
	if err != nil {
		return "", nil, withHint(fmt.Errorf("ops: %w", err), "another sidecar may have it: choose another with --ops HOST:PORT, or none")
	}
	server := ops.NewServer(handler)
	server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() { _ = server.Serve(l) })
	}
	return at, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
		serving.Wait()
	}, nil
}

// opsToken is the token for /metrics and /debug/pprof, and where it is. A folder of its own that can't be written, as in a container, is no
// reason not to start: then nobody has the token.
func (c *sidecarConfig) opsToken(e *env, log *slog.Logger) (token, hint string, err error) {
	path := c.OpsTokenFile
	if path == "" {
		path = e.state().OpsToken()
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			token, err = statedir.ReadToken(path)
		}
		if err != nil {
			log.Info("nobody can read /debug/pprof, and /metrics only if metrics is anyone: name a file that can be made with ops_token_file (--ops-token-file)", "error", err)
			return "", "start the sidecar with --ops-token-file FILE, or for /metrics with --metrics anyone", nil
		}
		return token, "it is in " + path, nil
	}
	if token, err = statedir.ReadToken(path); err != nil {
		return "", "", withHint(fmt.Errorf("ops_token_file: %w", err), "name a file that holds the token, 20 characters or more, or that can be made")
	}
	return token, "it is in " + path, nil
}

// notify tells a service manager (sd_notify(3)), if there is one that wants to know.
func notify(log *slog.Logger, state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = c.Write([]byte(state))
		c.Close()
	}
	if err != nil {
		log.Warn("the service manager can't be told", "error", err)
	}
}

func newSidecarWait(e *env) *cobra.Command {
	var at string
	var most time.Duration
	c := &cobra.Command{
		Use:     "wait",
		Short:   "Wait until a sidecar on this machine serves requests",
		Long:    "Ask the sidecar's /readyz until it says that requests are served. The exit code is 1 if it does not in time.",
		Example: "  sealane sidecar wait --max 30s && exec my-application",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if most <= 0 {
				return usage(c, "--max %s: want more than 0", most)
			}
			return waitReady(c.Context(), at, most)
		},
	}
	c.Flags().StringVar(&at, "ops", defaultSidecarOps, "the sidecar's ops address")
	c.Flags().DurationVar(&most, "max", time.Minute, "how long to wait at most")
	return c
}

func waitReady(ctx context.Context, at string, most time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	last := errors.New("it does not answer")
	for {
		code, text, err := askOps(ctx, http.MethodGet, at, "/readyz")
		switch {
		case err == nil && code == http.StatusOK:
			return nil
		case err == nil:
			last = errors.New(text)
		case ctx.Err() == nil:
			last = fmt.Errorf("it does not answer: %w", err)
		}
		select {
		case <-ctx.Done():
			return withHint(fmt.Errorf("the sidecar at %s is not ready after %s: %w", at, most, last), "its log says more; --ops names another")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func newSidecarQuit(e *env) *cobra.Command {
	var at string
	c := &cobra.Command{
		Use:     "quit",
		Short:   "Have a sidecar on this machine end, as SIGTERM does",
		Long:    "Have the sidecar let its clients finish and end. It does so only if it was started with --allow-quit: whoever can reach the ops\naddress could end it.",
		Example: "  my-job; sealane sidecar quit",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			code, text, err := askOps(c.Context(), http.MethodPost, at, "/quit")
			switch {
			case err != nil:
				return withHint(fmt.Errorf("the sidecar at %s does not answer: %w", at, err), "it may have ended already; --ops names another")
			case code == http.StatusNotFound || code == http.StatusMethodNotAllowed:
				return withHint(fmt.Errorf("the sidecar at %s does not take orders to quit", at), "start it with --allow-quit, or send it SIGTERM")
			case code != http.StatusOK:
				return fmt.Errorf("the sidecar at %s answers %d: %s", at, code, text)
			}
			return nil
		},
	}
	c.Flags().StringVar(&at, "ops", defaultSidecarOps, "the sidecar's ops address")
	return c
}

func askOps(ctx context.Context, method, at, path string) (code int, text string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+at+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("X-Sealane-Quit", "1")
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", errors.Unwrap(err)
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	return r.StatusCode, strings.TrimSpace(string(raw)), err
}
