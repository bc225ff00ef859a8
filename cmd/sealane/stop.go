package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/process"
	"github.com/sealane/sealane/internal/store"
)

func newStop(e *env) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "stop",
		Short: "Stop the server, its gateways and its engines, which save their data first",
		Long: `Stop the server, its gateways and its engines. Engines are stopped last, after they have saved their data; one that
can't save, or doesn't answer, stays up, and stop says why. It also stops gateways and engines whose server is gone.

With --force an engine that stays up is killed: what was written since its last snapshot is lost, and all its data where
persistence is off. It works without the records too, when state.db is damaged or the master key is gone.`,
		Example: "  sealane stop\n  sealane stop --state /srv/sealane\n  sealane stop --force",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			state := e.state()
			p := newProgress(e.err)
			err := stopServer(c.Context(), state, force, p)
			if errors.Is(err, errNoServer) {
				err = stopOrphans(c.Context(), state, force, p)
			}
			p.done()
			if err == nil {
				fmt.Fprintln(e.out, "stopped")
			}
			return err
		},
	}
	c.Flags().BoolVar(&force, "force", false, "kill the engines that don't stop: what they have not saved is lost")
	return c
}

// stopRequest asks a running server to stop everything.
type stopRequest struct {
	force    bool
	progress func(instance.Name, string) // nil: nobody is told
	outcome  chan<- error
}

// stopOptions are those of a request; what happens is logged too.
func stopOptions(log *slog.Logger, r stopRequest) instance.StopAllOptions {
	return instance.StopAllOptions{
		Force: r.force,
		Progress: func(n instance.Name, what string) {
			log.Info("stopping instance", "instance", n, "waiting", what)
			if r.progress != nil {
				r.progress(n, what)
			}
		},
		Stopped: func(n instance.Name, err error) {
			if err == nil {
				log.Info("instance stopped", "instance", n)
			}
		},
	}
}

// stopEvent is a line of the answer to a request to stop, a JSON object each; the last one has the outcome.
type stopEvent struct {
	Progress string `json:"progress,omitempty"`
	Stopped  bool   `json:"stopped,omitempty"`
	Error    string `json:"error,omitempty"`
}

// answerStop is the server's side of `sealane stop`.
func (s *server) answerStop(w http.ResponseWriter, r *http.Request) {
	events, outcome := make(chan stopEvent, 16), make(chan error, 1)
	request := stopRequest{force: r.FormValue("force") == "true", outcome: outcome, progress: func(n instance.Name, what string) {
		select {
		case events <- stopEvent{Progress: n.ID + ": " + what}:
		default: // the caller is slow to read: the next one tells as much
		}
	}}
	select {
	case s.stopping <- request:
	case <-r.Context().Done():
		return
	}
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	for {
		var event stopEvent
		select {
		case event = <-events:
		case err := <-outcome:
			event.Stopped = err == nil
			if err != nil {
				event.Error = err.Error()
			}
		}
		// Whoever asked may have gone; everything is stopped all the same.
		out.Encode(event)
		flush.Flush()
		if event.Progress == "" {
			return
		}
	}
}

// silentServer is how long a server that stops may say nothing: each wait of its own is shorter, or tells that it goes on.
const silentServer = 30 * time.Second

// errNoServer says that no server listens on the control socket.
var errNoServer = errors.New("no server runs")

// stopServer asks the running server to stop everything and waits until it has.
func stopServer(ctx context.Context, state string, force bool, p *progress) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", controlPath(state))
	}}}
	server, err := process.Adopt(controlPath(state))
	switch {
	case errors.Is(err, process.ErrNotRunning):
		return errNoServer
	case err != nil:
		return err
	}
	defer server.Release()
	pid := server.Identity().PID
	if server.Stopped() {
		return withHint(fmt.Errorf("the server (process %d) is stopped (SIGSTOP, or a debugger)", pid),
			"continue it with kill -CONT %d; kill -9 %d ends it alone, and `sealane stop` then stops what it has left", pid, pid)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(silentServer, func() {
		cancel(withHint(fmt.Errorf("the server (process %d) has said nothing for %v", pid, silentServer),
			"its log may say why; kill -9 %d ends it alone, and `sealane stop` then stops what it has left", pid))
	})
	defer silence.Stop()
	p.show("asking the server to stop")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://control/stop?force=%t", force), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return stopError(ctx, err)
	}
	defer resp.Body.Close()
	for events := json.NewDecoder(resp.Body); ; {
		var event stopEvent
		if err := events.Decode(&event); err != nil {
			return stopError(ctx, fmt.Errorf("the server ended before it said that all is stopped: %w", err))
		}
		silence.Reset(silentServer)
		if event.Error != "" {
			return staysUp(errors.New(event.Error))
		}
		if event.Stopped {
			break
		}
		p.show(event.Progress)
	}
	// Its last act after the answer is to let go of the store.
	for range 200 {
		if used, err := store.InUse(storePath(state)); err != nil || !used {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// stopError prefers the reason why the wait was given up.
func stopError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// stopOrphans stops what a server that is gone has left running.
func stopOrphans(ctx context.Context, state string, force bool, p *progress) error {
	if _, err := os.Stat(storePath(state)); err != nil {
		return withHint(fmt.Errorf("no server runs with the state folder %s", state), "name its folder with --state")
	}
	if used, err := store.InUse(storePath(state)); err == nil && used {
		return inUse(state)
	}
	runtime := instance.NewLocal(nodesPath(state), nil, nil)
	defer runtime.Close()
	err := stopRecorded(ctx, state, force, p, runtime)
	if err == nil || !force || ctx.Err() != nil {
		return err
	}
	p.show(fmt.Sprintf("killing what runs in %s, because: %v", nodesPath(state), err))
	return runtime.KillAll(ctx)
}

// stopRecorded stops all that the records tell of.
func stopRecorded(ctx context.Context, state string, force bool, p *progress, runtime *instance.Local) error {
	info, _ := readServerInfo(state) // without it, the usual places are tried
	key, err := masterKey(state, info.MasterKeyFile, false)
	if err != nil {
		return err
	}
	st, err := openStore(state, key)
	if err != nil {
		return err
	}
	defer st.Close()
	m, err := instance.New(instance.Config{Store: st, Runtime: runtime, Key: key, Now: time.Now, Log: slog.New(slog.DiscardHandler), Commands: commands()})
	if err != nil {
		return err
	}
	var mu sync.Mutex // of p
	err = m.StopAll(ctx, instance.StopAllOptions{Force: force, Progress: func(n instance.Name, what string) {
		mu.Lock()
		defer mu.Unlock()
		p.show(n.ID + ": " + what)
	}})
	if err != nil {
		return staysUp(err)
	}
	return nil
}

// staysUp says what to do about engines that could not be stopped.
func staysUp(err error) error {
	return withHint(err, "mend what it says and run `sealane stop` again; `sealane stop --force` kills the engines that stay up, and what they have not saved is lost")
}
