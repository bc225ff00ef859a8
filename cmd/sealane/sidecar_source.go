package main

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/protobuf/proto"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/sidecar"
)

// sidecarAPI asks the server for a sidecar. The server's address and the token are looked up each time: they may have changed.
func sidecarAPI(e *env) sidecar.APIGet {
	return func(ctx context.Context, path string, answer proto.Message) error {
		api, err := newAPIClient(e)
		if err == nil {
			_, err = api.call(ctx, http.MethodGet, path, nil, nil, answer)
		}
		if err != nil {
			return sourceFault(err)
		}
		return nil
	}
}

func sourceFault(err error) *diagnosis.Fault {
	if f, ok := errors.AsType[*diagnosis.Fault](err); ok {
		return f
	}
	fix := hint.Of(err)
	if fix == "" {
		fix = "the API's log has the details"
	}
	return sidecar.SourceFault(oneLine(err.Error()), fix+"; it is asked again by itself")
}
