package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/api"
	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/ops"
	"github.com/sealane/sealane/internal/statedir"
)

// listen starts the API, the ops listener, the control socket and, last, the reconciler.
func (s *Server) listen() error {
	tokens, err := s.openTokens()
	if err != nil {
		return err
	}
	tlsConfig, err := s.config.apiTLS()
	if err != nil {
		return err
	}
	var opts []grpc.ServerOption
	scheme := "http://"
	if tlsConfig != nil {
		scheme = "https://"
		opts = append(opts, grpc.Creds(credentials.NewTLS(tlsConfig)))
	}
	a, err := api.New(api.Config{Manager: s.manager, Tokens: tokens, Calls: s.calls, Log: s.log}, opts...)
	if err != nil {
		return err
	}
	opsHandler, err := s.opsHandler()
	if err != nil {
		return err
	}
	info := statedir.ServerInfo{PID: os.Getpid(), MasterKeyFile: s.config.MasterKeyFile}
	rest, err := s.serveHTTP("http", s.config.HTTP, a.REST, tlsConfig, a.Guard)
	if err != nil {
		return err
	}
	info.HTTP = scheme + rest
	if info.Ops, err = s.serveHTTP("ops", s.config.Ops, opsHandler, nil, nil); err != nil {
		return err
	}
	if info.GRPC, err = s.serveGRPC(s.config.GRPC, a); err != nil {
		return err
	}
	// Without these two only `sealane stop` and what the CLI finds by itself suffer. A disk that is full is no reason to leave
	// gateways and engines unwatched.
	if err := s.serveControl(); err != nil {
		s.log.Error("`sealane stop` can't reach this server: end it with SIGINT", "err", err)
	}
	if err := s.dir.WriteServerInfo(info); err != nil {
		s.log.Error("the CLI can't see where this server listens: set SEALANE_API, or free space in the state folder and start again", "err", err, "http", info.HTTP)
	}
	if err := s.manager.Start(); err != nil {
		return err
	}
	s.closers = append(s.closers, s.manager.Close)
	s.log.Info("serving", "http", info.HTTP, "grpc", info.GRPC, "ops", info.Ops, "state", string(s.dir))
	return nil
}

// openTokens reads who may call the API.
func (s *Server) openTokens() (*access.Tokens, error) {
	admin, err := s.dir.ReadAdminToken()
	if err != nil {
		return nil, err
	}
	tokens, err := access.Open(s.store, admin, time.Now, s.log)
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, tokens.Close)
	return tokens, nil
}

// apiTLS is the API's own certificate; nil if there is none.
func (c *Config) apiTLS() (*tls.Config, error) {
	if c.TLS.Certificate == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.TLS.Certificate, c.TLS.Key)
	if err != nil {
		return nil, hint.Wrap(fmt.Errorf("tls: %w", err), "tls.certificate and tls.key of the configuration are a PEM file each")
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}, nil
}

func (s *Server) opsHandler() (http.Handler, error) {
	path := s.dir.OpsToken()
	token, err := statedir.ReadToken(path)
	if err != nil { // as on a full disk: the instances matter more
		s.log.Warn("nobody can read /metrics and /debug/pprof: there is no token", "error", err)
	}
	return ops.Handler(ops.Config{
		Metrics: s.manager.Metrics(), Token: token, TokenHint: "it belongs into " + path, OpenMetrics: s.config.Metrics == ops.Anyone, Address: s.config.Ops,
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
		return nil, hint.Wrap(fmt.Errorf("%s: %s is in use", field, address), "another sealane serve may be running; stop it with `sealane stop`, or choose another address for %s", field)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return l, nil
}

// serveHTTP serves a handler at an address, over TLS if there is a configuration for it, with connections limited by
// guard if there is one. It returns where it listens.
func (s *Server) serveHTTP(field, address string, h http.Handler, tlsConfig *tls.Config, guard func(net.Listener) net.Listener) (string, error) {
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

func (s *Server) serveOn(field string, l net.Listener, h http.Handler) {
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

func (s *Server) serveGRPC(address string, a *api.Server) (string, error) {
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
