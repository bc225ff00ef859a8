package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sealane/sealane/internal/api"
	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/ops"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/store"
)

func newServe(e *env) *cobra.Command {
	var configFile, httpAddr, grpcAddr string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the server: the API and, as processes of their own, gateways and engines",
		Long: `Run the server. It prints "ready" when the API answers and the instances of the last time have been
looked at.

Ctrl-C stops everything; each engine saves its data first. SIGTERM ends the server alone: gateways and engines go
on, with their connections, and the next "sealane serve" finds them.`,
		Example: "  sealane serve\n  sealane serve --state /srv/sealane --http 127.0.0.1:8080",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := readConfig(configFile, httpAddr, grpcAddr)
			if err != nil {
				return err
			}
			return serve(c.Context(), e, cfg)
		},
	}
	c.Flags().StringVar(&configFile, "config", "", "configuration file (YAML)")
	c.Flags().StringVar(&httpAddr, "http", "", "address of the REST API (default 127.0.0.1:7378)")
	c.Flags().StringVar(&grpcAddr, "grpc", "", "address of the gRPC API (default 127.0.0.1:7379)")
	return c
}

// settleTime is how long "ready" waits for the instances of the last time; an engine with much data takes longer.
const settleTime = 10 * time.Second

// server is `sealane serve` while it runs.
type server struct {
	state    string
	log      *slog.Logger
	store    *store.Store
	audit    *audit.Log
	runtime  *instance.Local
	manager  *instance.Manager
	changed  func(instance.Name, []pki.Action) // of instance.Config; nil: nobody is told
	stopping chan stopRequest                  // to stop everything
	failed   chan error                        // a listener ended
	ready    atomic.Bool
	closers  []func() // in reverse order
	running  sync.WaitGroup
}

func serve(ctx context.Context, e *env, cfg *config) error {
	// Before anything is started: a Ctrl-C during the start is to end it as one later does.
	interrupt := make(chan os.Signal, 2)
	signal.Notify(interrupt, os.Interrupt)
	defer signal.Stop(interrupt)
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(terminate)

	s := &server{
		log:      slog.New(slog.NewTextHandler(e.err, nil)),
		stopping: make(chan stopRequest), failed: make(chan error, 4),
	}
	defer s.close()
	if l := cfg.lifetimes; l != (pki.Lifetimes{}) {
		s.log.Warn("ca_lifetime is set: the certificates of new instances are short-lived, which is for tests", "ca", l.CA, "server_certificate", l.Leaf)
	}
	if err := s.open(ctx, e.state(), cfg); err != nil {
		return err
	}
	if err := s.listen(cfg); err != nil {
		return err
	}
	settled := make(chan struct{})
	settle, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	s.running.Go(func() {
		s.manager.Settled(settle)
		close(settled)
	})
	for {
		select {
		case <-settled:
			settled = nil
			s.ready.Store(true)
			fmt.Fprintln(e.out, "ready")
		case <-ctx.Done():
			return nil
		case <-terminate:
			s.log.Info("ending; gateways and engines go on")
			return nil
		case err := <-s.failed:
			return err
		case <-interrupt:
			s.log.Info("stopping everything; interrupt again to leave it as it is")
			return s.stopAll(ctx, interrupt, stopRequest{})
		case r := <-s.stopping:
			err := s.stopAll(ctx, interrupt, r)
			r.outcome <- err
			return err
		}
	}
}

