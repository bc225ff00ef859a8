package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"syscall"
	"time"

	"github.com/sealane/sealane/internal/objects"
	"github.com/sealane/sealane/internal/store"
)

// ErrFatal marks errors that trying again will not help: a create that meets one fails at once.
var ErrFatal = errors.New("cannot be done here")

// AsFatal marks errors that the machine's owner has to mend, such as a full disk, as ErrFatal: so an operation fails at once and says so.
func AsFatal(err error) error {
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, fs.ErrPermission} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", ErrFatal, err)
		}
	}
	return err
}

// createTimeout is how long a create is tried; what fails for longer is undone and reported.
const createTimeout = time.Minute

// reconciler makes instances match their records. Each worker calls step again and again; there is no other code that
// starts, changes or removes a node.
type reconciler struct {
	records     *records
	workers     *workers
	monitors    *monitors
	runtime     Runtime
	objects     *objects.Store // nil: none
	secrets     secrets
	issuer      *certificateIssuer
	authStrings *AuthStrings
	evidence    *ClientEvidence
	plaintext   *plaintextClients
	commands    Commands
	now         func() time.Time
	log         *slog.Logger
	restarted   func(name Name, process string) // counts a process that ended by itself
	failedOver  func(Name, FailoverRecord)      // counts a failover
}

// step does what the record asks for. It is idempotent: after a crash the next process begins it again.
func (r *reconciler) step(ctx context.Context, w *worker) error {
	i, err := r.records.load(w.name)
	if codeOf(err) == NotFound || err == nil && i.Deleted {
		return errGone
	}
	if err != nil {
		return err
	}
	op := i.pending()
	switch {
	case op != nil && op.Verb == Delete:
		return r.tearDown(ctx, i, nil)
	case op != nil && op.Verb == Create && op.CancelRequested:
		return r.tearDown(ctx, i, &Failure{Cancelled, "the operation was cancelled"})
	}
	if settled, err := r.settleTask(w, &i); settled || err != nil {
		return err
	}
	r.restartIfAsked(ctx, w, &i)
	if i.Replication == nil { // where there are several nodes, only what is to be restarted waits
		if err := r.workers.checkRestart(w); err != nil {
			return err
		}
	}
	if err := r.converge(ctx, w, &i); err != nil {
		tooLong := !w.firstTried.IsZero() && r.now().Sub(w.firstTried) > createTimeout
		if op != nil && op.Verb == Create && ctx.Err() == nil && (errors.Is(err, ErrFatal) || tooLong) {
			r.log.Error("create failed", "instance", w.name, "err", err)
			return r.tearDown(ctx, i, &Failure{codeOfFailure(err), fmt.Sprintf("create %s: %v", i.Name.ID, err)})
		}
		if op != nil && op.Before != nil && ctx.Err() == nil && errors.Is(err, ErrFatal) && !r.mayComeBack(w, err) {
			return r.goBack(w, i, err)
		}
		if op != nil && op.isTask() && ctx.Err() == nil && tooLong {
			r.log.Error("operation failed", "instance", i.Name, "operation", op.ID, "verb", op.Verb, "err", err)
			return r.endTask(w, &i, op.ID, taskFailure(*op, i.Name, precondition("the instance is not well: see its status")))
		}
		return err
	}
	if op := i.pending(); op != nil && op.isTask() {
		return r.doTask(ctx, w, &i)
	}
	if i.pending() == nil && i.State == Ready {
		return r.tend(ctx, w, i)
	}
	i.State = Ready
	i.finish(nil, r.now().UTC())
	if err := r.records.save(&i); err != nil {
		return err
	}
	r.log.Info("instance is ready", "instance", w.name, "address", i.Address())
	w.poke() // for what waits for the operation's end, such as the first snapshot
	return nil
}

// tend does what is due by itself for an instance that is as it should be.
func (r *reconciler) tend(ctx context.Context, w *worker, i Instance) error {
	if i.Spec.Backend != nil {
		return nil // its memory, snapshots and maintenance are not Sealane's
	}
	r.noteMemory(ctx, i)
	again, err := r.makeSnapshots(ctx, w, &i)
	w.wakeBy(again)
	if err != nil {
		return err
	}
	return r.maintain(w, i)
}

// noteMemory shows users that the system memory is short.
func (r *reconciler) noteMemory(ctx context.Context, i Instance) {
	statuser, ok := r.runtime.(GatewayStatuser)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if s, err := statuser.GatewayStatus(ctx, i.nodeID(0)); err == nil && s.Memory != nil {
		r.workers.setNote(i.Name, memoryNote, s.Memory.Warning())
	}
}

