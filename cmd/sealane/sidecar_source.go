package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"

	"cloud.google.com/go/redis/apiv1/redispb"

	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/sidecar"
	"github.com/sealane/sealane/internal/sidecarconfig"
)

// fromAPI asks the server about an instance. It needs nothing but what the Memorystore API has.
func fromAPI(e *env, l *sidecarconfig.Link) sidecar.Source {
	parent := parentFlags{l.Project, l.Region}
	return func(ctx context.Context) (sidecar.Server, error) {
		api, err := newAPIClient(e)
		if err != nil {
			return sidecar.Server{}, sourceFault(err)
		}
		i, _, err := api.instance(ctx, parent.instance(l.Instance))
		if err != nil {
			return sidecar.Server{}, sourceFault(err)
		}
		switch {
		case i.GetHost() == "":
			return sidecar.Server{}, sidecar.SourceFault(fmt.Sprintf("instance %s is %s and has no address", l.Instance, i.GetState()), "wait until it is READY; it is asked again by itself")
		case i.GetTransitEncryptionMode() != redispb.Instance_SERVER_AUTHENTICATION:
			return sidecar.Server{}, sidecar.SourceFault(fmt.Sprintf("instance %s has no encryption", l.Instance), "clients need no sidecar for it: connect to "+net.JoinHostPort(i.GetHost(), strconv.Itoa(int(i.GetPort()))))
		}
		s := sidecar.Server{
			Address: net.JoinHostPort(i.GetHost(), strconv.Itoa(int(i.GetPort()))), Bundle: string(bundleOf(i)),
			Identity: pki.Identity(l.Project, l.Region, l.Instance),
		}
		if l.Auth == "auto" && i.GetAuthEnabled() {
			auth := &redispb.InstanceAuthString{}
			_, err = api.call(ctx, http.MethodGet, "/v1/"+i.GetName()+"/authString", nil, nil, auth)
			s.Password = auth.GetAuthString()
		}
		if err != nil {
			return sidecar.Server{}, sourceFault(err)
		}
		return s, nil
	}
}

func sourceFault(err error) *sidecar.Fault {
	if f, ok := errors.AsType[*sidecar.Fault](err); ok {
		return f
	}
	fix := hint.Of(err)
	if fix == "" {
		fix = "the API's log has the details"
	}
	return sidecar.SourceFault(oneLine(err.Error()), fix+"; it is asked again by itself")
}
