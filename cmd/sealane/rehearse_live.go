package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/rehearsal"
	"github.com/sealane/sealane/internal/server"
	"github.com/sealane/sealane/internal/statedir"
)

// cleanTime is how long the end of a rehearsal may take.
const cleanTime = 20 * time.Second

// live runs a real client through years of certificate changes.
func (r *rehearseFlags) live(ctx context.Context, e *env) error {
	// SIGPIPE too: who reads no more of the output must not leave engines behind.
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	lifetimes := pki.ScaledLifetimes(time.Duration(float64(r.duration) * tenYears / r.years))
	outcome, err := r.held(ctx, e, lifetimes)
	var failed *rehearsal.ClientError
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted; everything of the rehearsal is stopped and removed")
	case errors.As(err, &failed):
		showOutput(e.err, failed.Output)
		return withHint(err, "%s", r.clientHint(failed))
	case errors.Is(err, rehearsal.ErrLate):
		return withHint(err, "give it more time for the same years, such as --duration %s", 2*r.duration)
	case err != nil:
		return err
	}
	return r.report(e, lifetimes, outcome)
}

// clientHint is what to do about a client that fails without any change.
func (r *rehearseFlags) clientHint(failed *rehearsal.ClientError) string {
	switch {
	case failed.Refused != "" && r.nameConstraints:
		return "the CA has name constraints, and " + pki.ConstraintsCost + ": for such clients leave --ca-name-constraints out"
	case failed.Refused != "":
		return "have it trust every CA in $SEALANE_CA_FILE, and verify $SEALANE_HOST, which is an address; a client that compares DNS names only connects to localhost, which is in the certificate too"
	case r.nameConstraints:
		return "it refused no certificate, but it may not have got so far: mbedTLS can't read a CA with name constraints. Try it without --ca-name-constraints"
	}
	return "no certificate is to blame, for it refused none: run the client by hand against a real instance first, such as one of `sealane instances create`"
}

// held starts a server of its own, holds the rehearsal, and leaves nothing behind.
func (r *rehearseFlags) held(ctx context.Context, e *env, lifetimes pki.Lifetimes) (outcome *rehearsal.Outcome, err error) {
	dir, err := temporaryState()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	// The server's log is of interest only when no rehearsal comes of it: cutting connections troubles it too.
	var log bytes.Buffer
	defer func() {
		if err != nil && ctx.Err() == nil && !errors.As(err, new(*rehearsal.ClientError)) {
			e.err.Write(log.Bytes())
		}
	}()
	changes := make(chan []pki.Action, 64)
	fmt.Fprintf(e.err, "note: the rehearsal takes %s; its files are in %s, and should it be killed `sealane stop --state %s` stops what is left\n", r.duration, dir, dir)
	s, err := server.Open(ctx, server.Options{
		StateDir: dir, Config: &server.Config{InstanceAddresses: address, Lifetimes: lifetimes, CANameConstraints: r.nameConstraints},
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})), Commands: commands(),
		Changed: func(_ instance.Name, actions []pki.Action) {
			select {
			case changes <- actions:
			default: // nobody has taken one for so long that the rehearsal is over
			}
		},
	})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.Manager().Start(); err != nil {
		return nil, err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer cancel()
		if stopErr := s.Manager().StopAll(clean, instance.StopAllOptions{}); stopErr != nil {
			err = errors.Join(err, stopErr)
		}
	}()
	name, err := makeInstance(ctx, s.Manager())
	if err != nil {
		return nil, err
	}
	if r.format == "table" {
		step(e.out, "TIME", "STANDS FOR", "CHANGE", "CLIENT")
	}
	return rehearsal.Run(ctx, rehearsal.Config{
		Manager: s.Manager(), Name: name, Changes: changes, For: time.Duration(r.years / tenYears * float64(lifetimes.CA)), Command: r.client,
		LongLived: r.longLived, Reconnect: r.reconnect, Dir: dir,
		Progress: func(s rehearsal.Step) {
			if r.format == "table" {
				step(e.out, s.Elapsed.Truncate(100*time.Millisecond).String(), s.Date.Format(time.DateOnly), s.Change, string(s.Client))
			}
		},
	})
}

// step prints one line at once; a table would be held back to its end.
func step(w io.Writer, elapsed, date, change, client string) {
	fmt.Fprintf(w, "%-9s %-11s %-55s %s\n", elapsed, date, change, client)
}

// temporaryState makes a state folder, with a path that has room for Unix sockets.
func temporaryState() (string, error) {
	parent := os.TempDir()
	if len(parent) > statedir.MaxPath/2 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "sealane-rehearsal-")
	if err != nil {
		return "", withHint(err, "name a folder that is writable with TMPDIR")
	}
	return filepath.EvalSymlinks(dir)
}

