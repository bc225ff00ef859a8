package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/internal/server"
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
			cfg, err := server.ReadConfig(configFile, httpAddr, grpcAddr)
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

func serve(ctx context.Context, e *env, cfg *server.Config) error {
	// Before anything is started: a Ctrl-C during the start is to end it as one later does.
	interrupt := make(chan os.Signal, 2)
	signal.Notify(interrupt, os.Interrupt)
	defer signal.Stop(interrupt)
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(terminate)

	s, err := server.Open(ctx, server.Options{StateDir: string(e.state()), Config: cfg, Log: slog.New(slog.NewTextHandler(e.err, nil)), Commands: commands()})
	if err != nil {
		return err
	}
	defer s.Close()
	return s.Serve(ctx, server.Signals{Interrupt: interrupt, Terminate: terminate}, func() { fmt.Fprintln(e.out, "ready") })
}
