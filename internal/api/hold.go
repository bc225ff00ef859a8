package api

import (
	"context"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"

	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/rest"
)

// operationWaiter answers with operations, and gives each a while to be done before that.
type operationWaiter struct {
	operations *instance.Operations
	hold       time.Duration
}

// begun answers a call that has begun an operation.
func (o *operationWaiter) begun(ctx context.Context, name instance.Name, op instance.Operation) (*longrunningpb.Operation, error) {
	return o.answer(ctx, instance.OperationOf{Operation: op, Instance: instance.Instance{Name: name}}, o.hold)
}

// answer answers with an operation that is there. It waits for at most d until that is done.
func (o *operationWaiter) answer(ctx context.Context, of instance.OperationOf, d time.Duration) (*longrunningpb.Operation, error) {
	name := of.Instance.Name
	later, err := o.operations.Wait(ctx, name.Project, name.Location, of.ID, o.patience(ctx, d))
	if err != nil { // the operation is there all the same, so its caller is told of it
		return operationProto(of.Operation, of.Instance)
	}
	return operationProto(later.Operation, later.Instance)
}

// patience is for how long a call may be made to wait. A caller with a deadline gets half of what it has, so that the answer arrives.
// In a batch nothing waits: the calls after it would wait too.
func (o *operationWaiter) patience(ctx context.Context, hold time.Duration) time.Duration {
	if rest.InBatch(ctx) {
		return 0
	}
	if deadline, ok := ctx.Deadline(); ok {
		return min(hold, time.Until(deadline)/2)
	}
	return hold
}
