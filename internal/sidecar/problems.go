package sidecar

import (
	"net"
	"slices"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
)

// What is wrong with a connection, and how that is said, is in internal/diagnosis. This file has what a fault means to a link: whether
// clients can be served all the same, whether newer information may help, and when it is logged.

const (
	codeSource     = "source"      // whoever tells where the server is and what to trust does not
	codeClientPair = "client-cert" // the sidecar's own client certificate, or its key, can't be used
	codeBundle     = "bundle"      // what the Source tells can't be used
)

// Codes are all that a link can say. docs/sidecar.md lists them.
var Codes = append(diagnosis.SidecarCodes(), codeSource, codeClientPair)

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
		Audience: diagnosis.Sidecar, At: at, Host: t.host, Port: t.port, TrustName: t.from, InstanceArgs: diagnosis.AnyInstance,
		Identity: t.server.Identity, DoctorCommand: t.doctor, Now: t.now(),
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
	return t.fault(t.server.Address, k, d)
}

// handshakeFault is for a handshake that failed: because of the server's certificate, or otherwise.
func (t *trust) handshakeFault(at string, h diagnosis.Handshake) *diagnosis.Fault {
	if f := descriptorFault(h.Err); f != nil {
		return f
	}
	if served, err := refusedChain(h.Err); err != nil {
		chain := diagnosis.Chain{Served: served, Trusted: t.cas, Identity: t.server.Identity, Now: t.now()}
		if k, d := chain.Explain(err); k != "" {
			s := t.subject(at)
			s.Host = t.name()
			return s.Fault(k, d)
		}
	}
	k, d := h.Explain()
	return t.fault(at, k, d)
}

// problem is something wrong that lasts.
type problem struct {
	fault *diagnosis.Fault
	since time.Time
	said  map[string]bool // by code
}

// problem notes what is wrong, and says it if that was not done since all was well.
func (l *link) problem(f *diagnosis.Fault) {
	l.mu.Lock()
	p := l.problems[topicOf(f)]
	if p == nil {
		p = &problem{since: time.Now(), said: make(map[string]bool)}
		l.problems[topicOf(f)] = p
	}
	news := !p.said[f.Code]
	p.fault, p.said[f.Code] = f, true
	l.mu.Unlock()
	if news {
		l.log.Warn("problem", "code", f.Code, "what", f.Sentence, "hint", f.Fix)
	}
}

// solved ends the problem of a topic, if there is one.
func (l *link) solved(about topic) {
	l.mu.Lock()
	p := l.problems[about]
	l.problems[about] = nil
	l.mu.Unlock()
	if p != nil {
		l.log.Info("well again", "was", p.fault.Code, "after", time.Since(p.since).Round(time.Millisecond))
	}
}

// problemCodes are the codes of all problems that there are now.
func (l *link) problemCodes() (codes []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.problems {
		if p != nil {
			codes = append(codes, p.fault.Code)
		}
	}
	return codes
}

// whyNotServed is what keeps clients from being served, nil if nothing does.
func (l *link) whyNotServed() *diagnosis.Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, about := range []topic{ofProcess, ofConnection, ofServer} {
		if p := l.problems[about]; p != nil {
			return p.fault
		}
	}
	if l.wasWell {
		return nil
	}
	for _, p := range l.problems {
		if p != nil {
			return p.fault
		}
	}
	return &diagnosis.Fault{Sentence: "the server has not been reached yet", Fix: "wait"}
}

// notes are what should be known although clients are served.
func (l *link) notes() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := append([]string(nil), l.Warnings...)
	if l.cached {
		all = append(all, "what is trusted is from "+l.Cache+", and may be old")
	}
	for _, about := range []topic{ofSource, ofBundle} {
		if p := l.problems[about]; p != nil {
			all = append(all, "goes on with what it has: "+p.fault.Sentence+"; "+p.fault.Fix)
		}
	}
	if n := l.trust.clientCertificateNote(); n != "" {
		all = append(all, n)
	}
	if p := l.problems[ofLimits]; p != nil {
		all = append(all, "not all is served: "+p.fault.Sentence+"; "+p.fault.Fix)
	}
	return all
}
