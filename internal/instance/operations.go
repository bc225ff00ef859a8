package instance

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Verb says what an operation does.
type Verb string

const (
	Create Verb = "create"
	Update Verb = "update"
	Delete Verb = "delete"

	// These replace the engine or its data.
	Upgrade    Verb = "upgrade"
	Import     Verb = "import"
	Export     Verb = "export"
	Failover   Verb = "failover"
	Reschedule Verb = "rescheduleMaintenance"
	Maintain   Verb = "maintenance" // which begins by itself
)

// Operation is one long-running change of an instance. It lives in the instance's record.
type Operation struct {
	ID              string
	Verb            Verb
	Created         time.Time
	Ended           time.Time // zero until it is done
	CancelRequested bool
	Done            bool
	Failure         *Failure // how a done operation failed; nil: it succeeded
	APIVersion      string   // through which version of the API it was asked for: "v1", "v1beta1"
	// Before is what to go back to when the change can't be made; nil: there is nothing to go back to, or the operation is done.
	Before *Before `json:",omitempty"`
	Object string  `json:",omitempty"` // of an import and an export: gs://bucket/object
	// Target is the engine that takes the place of the present one; nil: it stays.
	Target *EngineTarget `json:",omitempty"`
	// Replaces is the number of the node that was the primary, of a failover and an import, and Force is whether its replicas may be far behind.
	Replaces *int `json:",omitempty"`
	Force    bool `json:",omitempty"`
	// Held is for how long clients waited while they were moved to another engine.
	Held time.Duration `json:",omitempty"`

	// Detail says what the operation is doing or waiting for; observed, not stored.
	Detail string `json:"-"`
}

// EngineTarget is an engine that takes the place of an instance's present one.
type EngineTarget struct {
	Version string // as Spec.RedisVersion
	Patch   string // as Instance.EnginePatch
	Slot    int    // as Instance.EngineSlot
}

// Before is what an update changes of an instance, as it was.
type Before struct {
	Spec       Spec
	SealedAuth []byte    `json:",omitempty"`
	OldAuth    []OldAuth `json:",omitempty"`
	// Replication is for which nodes there were, and the read endpoint.
	Replication *Replication `json:",omitempty"`
}

// Failure is the outcome of an operation that did not succeed.
type Failure struct {
	Code    Code
	Message string
}

const (
	// keepOperations bounds a record's size: older finished operations are forgotten.
	keepOperations = 50
	// keepTombstones is how long the operations of a deleted instance can be looked up.
	keepTombstones = 7 * 24 * time.Hour
	// maxWaits bounds the callers that wait for operations at a time. One more isn't made to wait.
	maxWaits = 256
)

// newOperation makes an operation with an id in the form that the managed service uses.
func newOperation(verb Verb, apiVersion string, now time.Time) Operation {
	var b [15]byte
	rand.Read(b[:]) // it never fails, but ends the process
	id := fmt.Sprintf("operation-%d-%013x-%08x-%08x", now.UnixMilli(),
		binary.BigEndian.Uint64(b[:8])>>12, binary.BigEndian.Uint32(b[7:11]), binary.BigEndian.Uint32(b[11:15]))
	return Operation{ID: id, Verb: verb, Created: now, APIVersion: apiVersion}
}

// begin adds an operation to the record and forgets the oldest. before is what to go back to; nil: nothing.
func (i *Instance) begin(verb Verb, before *Before, apiVersion string, now time.Time) Operation {
	op := newOperation(verb, apiVersion, now)
	op.Before = before
	i.Operations = append(i.Operations, op)
	if n := len(i.Operations); n > keepOperations {
		i.Operations = i.Operations[n-keepOperations:]
	}
	return op
}

// finish ends the operation under way.
func (i *Instance) finish(failure *Failure, now time.Time) {
	if op := i.pending(); op != nil {
		op.Done, op.Ended, op.Failure, op.Before = true, now, failure, nil
	}
}

// before is what an update may change of the instance.
func (i *Instance) before() *Before {
	return &Before{Spec: i.clone().Spec, SealedAuth: i.SealedAuth, OldAuth: i.OldAuth, Replication: i.Replication.clone()}
}

// goBack makes the instance what it was before the operation under way, and ends that.
func (i *Instance) goBack(failure *Failure, now time.Time) {
	b := i.pending().Before
	if i.Spec.AuthEnabled != b.Spec.AuthEnabled {
		i.AuthVersion++
	}
	i.Spec, i.SealedAuth, i.OldAuth = b.Spec, b.SealedAuth, b.OldAuth
	i.goBackToNodes(b.Replication)
	i.State = Ready
	i.finish(failure, now)
}

// OperationName is where an operation is: projects/P/locations/L/operations/ID.
func (n Name) OperationName(id string) string {
	return "projects/" + n.Project + "/locations/" + n.Location + "/operations/" + id
}