// open opens the state and makes the manager.
func (s *server) open(ctx context.Context, state string, cfg *config) error {
	binaries, err := engine.Find(ctx, cfg.Engines)
	if err != nil {
		return withHint(err, "install redis-server or valkey-server, or list its path under engines in the configuration")
	}
	for _, b := range binaries {
		s.log.Info("engine found", "path", b.Path, "kind", b.Kind, "version", b.Version)
	}
	if s.state, err = openState(state); err != nil {
		return err
	}
	_, statErr := os.Stat(storePath(s.state))
	isNew := errors.Is(statErr, fs.ErrNotExist)
	if err := checkConfigured(cfg); err != nil {
		return err
	}
	// The key comes first: a start that fails without one must not leave a store that looks as if it had had one.
	key, err := masterKey(s.state, cfg.MasterKeyFile, isNew)
	if err != nil {
		return err
	}
	if s.store, err = openStore(s.state, key); err != nil {
		return err
	}
	s.closers = append(s.closers, func() { s.store.Close() })
	if err := s.openAudit(isNew); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.runtime = instance.NewLocal(nodesPath(s.state), []string{self, "gateway"}, binaries)
	s.closers = append(s.closers, s.runtime.Close)
	s.manager, err = instance.New(instance.Config{
		Store: s.store, Audit: s.audit, Runtime: s.runtime, Key: key, Addresses: cfg.addresses,
		Projects: cfg.Projects, Locations: cfg.Locations, Lifetimes: cfg.lifetimes, KeyAlgorithm: pki.Algorithm(cfg.CAKeyAlgorithm),
		NameConstraints: cfg.CANameConstraints, Now: time.Now, Log: s.log, Commands: commands(), Changed: s.changed,
	})
	if err != nil {
		return wrongKey(s.state, err)
	}
	// From here on the key is known to be the right one.
	if err := s.store.Seal(); err != nil {
		s.log.Error("the records of an older version of Sealane are not protected against damage yet; it is tried again with the next change", "err", err)
	}
	return nil
}

// openAudit opens the audit log, which the store's lock keeps others from writing. One that was changed stops the start:
// what follows it would look as if it could be trusted. Gateways and engines go on meanwhile.
func (s *server) openAudit(isNew bool) error {
	var err error
	if s.audit, err = audit.Open(s.state, s.log); err != nil {
		return auditHint(err, s.state)
	}
	s.closers = append(s.closers, func() { s.audit.Close() })
	if s.audit.Head().Seq > 0 {
		return nil
	}
	reason := "the state folder is new"
	if !isNew {
		reason = "the state folder is not new: certificates that were signed before are not in this log"
	}
	return auditHint(s.audit.Append(audit.Entry{Time: time.Now(), Action: audit.Begin, Reason: reason}), s.state)
}

// listen starts the API, the ops listener, the control socket and, last, the reconciler.
func (s *server) listen(cfg *config) error {
	token, err := adminToken(s.state)
	if err != nil {
		return err
	}
	var tlsConfig *tls.Config
	var opts []grpc.ServerOption
	scheme := "http://"
	if cfg.TLS.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(cfg.TLS.Certificate, cfg.TLS.Key)
		if err != nil {
			return withHint(fmt.Errorf("tls: %w", err), "tls.certificate and tls.key of the configuration are a PEM file each")
		}
		scheme = "https://"
		tlsConfig = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
		opts = append(opts, grpc.Creds(credentials.NewTLS(tlsConfig)))
	}
	a, err := api.New(api.Config{Manager: s.manager, Token: token, Log: s.log}, opts...)
	if err != nil {
		return err
	}
	opsHandler, err := s.opsHandler(cfg)
	if err != nil {
		return err
	}
	info := serverInfo{PID: os.Getpid(), MasterKeyFile: cfg.MasterKeyFile}
	rest, err := s.serveHTTP("http", cfg.HTTP, a.REST, tlsConfig, a.Guard)
	if err != nil {
		return err
	}
	info.HTTP = scheme + rest
	if info.Ops, err = s.serveHTTP("ops", cfg.Ops, opsHandler, nil, nil); err != nil {
		return err
	}
	if info.GRPC, err = s.serveGRPC(cfg.GRPC, a); err != nil {
		return err
	}
	// Without these two only `sealane stop` and what the CLI finds by itself suffer. A disk that is full is no reason to leave
	// gateways and engines unwatched.
	if err := s.serveControl(); err != nil {
		s.log.Error("`sealane stop` can't reach this server: end it with SIGINT", "err", err)
	}
	if err := info.write(s.state); err != nil {
		s.log.Error("the CLI can't see where this server listens: set SEALANE_API, or free space in the state folder and start again", "err", err, "http", info.HTTP)
	}
	if err := s.manager.Start(); err != nil {
		return err
	}
	s.closers = append(s.closers, s.manager.Close)
	s.log.Info("serving", "http", info.HTTP, "grpc", info.GRPC, "ops", info.Ops, "state", s.state)
	return nil
}

