package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

func newOperations(e *env) *cobra.Command {
	return group("operations", "Look at operations, under way and past", "  sealane operations list",
		newOperationList(e),
		operationCommand(e, "describe", "Show an operation", http.MethodGet, "", &longrunningpb.Operation{}),
		operationCommand(e, "cancel", "Give an operation up: a create is undone, and so are an upgrade, an import and an export", http.MethodPost, ":cancel", &emptypb.Empty{}),
		operationCommand(e, "delete", "Forget a finished operation", http.MethodDelete, "", &emptypb.Empty{}))
}

func newOperationList(e *env) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: "list", Short: "List operations", Args: exactly(), Example: "  sealane operations list --region -",
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			all := &longrunningpb.ListOperationsResponse{}
			raw, err := api.call(c.Context(), http.MethodGet, "/v1/"+parent.parent()+"/operations", nil, nil, all)
			if err != nil {
				return err
			}
			return format.print(e.out, raw, func(w io.Writer) {
				row(w, "OPERATION", "VERB", "TARGET", "STATE", "STARTED")
				for _, op := range all.GetOperations() {
					m := operationMetadata(op)
					row(w, lastPart(op.GetName()), m.GetVerb(), lastPart(m.GetTarget()), operationState(op), m.GetCreateTime().AsTime().Format(time.RFC3339))
				}
			})
		},
	}
	parent.add(c)
	format.add(c)
	return c
}

// operationCommand makes a command for one operation. With an answer that is an operation it shows it.
func operationCommand(e *env, verb, short, method, suffix string, out proto.Message) *cobra.Command {
	var parent parentFlags
	var format formatFlag
	c := &cobra.Command{
		Use: verb + " OPERATION", Short: short, Args: exactly("OPERATION"),
		Example: "  sealane operations " + verb + " operation-1772429059113-64c03cc75420f-1e6dfa66-a66a511c",
		RunE: func(c *cobra.Command, args []string) error {
			api, err := newAPIClient(e)
			if err != nil {
				return err
			}
			name := args[0]
			if !strings.Contains(name, "/") {
				name = parent.parent() + "/operations/" + name
			}
			raw, err := api.call(c.Context(), method, "/v1/"+name+suffix, nil, nil, out)
			if err != nil {
				return err
			}
			op, ok := out.(*longrunningpb.Operation)
			if !ok {
				return nil
			}
			return format.print(e.out, raw, func(w io.Writer) { printOperation(w, op) })
		},
	}
	parent.add(c)
	if verb == "describe" {
		format.add(c)
	}
	return c
}

func printOperation(w io.Writer, op *longrunningpb.Operation) {
	m := operationMetadata(op)
	row(w, "name:", op.GetName())
	row(w, "state:", operationState(op))
	row(w, "verb:", m.GetVerb())
	row(w, "target:", m.GetTarget())
	if m.GetStatusDetail() != "" {
		row(w, "detail:", m.GetStatusDetail())
	}
	if e := op.GetError(); e != nil {
		row(w, "error:", e.GetMessage())
	}
	row(w, "started:", m.GetCreateTime().AsTime().Format(time.RFC3339))
	if m.GetEndTime() != nil {
		row(w, "ended:", m.GetEndTime().AsTime().Format(time.RFC3339))
	}
}

func operationMetadata(op *longrunningpb.Operation) *redispb.OperationMetadata {
	m := &redispb.OperationMetadata{}
	if err := op.GetMetadata().UnmarshalTo(m); err != nil {
		m.StatusDetail = fmt.Sprintf("(unknown metadata: %v)", err)
	}
	return m
}

func operationState(op *longrunningpb.Operation) string {
	switch {
	case !op.GetDone():
		return "RUNNING"
	case op.GetError() != nil:
		return "FAILED"
	}
	return "DONE"
}