// Operations are the operations of all instances, under way and past.
type Operations struct {
	records *records
	reader  *reader
	workers *workers
	waits   chan struct{} // an element for each caller that waits; its capacity is maxWaits
}

// OperationOf is an operation with its instance, which is as it is now or as it was when it was deleted.
type OperationOf struct {
	Operation
	Instance Instance
}

// Get finds an operation.
func (o *Operations) Get(project, location, id string) (OperationOf, error) {
	all, err := o.List(project, location)
	if err != nil {
		return OperationOf{}, err
	}
	at := slices.IndexFunc(all, func(of OperationOf) bool { return of.ID == id })
	if at < 0 {
		return OperationOf{}, notFound(Name{Project: project, Location: location}.OperationName(id))
	}
	return all[at], nil
}

// Wait is Get, but an operation that is under way gets until d to end. It is returned as it is then, or when ctx ends, or when the
// server does; so whoever wants to know the outcome looks at Done.
func (o *Operations) Wait(ctx context.Context, project, location, id string, d time.Duration) (OperationOf, error) {
	of, err := o.Get(project, location, id)
	if err != nil || of.Done {
		return of, err
	}
	select {
	case o.waits <- struct{}{}:
	default:
		return of, nil
	}
	defer func() { <-o.waits }()
	timeout := time.NewTimer(d)
	defer timeout.Stop()
	for {
		stepped, alive := o.workers.nextStep(of.Instance.Name)
		// It is read after nextStep: a step that ends in between is not missed.
		if of, err = o.again(of); err != nil || of.Done || !alive {
			return of, err
		}
		select {
		case <-stepped:
		case <-o.workers.closing():
			return of, nil
		case <-ctx.Done():
			return of, nil
		case <-timeout.C:
			return of, nil
		}
	}
}

// again reads an operation that was found once, without a look at other instances.
func (o *Operations) again(of OperationOf) (OperationOf, error) {
	i, err := o.records.load(of.Instance.Name)
	if err != nil {
		return OperationOf{}, err
	}
	i = o.reader.withObserved(i)
	at := slices.IndexFunc(i.Operations, func(op Operation) bool { return op.ID == of.ID })
	if at < 0 { // it was deleted meanwhile
		return OperationOf{}, notFound(i.Name.OperationName(of.ID))
	}
	return OperationOf{i.Operations[at], i}, nil
}

// List lists the operations of a location, or with "-" of all, the newest first.
func (o *Operations) List(project, location string) ([]OperationOf, error) {
	all, err := o.records.list(project, location)
	if err != nil {
		return nil, err
	}
	var ops []OperationOf
	for _, i := range all {
		i = o.reader.withObserved(i)
		for _, op := range i.Operations {
			ops = append(ops, OperationOf{op, i})
		}
	}
	slices.SortStableFunc(ops, func(a, b OperationOf) int { return strings.Compare(b.ID, a.ID) })
	return ops, nil
}

// Cancel asks for an operation to be given up. A create is undone, and so are an upgrade, an import and an export, unless the new engine
// has taken over. An update or a delete goes on to its end, and a finished operation stays as it is.
func (o *Operations) Cancel(project, location, id string) error {
	of, err := o.Get(project, location, id)
	if err != nil || of.Done {
		return err
	}
	err = o.records.mutate(of.Instance.Name, func(i *Instance) error {
		if op := i.pending(); op != nil && op.ID == id {
			op.CancelRequested = true
		}
		return nil
	})
	if of.Verb == Create || of.isTask() {
		o.workers.interrupt(of.Instance.Name) // after an error too: the request may be there all the same
	}
	return err
}

// Delete forgets a finished operation.
func (o *Operations) Delete(project, location, id string) error {
	of, err := o.Get(project, location, id)
	if err != nil {
		return err
	}
	if !of.Done {
		return precondition("operation %s is still running: wait for it, or cancel it", id)
	}
	return o.records.mutate(of.Instance.Name, func(i *Instance) error {
		i.Operations = slices.DeleteFunc(i.Operations, func(op Operation) bool { return op.ID == id })
		return nil
	})
}

// isTask says whether the operation is work that may take long and is given up where that is asked for; see tasks.go.
func (op Operation) isTask() bool {
	return op.Target != nil || op.Verb == Export || op.Verb == Failover
}

// requireNoOperation returns an error while another operation is under way.
func (i *Instance) requireNoOperation() error {
	if i.Deleted {
		return notFound(i.Name.String())
	}
	if op := i.pending(); op != nil {
		name := i.Name.OperationName(op.ID)
		return precondition("'%s' is in state %s: wait for %s, or cancel it", i.Name, i.State, name).because(OperationInProgress, "operation", name)
	}
	return nil
}