func (s *server) opsHandler(cfg *config) (http.Handler, error) {
	path := opsTokenPath(s.state)
	token, err := tokenFile(path)
	if err != nil { // as on a full disk: the instances matter more
		s.log.Warn("nobody can read /metrics and /debug/pprof: there is no token", "error", err)
	}
	return ops.Handler(ops.Config{
		Metrics: s.manager.Metrics(), Token: token, TokenHint: "it belongs into " + path, OpenMetrics: cfg.Metrics == metricsForAnyone, Address: cfg.Ops,
		Ready: func() error {
			if !s.ready.Load() {
				return errors.New("the instances of the last time are still being started")
			}
			return nil
		},
	})
}

// listenTCP names the field and the way out when an address is busy.
func listenTCP(field, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, withHint(fmt.Errorf("%s: %s is in use", field, address), "another sealane serve may be running; stop it with `sealane stop`, or choose another address for %s", field)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return l, nil
}

// serveHTTP serves a handler at an address, over TLS if there is a configuration for it, with connections limited by
// guard if there is one.
func (s *server) serveHTTP(field, address string, h http.Handler, tlsConfig *tls.Config, guard func(net.Listener) net.Listener) (string, error) {
	l, err := listenTCP(field, address)
	if err != nil {
		return "", err
	}
	bound := l.Addr().String()
	if guard != nil {
		l = guard(l)
	}
	if tlsConfig != nil {
		l = tls.NewListener(l, tlsConfig)
	}
	s.serveOn(field, l, h)
	return bound, nil
}

func (s *server) serveOn(field string, l net.Listener, h http.Handler) {
	hs := api.HTTPServer(h)
	hs.ErrorLog = slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
	s.running.Go(func() {
		if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("%s: %w", field, err)
		}
	})
	s.closers = append(s.closers, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if hs.Shutdown(ctx) != nil {
			hs.Close()
		}
	})
}

func (s *server) serveGRPC(address string, a *api.Server) (string, error) {
	l, err := listenTCP("grpc", address)
	if err != nil {
		return "", err
	}
	g := a.GRPC
	s.running.Go(func() {
		if err := g.Serve(a.Guard(l)); err != nil {
			s.failed <- fmt.Errorf("grpc: %w", err)
		}
	})
	s.closers = append(s.closers, func() {
		timer := time.AfterFunc(2*time.Second, g.Stop)
		defer timer.Stop()
		g.GracefulStop()
	})
	return l.Addr().String(), nil
}

// serveControl serves the socket that `sealane stop` uses. Only the state folder's owner can open it.
func (s *server) serveControl() error {
	path := controlPath(s.state)
	// The store's lock is held: a socket that is there belongs to a server that died.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /stop", s.answerStop)
	s.serveOn("control socket", l, mux)
	return nil
}

// stopAll stops every gateway and engine. A second interrupt gives up.
func (s *server) stopAll(ctx context.Context, interrupt <-chan os.Signal, r stopRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.manager.StopAll(ctx, stopOptions(s.log, r)) }()
	select {
	case err := <-done:
		return err
	case <-interrupt:
		cancel()
		<-done
		return withHint(errors.New("interrupted; some gateways and engines may still run"), "stop them with `sealane stop`")
	}
}

func (s *server) close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
	s.running.Wait()
}