// freeAddress is a port on loopback on which nobody listens.
func freeAddress() (instance.Addresses, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return instance.Addresses{}, err
	}
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	return instance.Addresses{Host: netip.MustParseAddr("127.0.0.1"), FirstPort: port, LastPort: port}, l.Close()
}

// makeInstance makes the rehearsal's instance, and returns once it is ready.
func makeInstance(ctx context.Context, m *instance.Manager) (instance.Name, error) {
	name := instance.Name{Project: "local", Location: "local", ID: "rehearsal"}
	op, err := m.Create(name, instance.Spec{MemorySizeGB: 1, TransitEncryption: true}, "v1")
	if err != nil {
		return name, err
	}
	for {
		of, err := m.Operations.Get(name.Project, name.Location, op.ID)
		switch {
		case err != nil:
			return name, err
		case of.Done && of.Failure != nil:
			return name, errors.New(of.Failure.Message)
		case of.Done:
			return name, nil
		}
		select {
		case <-ctx.Done():
			return name, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// liveReport is a rehearsal with a client, as JSON.
type liveReport struct {
	Methods struct {
		Dates  string `json:"dates"`
		Client string `json:"client"`
	} `json:"methods"`
	CALifetime string     `json:"caLifetime"`
	Years      float64    `json:"years"`
	Survived   bool       `json:"survived"`
	Verdict    string     `json:"verdict"`
	Advice     string     `json:"advice,omitempty"`
	Runs       int        `json:"runs"`
	Breaks     *liveStep  `json:"breaks,omitempty"`
	Changes    []liveStep `json:"changes"`
	Output     []string   `json:"output,omitempty"`
}

type liveStep struct {
	Elapsed string       `json:"elapsed"`
	Date    string       `json:"standsFor"`
	Change  string       `json:"change"`
	Actions []liveAction `json:"actions"`
	Client  string       `json:"client"`
}

type liveAction struct {
	Action     string `json:"action"`
	Generation int    `json:"generation"`
}

func newLiveStep(s rehearsal.Step) liveStep {
	out := liveStep{Elapsed: s.Elapsed.String(), Date: s.Date.Format(time.DateOnly), Change: s.Change, Client: string(s.Client)}
	for _, a := range s.Actions {
		out.Actions = append(out.Actions, liveAction{string(a.Kind), a.Generation})
	}
	return out
}

// report says what came of it. A client that breaks is the command's error.
func (r *rehearseFlags) report(e *env, lifetimes pki.Lifetimes, o *rehearsal.Outcome) error {
	if r.format == "table" {
		showOutput(e.out, o.Output)
		if o.Breaks == nil {
			fmt.Fprintf(e.out, "\n%s.\n", o.Verdict)
			if o.Advice != "" {
				fmt.Fprintf(e.out, "hint: %s\n", o.Advice)
			}
		}
		fmt.Fprintf(e.out, "\nThe dates: the plan of a new instance, on a fake clock. The client: a real instance and %s;\na CA lived for %s in place of ten years.\n",
			realTime, lifetimes.CA)
	} else if err := r.encode(e.out, lifetimes, o); err != nil {
		return err
	}
	if o.Breaks != nil {
		return withHint(errors.New(o.Verdict), "%s", o.Advice)
	}
	return nil
}

func (r *rehearseFlags) encode(w io.Writer, lifetimes pki.Lifetimes, o *rehearsal.Outcome) error {
	out := liveReport{
		CALifetime: lifetimes.CA.String(), Years: r.years, Survived: o.Breaks == nil, Verdict: o.Verdict, Advice: o.Advice, Runs: o.Runs,
		Changes: []liveStep{}, Output: o.Output,
	}
	out.Methods.Dates, out.Methods.Client = "fake clock", realTime
	for _, s := range o.Steps {
		out.Changes = append(out.Changes, newLiveStep(s))
	}
	if o.Breaks != nil {
		breaks := newLiveStep(*o.Breaks)
		out.Breaks = &breaks
	}
	var raw bytes.Buffer
	j := json.NewEncoder(&raw)
	j.SetIndent("", "  ")
	j.SetEscapeHTML(false)
	if err := j.Encode(out); err != nil {
		return err
	}
	return r.format.print(w, raw.Bytes(), nil)
}

// showOutput shows what the client printed last.
func showOutput(w io.Writer, lines []string) {
	if len(lines) > 0 {
		fmt.Fprintf(w, "\nThe client's last lines:\n    %s\n", strings.Join(lines, "\n    "))
	}
}
