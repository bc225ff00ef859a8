package main

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/protobuf/proto"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/sidecar"
	"github.com/sealane/sealane/internal/sidecarconfig"
)

// fromAPI asks the server about a link's instance.
func fromAPI(e *env, l *sidecarconfig.Link) sidecar.Source {
	return sidecar.FromAPI(func(ctx context.Context, path string, answer proto.Message) error {
		api, err := newAPIClient(e)
		if err == nil {
			_, err = api.call(ctx, http.MethodGet, path, nil, nil, answer)
		}
		if err != nil {
			return sourceFault(err)
		}
		return nil
	}, sidecar.Instance{Project: l.Project, Region: l.Region, ID: l.Instance, WithPassword: l.Auth == "auto"})
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
