package instance

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"
)

// Verb says what an operation does.
type Verb string

const (
	Create Verb = "create"
	Update Verb = "update"
	Delete Verb = "delete"
)

// Operation is one long-running change of an instance. It lives in the instance's record.
type Operation struct {
	ID              string
	Verb            Verb
	Created         time.Time
	Ended           time.Time // zero until done
	CancelRequested bool
	Done            bool
	Failure         *Failure // how a done operation failed; nil: it succeeded
	APIVersion      string   // through which version of the API it was asked for: "v1", "v1beta1"

	// Detail says what the operation is doing or waiting for; observed, not stored.
	Detail string `json:"-"`
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
)

// newOperation makes an operation with an id in the form that the managed service uses.
func newOperation(verb Verb, apiVersion string, now time.Time) Operation {
	var b [15]byte
	rand.Read(b[:]) // never fails: it ends the process instead
	id := fmt.Sprintf("operation-%d-%013x-%08x-%08x", now.UnixMilli(),
		binary.BigEndian.Uint64(b[:8])>>12, binary.BigEndian.Uint32(b[7:11]), binary.BigEndian.Uint32(b[11:15]))
	return Operation{ID: id, Verb: verb, Created: now, APIVersion: apiVersion}
}

// begin adds an operation to the record and forgets the oldest.
func (i *Instance) begin(verb Verb, apiVersion string, now time.Time) Operation {
	op := newOperation(verb, apiVersion, now)
	i.Operations = append(i.Operations, op)
	if n := len(i.Operations); n > keepOperations {
		i.Operations = i.Operations[n-keepOperations:]
	}
	return op
}

// finish ends the operation under way.
func (i *Instance) finish(failure *Failure, now time.Time) {
	if op := i.pending(); op != nil {
		op.Done, op.Ended, op.Failure = true, now, failure
	}
}

// OperationName is where an operation is: projects/P/locations/L/operations/ID.
func (n Name) OperationName(id string) string {
	return "projects/" + n.Project + "/locations/" + n.Location + "/operations/" + id
}
