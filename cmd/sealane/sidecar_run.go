package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/sealane/sealane/internal/ops"
	"github.com/sealane/sealane/internal/sidecar"
	"github.com/sealane/sealane/internal/sidecarconfig"
	"github.com/sealane/sealane/internal/statedir"
)

// runSidecar is `sealane sidecar` while it runs.
func runSidecar(ctx context.Context, e *env, cfg *sidecarconfig.Config) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	log := slog.New(slog.NewTextHandler(e.err, nil))
	for _, v := range cfg.Strays {
		log.Warn("the environment has a variable that is called like one of the sidecar's, which does not read it", "variable", v.Name, "meant", v.Meant)
	}
	links, err := cfg.SidecarLinks(sidecarAPI(e))
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
	log.Info("listening", "links", s.Routes(), "ops", opsAt)
	for proven := s.Proven(); ; {
		select {
		case <-proven:
			proven = nil
			fmt.Fprintf(e.out, "ready: %s; ops %s\n", s.Routes(), opsAt)
			notify(log, "READY=1\nSTATUS="+s.Routes())
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
func drainSidecar(s *sidecar.Sidecar, cfg *sidecarconfig.Config, signals <-chan os.Signal, quit <-chan struct{}, log *slog.Logger) {
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

func serveSidecarOps(e *env, cfg *sidecarconfig.Config, s *sidecar.Sidecar, log *slog.Logger, quit chan<- struct{}) (string, func(), error) {
	if cfg.Ops == sidecarconfig.NoOps {
		return "none", func() {}, nil
	}
	oc := ops.Config{Metrics: s.Metrics(), Ready: s.Ready, Notes: s.Notes, OpenMetrics: cfg.Metrics == ops.Anyone, Address: cfg.Ops}
	var err error
	if oc.Token, oc.TokenHint, err = sidecarOpsToken(e, cfg, log); err != nil {
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

// sidecarOpsToken is the token for /metrics and /debug/pprof, and where it is. A folder of its own that can't be written, as in a container, is no
// reason not to start: then nobody has the token.
func sidecarOpsToken(e *env, c *sidecarconfig.Config, log *slog.Logger) (token, hint string, err error) {
	path := c.OpsTokenFile
	if path == "" {
		path = e.state().OpsToken()
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			token, err = statedir.ReadToken(path)
		}
		if err != nil {
			log.Info("nobody can read /debug/pprof, and /metrics only if metrics is anyone: name a file that can be made with ops_token_file (SEALANE_SIDECAR_OPS_TOKEN_FILE)", "error", err)
			return "", "set the sidecar's ops_token_file, or for /metrics metrics: anyone", nil
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
