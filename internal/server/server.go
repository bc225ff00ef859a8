// Package server is `sealane serve` while it runs: what it opens and starts, in which order, what it says when, and how it ends. Stop
// is the other side, `sealane stop`.
//
// It starts in the order state folder, records (their lock keeps a second server out), audit log, manager, listeners, reconciler,
// and ends in the reverse order. A server that ends leaves gateways and engines as they are, unless it was asked to stop everything.
package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/local"
	"github.com/sealane/sealane/internal/objects"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/statedir"
	"github.com/sealane/sealane/internal/store"
)

// Options are what a server is made of.
type Options struct {
	StateDir string // is made if it is not there
	Config   *Config
	Log      *slog.Logger
	Commands instance.Commands // that the server's texts name

	// Changed, if any, is told what was done to certificates, as by instance.Config.
	Changed func(instance.Name, []pki.Action)
}

// Server is a server whose state is open. It holds the lock of its state folder until Close.
type Server struct {
	config  *Config
	log     *slog.Logger
	dir     statedir.Dir
	store   *store.Store
	audit   *audit.Log
	calls   *audit.Log
	objects *objects.Store
	manager *instance.Manager

	stopping chan stopRequest // from the control socket
	failed   chan error       // a listener ended; one slot each, so that nobody waits
	ready    atomic.Bool
	closers  []func() // in reverse order
	running  sync.WaitGroup
}

// Open opens the state folder, or makes it, and all that stands on it. Nothing listens yet and nothing is reconciled.
func Open(ctx context.Context, o Options) (*Server, error) {
	s := &Server{config: o.Config, log: o.Log, stopping: make(chan stopRequest), failed: make(chan error, 4)}
	if l := o.Config.Lifetimes; l != (pki.Lifetimes{}) {
		s.log.Warn("ca_lifetime is set: the certificates of new instances are short-lived, which is for tests", "ca", l.CA, "server_certificate", l.Leaf)
	}
	if err := s.open(ctx, o); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) open(ctx context.Context, o Options) error {
	binaries, err := engine.Find(ctx, s.config.Engines)
	if err != nil {
		return hint.Wrap(err, "install redis-server or valkey-server, or list its path under engines in the configuration")
	}
	for _, b := range binaries {
		s.log.Info("engine found", "path", b.Path, "kind", b.Kind, "version", b.Version)
	}
	if s.dir, err = statedir.Open(o.StateDir); err != nil {
		return err
	}
	_, statErr := os.Stat(s.dir.Records())
	isNew := errors.Is(statErr, fs.ErrNotExist)
	if err := s.config.checkSecretFiles(); err != nil {
		return err
	}
	s.objects, err = objects.New(objects.Config{Buckets: s.config.Buckets, StateDir: string(s.dir), DefaultFolder: s.dir.Buckets()})
	if err != nil {
		return err
	}
	// The key comes first: a start that fails without one must not leave records that look as if they had had one.
	key, err := s.dir.MasterKey(s.config.MasterKeyFile, isNew)
	if err != nil {
		return err
	}
	if s.store, err = s.dir.OpenRecords(key); err != nil {
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
	runtime := local.New(s.dir.Nodes(), []string{self, "gateway"}, binaries)
	s.closers = append(s.closers, runtime.Close)
	s.manager, err = instance.New(instance.Config{
		Store: s.store, Audit: s.audit, Runtime: runtime, Objects: s.objects, Key: key, Addresses: s.config.InstanceAddresses,
		Projects: s.config.Projects, Locations: s.config.Locations, Lifetimes: s.config.Lifetimes, KeyAlgorithm: pki.Algorithm(s.config.CAKeyAlgorithm),
		NameConstraints: s.config.CANameConstraints, Now: time.Now, Log: s.log, Commands: o.Commands, Changed: o.Changed,
	})
	if err != nil {
		return s.dir.WrongKey(err)
	}
	// From here on the key is known to be the right one.
	if err := s.store.Protect(); err != nil {
		s.log.Error("the records of an older version of Sealane are not protected against damage yet; it is tried again with the next change", "err", err)
	}
	return nil
}

// openAudit opens the audit log and the log of calls, which the lock on the records keeps others from writing. One that was changed
// stops the start: what follows it would look as if it could be trusted. Gateways and engines go on meanwhile.
func (s *Server) openAudit(isNew bool) (err error) {
	if s.audit, err = audit.Open(string(s.dir), s.log); err != nil {
		return s.dir.AuditError(err)
	}
	s.closers = append(s.closers, func() { s.audit.Close() })
	if s.calls, err = audit.OpenCalls(string(s.dir), s.log); err != nil {
		return s.dir.AuditError(err)
	}
	s.closers = append(s.closers, func() { s.calls.Close() })
	const withoutPast = "the state folder is not new: "
	if err := s.begin(s.audit, isNew, withoutPast+"certificates that were signed before are not in this log"); err != nil {
		return s.dir.AuditError(err)
	}
	if err := s.begin(s.calls, isNew, withoutPast+"calls that were made before are not in this log"); err != nil {
		// As on a full disk. Until there is space, calls that change something are refused.
		s.log.Error("the log of calls can't be begun", "err", err)
	}
	return nil
}

// begin makes the first entry of a log that has none.
func (s *Server) begin(l *audit.Log, isNew bool, withoutPast string) error {
	if l.Head().Seq > 0 {
		return nil
	}
	reason := "the state folder is new"
	if !isNew {
		reason = withoutPast
	}
	return l.Append(audit.Entry{Time: time.Now(), Action: audit.Begin, Reason: reason})
}

// Manager has the server's instances.
func (s *Server) Manager() *instance.Manager { return s.manager }

// Close ends what the server has started, and lets go of the state folder. Gateways and engines go on.
func (s *Server) Close() {
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
	s.closers = nil
	s.running.Wait()
}
