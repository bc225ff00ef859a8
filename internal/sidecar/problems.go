package sidecar

import (
	"net"
	"slices"

	"github.com/sealane/sealane/internal/diagnosis"
)

// What is wrong with a connection, and how it is said, is internal/diagnosis. This file has the rest: faults of what the sidecar reads,
// and what each code means to a link.

const (
	codeSource     = "source"      // whoever tells where the server is and what to trust does not
	codeClientPair = "client-cert" // the sidecar's own client certificate, or its key, can't be used
	codeBundle     = "bundle"      // what the Source tells can't be used
)

// Codes are all that a link can say. docs/sidecar.md lists them.
var Codes = append(diagnosis.SidecarCodes(), codeSource, codeClientPair)

// SourceFault is what a Source returns that knows what to do about its failure.
func SourceFault(sentence, fix string) *diagnosis.Fault {
	return &diagnosis.Fault{Code: codeSource, Sentence: sentence, Fix: fix}
}

// topic is what a problem is about: at most one problem of each is shown at a time.
type topic int

const (
	ofSource     topic = iota // the link goes on with what it has
	ofBundle                  // likewise
	ofConnection              // no connection can be made
	ofServer                  // connections can be made, and the server has something against serving clients
	ofProcess                 // this process can't do its part
	ofLimits                  // clients are served, but the server refuses some of what they may ask
	topics
)

func topicOf(f *diagnosis.Fault) topic {
	switch f.Code {
	case codeSource, codeClientPair:
		return ofSource
	case codeBundle:
		return ofBundle
	case "auth", "max-clients", "engine-away", "protected-mode", "loading", "busy", "master-down", "server-error":
		return ofServer
	case "descriptors":
		return ofProcess
	case "misconf", "no-permission":
		return ofLimits
	}
	return ofConnection
}

// mayBeOutdated says that newer information about the server may help.
func mayBeOutdated(f *diagnosis.Fault) bool {
	return slices.Contains([]string{"ca-unknown", "expired", "not-yet-valid", "name-mismatch", "wrong-server", "certificate-unfit", "auth"}, f.Code)
}

// isFar says that no byte came from the server.
func isFar(f *diagnosis.Fault) bool {
	return slices.Contains([]string{"dns", "refused", "timeout", "unreachable"}, f.Code)
}

// fault words what is wrong with the server at an address.
func (t *trust) fault(at string, k diagnosis.Kind, d diagnosis.Details) *diagnosis.Fault {
	return t.subject(at).Fault(k, d)
}

func (t *trust) subject(at string) diagnosis.Subject {
	s := diagnosis.Subject{
		Audience: diagnosis.Sidecar, At: at, Host: t.name(), Port: t.port, TrustName: t.from, InstanceArgs: diagnosis.AnyInstance,
		Identity: t.Identity, DoctorCommand: t.doctor, Now: t.now(),
	}
	if t.shows != nil {
		s.ClientCert = t.shows.Leaf
	}
	return s
}

// connectFault is for a TCP connection that can't be made.
func (t *trust) connectFault(at string, err error) *diagnosis.Fault {
	if f := descriptorFault(err); f != nil {
		return f
	}
	address, _, _ := net.SplitHostPort(at)
	k, d := diagnosis.Connect(address, err)
	return t.fault(at, k, d)
}

func (t *trust) lookupFault(err error) *diagnosis.Fault {
	if f := descriptorFault(err); f != nil {
		return f
	}
	k, d := diagnosis.Lookup(err)
	s := t.subject(t.Address)
	s.Host = t.host
	return s.Fault(k, d)
}

// handshakeFault is for a handshake that failed: because of the server's certificate, or otherwise.
func (t *trust) handshakeFault(at string, h diagnosis.Handshake) *diagnosis.Fault {
	if f := descriptorFault(h.Err); f != nil {
		return f
	}
	if served, err := refusedChain(h.Err); err != nil {
		chain := diagnosis.Chain{Served: served, Trusted: t.cas, Identity: t.Identity, Now: t.now()}
		if k, d := chain.Explain(err); k != "" {
			return t.fault(at, k, d)
		}
	}
	k, d := h.Explain()
	return t.fault(at, k, d)
}
