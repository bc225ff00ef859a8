package server

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

	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/local"
	"github.com/sealane/sealane/internal/process"
	"github.com/sealane/sealane/internal/statedir"
	"github.com/sealane/sealane/internal/store"
)

// StopOptions are those of `sealane stop`.
type StopOptions struct {
	Force    bool              // kill the engines that stay up
	Progress func(what string) // is told what is waited for; it is called by one goroutine at a time
	Commands instance.Commands // that errors name
}

// silentServer is how long a server that stops may say nothing: each wait of its own is shorter, or tells that it goes on.
const silentServer = 30 * time.Second

// Stop stops the server of a state folder, its gateways and its engines, and returns once they have ended. Where the server is
// gone, it stops what that has left running.
func Stop(ctx context.Context, d statedir.Dir, o StopOptions) error {
	server, err := process.Adopt(d.Control())
	if errors.Is(err, process.ErrNotRunning) {
		return stopOrphans(ctx, d, o)
	}
	if err != nil {
		return err
	}
	defer server.Release()
	if server.Stopped() {
		pid := server.Identity().PID
		return hint.Wrap(fmt.Errorf("the server (process %d) is stopped (SIGSTOP, or a debugger)", pid),
			"continue it with kill -CONT %d; kill -9 %d ends it alone, and `sealane stop` then stops what it has left", pid, pid)
	}
	if err := askToStop(ctx, d, server.Identity().PID, o); err != nil {
		return err
	}
	return waitUnused(ctx, d)
}

// askToStop asks the running server to stop everything and waits until it says that it has.
func askToStop(ctx context.Context, d statedir.Dir, pid int, o StopOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(silentServer, func() {
		cancel(hint.Wrap(fmt.Errorf("the server (process %d) has said nothing for %v", pid, silentServer),
			"its log may say why; kill -9 %d ends it alone, and `sealane stop` then stops what it has left", pid))
	})
	defer silence.Stop()
	o.Progress("asking the server to stop")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://control/stop?force=%t", o.Force), nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", d.Control())
	}}}
	resp, err := client.Do(req)
	if err != nil {
		return causeOf(ctx, err)
	}
	defer resp.Body.Close()
	for events := json.NewDecoder(resp.Body); ; {
		var event stopEvent
		if err := events.Decode(&event); err != nil {
			return causeOf(ctx, fmt.Errorf("the server ended before it said that all is stopped: %w", err))
		}
		silence.Reset(silentServer)
		switch {
		case event.Error != "":
			return staysUp(errors.New(event.Error))
		case event.Stopped:
			return nil
		}
		o.Progress(event.Progress)
	}
}

// causeOf prefers the reason why the wait was given up.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// waitUnused waits until a server that says it has stopped lets go of the records, its last act.
func waitUnused(ctx context.Context, d statedir.Dir) error {
	for range 200 {
		if used, err := store.InUse(d.Records()); err != nil || !used {
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

// stopOrphans stops what a server that is gone has left running.
func stopOrphans(ctx context.Context, d statedir.Dir, o StopOptions) error {
	if _, err := os.Stat(d.Records()); err != nil {
		return hint.Wrap(fmt.Errorf("no server runs with the state folder %s", d), "name its folder with --state")
	}
	if err := d.CheckUnused(); err != nil {
		return err
	}
	runtime := local.New(d.Nodes(), nil, nil)
	defer runtime.Close()
	err := stopRecorded(ctx, d, o, runtime)
	if err == nil || !o.Force || ctx.Err() != nil {
		return err
	}
	o.Progress(fmt.Sprintf("killing what runs in %s, because: %v", d.Nodes(), err))
	return runtime.KillAll(ctx)
}

// stopRecorded stops all that the records tell of.
func stopRecorded(ctx context.Context, d statedir.Dir, o StopOptions, runtime *local.Runtime) error {
	info, _ := d.ReadServerInfo() // without it, the usual places are tried
	key, err := d.MasterKey(info.MasterKeyFile, false)
	if err != nil {
		return err
	}
	st, err := d.OpenRecords(key)
	if err != nil {
		return err
	}
	defer st.Close()
	m, err := instance.New(instance.Config{Store: st, Runtime: runtime, Key: key, Now: time.Now, Log: slog.New(slog.DiscardHandler), Commands: o.Commands})
	if err != nil {
		return err
	}
	var mu sync.Mutex // held while Progress is called
	err = m.StopAll(ctx, instance.StopAllOptions{Force: o.Force, Progress: func(n instance.Name, what string) {
		mu.Lock()
		defer mu.Unlock()
		o.Progress(n.ID + ": " + what)
	}})
	if err != nil {
		return staysUp(err)
	}
	return nil
}

// staysUp says what to do about engines that could not be stopped.
func staysUp(err error) error {
	return hint.Wrap(err, "mend what it says and run `sealane stop` again; `sealane stop --force` kills the engines that stay up, and what they have not saved is lost")
}
