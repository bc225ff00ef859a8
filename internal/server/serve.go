package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/instance"
)

// settleTime is how long "ready" waits for the instances of the last time; an engine with much data takes longer.
const settleTime = 10 * time.Second

// Signals end a server.
type Signals struct {
	Interrupt <-chan os.Signal // stops everything; a second one gives that up
	Terminate <-chan os.Signal // ends the server alone
}

// Serve listens, reconciles, and calls ready once the API answers and the instances of the last time have been looked at. It returns
// when a signal, `sealane stop`, ctx or a listener that fails ends it; Close then ends what it has started.
func (s *Server) Serve(ctx context.Context, signals Signals, ready func()) error {
	if err := s.listen(); err != nil {
		return err
	}
	// Exports may have been killed along with the server. Folders can be large, so nothing waits for this.
	sweeping, endSweep := context.WithCancel(ctx)
	defer endSweep()
	s.running.Go(func() {
		if err := s.objects.Sweep(sweeping); err != nil && sweeping.Err() == nil {
			s.log.Warn("what killed exports have left in the buckets' folders could not be removed", "err", err)
		}
	})
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
			ready()
		case <-ctx.Done():
			return nil
		case <-signals.Terminate:
			s.log.Info("ending; gateways and engines go on")
			return nil
		case err := <-s.failed:
			return err
		case <-signals.Interrupt:
			s.log.Info("stopping everything; interrupt again to leave it as it is")
			return s.stopAll(ctx, signals.Interrupt, stopRequest{})
		case r := <-s.stopping:
			err := s.stopAll(ctx, signals.Interrupt, r)
			r.outcome <- err
			return err
		}
	}
}

// stopAll stops every gateway and engine. A second interrupt gives up.
func (s *Server) stopAll(ctx context.Context, interrupt <-chan os.Signal, r stopRequest) error {
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
		return hint.Wrap(errors.New("interrupted; some gateways and engines may still run"), "stop them with `sealane stop`")
	}
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