// goBack ends an operation that can't be done, and makes the instance what it was before. The next step, which begins at once, makes
// the node so.
func (r *reconciler) goBack(w *worker, i Instance, err error) error {
	op := i.pending()
	r.log.Error("operation failed", "instance", i.Name, "operation", op.ID, "verb", op.Verb, "err", err)
	i.goBack(&Failure{codeOfFailure(err), fmt.Sprintf("%s %s: %v; the instance is as it was before", op.Verb, i.Name.ID, err)}, r.now().UTC())
	if err := r.records.save(&i); err != nil {
		return err
	}
	w.poke()
	return nil
}

func codeOfFailure(err error) Code {
	if c := codeOf(err); c != Internal {
		return c
	}
	return FailedPrecondition
}

// converge makes the certificates and the node what the record says. While a certificate can't be signed or kept, the node
// goes on with the last good ones, and the error is returned afterwards.
//
// One time holds for all of it. What a gateway is given must fit together: with a cross-certificate that ends between two looks
// at the clock, the anchors would not be those of the chain, and the gateway would note of clients what they haven't shown.
func (r *reconciler) converge(ctx context.Context, w *worker, i *Instance) error {
	now := r.now()
	if err := r.authStrings.dropExpired(i, now); err != nil {
		return err
	}
	failed := r.issuer.reconcile(i, now)
	w.due = i.oldAuthDue()
	if certificates := i.ownCertificates(); failed == nil && certificates != nil {
		if coming := certificates.At(now).Upcoming(); len(coming) > 0 {
			w.wakeBy(coming[0].Due)
		}
	}
	r.workers.mu.Lock()
	w.observed, w.certified = true, failed == nil
	r.workers.mu.Unlock()
	if failed != nil && (errors.Is(failed, store.ErrConflict) || i.lacksCertificates()) {
		return failed
	}
	var err error
	if i.Replication != nil {
		err = r.ensureNodes(ctx, w, i, now)
	} else {
		err = r.ensure(ctx, *i, now)
	}
	r.workers.mu.Lock()
	w.proved = err == nil
	if err == nil {
		w.applied = i.version
	}
	r.workers.mu.Unlock()
	if err == nil {
		r.observeEngine(ctx, w, *i)
	}
	if failed != nil && err != nil {
		return fmt.Errorf("%w; %w", failed, err)
	}
	if failed != nil {
		return failed
	}
	return err
}

// lacksCertificates says whether there are none that the nodes could go on with.
func (i Instance) lacksCertificates() bool {
	c := i.ownCertificates()
	return c == nil || c.Leaf == nil && !c.NoLeaf || c.Peer == nil && i.Replication != nil
}

// observeEngine finds out which engine runs: after a crash it may be another one than before.
func (r *reconciler) observeEngine(ctx context.Context, w *worker, i Instance) {
	reader, ok := r.runtime.(EngineInfoReader)
	if !ok {
		return
	}
	info, err := reader.EngineInfo(ctx, i.primaryID(), "server")
	if err != nil {
		return
	}
	r.workers.mu.Lock()
	defer r.workers.mu.Unlock()
	w.running = cmp.Or(info["valkey_version"], info["redis_version"]) // Valkey's redis_version says what it is compatible with
}

func (r *reconciler) ensure(ctx context.Context, i Instance, now time.Time) error {
	node, err := r.node(i, now)
	if err != nil {
		return err
	}
	return r.runtime.Ensure(ctx, node, func(detail string) {
		r.workers.observe(i.Name, func(o *observation) { o.detail = detail })
	})
}

// tearDown removes the node and leaves a tombstone that holds the operations.
func (r *reconciler) tearDown(ctx context.Context, i Instance, failure *Failure) error {
	r.monitors.forget(i.Name)
	for _, id := range i.nodeIDs() {
		if err := r.runtime.Remove(ctx, id); err != nil {
			return fmt.Errorf("remove %s: %w", i.Name, err)
		}
	}
	i.finish(failure, r.now().UTC())
	i.Deleted, i.State = true, Deleting
	i.Certificates, i.SealedAuth, i.OldAuth, i.SealedAdmin, i.SealedBackend, i.Replication = nil, nil, nil, nil, nil, nil
	if err := r.records.save(&i); err != nil {
		return err
	}
	r.evidence.kept.forget(i.UID)
	r.plaintext.kept.forget(i.UID)
	r.log.Info("instance is removed", "instance", i.Name)
	return errGone
}
