package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"cloud.google.com/go/redis/apiv1/redispb"
	"google.golang.org/protobuf/proto"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/pki"
)

// How a link finds a new CA, and everything else that may change about its server:
//
//  1. Its Source is asked every Link.Every: a CA file is read again (Files), the Memorystore API is asked for the instance
//     (FromAPI).
//     It is asked at once when the server shows another certificate than before, when a probe fails for a reason that newer
//     information may mend, when a password is refused, and when the clock jumped.
//  2. Local adds what only this machine knows, such as a password file. It is asked every few seconds.
//  3. Both make a trust (trust.go). What can't be used changes nothing, and is said.
//  4. A trust that is new is probed. Once the server is known to be right by it, the generation of connections is raised, and each
//     client moves to a fresh one when it has nothing under way.

const (
	// sourceTimeout is how long a Source may take. Between two failures of it there are firstSourcePause to lastSourcePause.
	sourceTimeout    = 15 * time.Second
	firstSourcePause = time.Second
	lastSourcePause  = time.Minute

	// newCertPause is between two times that the Source is asked because the server shows another certificate: several servers
	// may take turns at one address.
	newCertPause = 10 * time.Second

	// localPause is between two times that Link.Local is asked.
	localPause = 3 * time.Second
)

// Source tells where a link leads and what to trust. It is asked again and again, by one goroutine. An error that is a *diagnosis.Fault
// says itself what to do.
type Source func(context.Context) (Server, error)

// Files is a Source of a file: base with the bundle from ca.
func Files(base Server, ca string) Source {
	return func(context.Context) (Server, error) {
		s := base
		var err error
		s.Bundle, err = readFile("the CA file", ca, maxBundle)
		return s, err
	}
}

// Instance is one of Sealane's, as the Memorystore API names it.
type Instance struct {
	Project, Region, ID string
	// WithPassword has the API asked for the password too, if the instance has one.
	WithPassword bool
}

// APIGet asks the Memorystore API for what is at path, such as /v1/projects/local/locations/local/instances/first. An error that is a
// *diagnosis.Fault says itself what to do.
type APIGet func(ctx context.Context, path string, answer proto.Message) error

// FromAPI is a Source of an instance. It asks for nothing but what the Memorystore API has, except where an instance is on its way from
// plaintext to TLS.
func FromAPI(get APIGet, i Instance) Source {
	path := "/v1/projects/" + i.Project + "/locations/" + i.Region + "/instances/" + i.ID
	return func(ctx context.Context) (Server, error) {
		var answer redispb.Instance
		if err := get(ctx, path, &answer); err != nil {
			return Server{}, err
		}
		port, encrypted, err := tlsPort(ctx, get, path, &answer)
		if err != nil {
			return Server{}, err
		}
		address := net.JoinHostPort(answer.GetHost(), strconv.Itoa(port))
		switch {
		case answer.GetHost() == "":
			return Server{}, SourceFault(fmt.Sprintf("instance %s is %s and has no address", i.ID, answer.GetState()), "wait until it is READY; it is asked again by itself")
		case !encrypted:
			return Server{}, SourceFault(fmt.Sprintf("instance %s has no encryption", i.ID), "clients need no sidecar for it: connect to "+address)
		}
		s := Server{Address: address, Identity: pki.Identity(i.Project, i.Region, i.ID)}
		for _, ca := range answer.GetServerCaCerts() {
			s.Bundle += ca.GetCert()
		}
		if i.WithPassword && answer.GetAuthEnabled() {
			var auth redispb.InstanceAuthString
			if err := get(ctx, path+"/authString", &auth); err != nil {
				return Server{}, err
			}
			s.Password = auth.GetAuthString()
		}
		return s, nil
	}
}

// tlsPort is the port of an instance, and whether it has TLS. An instance that takes both, each at a port of its own, is shown by the
// Memorystore API as it was before; that it has a CA gives it away, and Sealane's own API knows the port.
func tlsPort(ctx context.Context, get APIGet, path string, i *redispb.Instance) (port int, encrypted bool, err error) {
	if i.GetTransitEncryptionMode() == redispb.Instance_SERVER_AUTHENTICATION {
		return int(i.GetPort()), true, nil
	}
	if len(i.GetServerCaCerts()) == 0 {
		return int(i.GetPort()), false, nil
	}
	var mode sealanepb.TransitEncryption
	if err := get(ctx, path+"/transitEncryption", &mode); err != nil {
		return 0, false, err
	}
	if mode.GetTlsPort() == 0 {
		return int(i.GetPort()), false, nil
	}
	return int(mode.GetTlsPort()), true, nil
}

// SourceFault is what a Source returns that knows what to do about its failure.
func SourceFault(sentence, fix string) *diagnosis.Fault {
	return &diagnosis.Fault{Code: codeSource, Sentence: sentence, Fix: fix}
}

// asFault is what is said of a Source, or of Link.Local, that fails.
func asFault(err error) *diagnosis.Fault {
	if f, ok := errors.AsType[*diagnosis.Fault](err); ok {
		return f
	}
	return SourceFault(err.Error(), "it is asked again by itself")
}

// refresh asks the Source.
func (k *keeper) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	server, err := k.Source(ctx)
	if err != nil {
		k.sourceFailed(err)
		return
	}
	k.told = &server
	k.counted.refreshed.Add(1)
	k.sourceFailures = 0
	k.refreshAt = time.Now().Add(spread(k.Every))
	k.mu.Lock()
	wasCached := k.cached
	k.cached = false
	k.mu.Unlock()
	before := k.known()
	if !k.combine() {
		k.counted.refreshFailed.Add(1)
		k.refreshAt = time.Now().Add(spread(min(k.Every, 10*time.Second)))
		return
	}
	if wasCached || k.known() != before {
		k.store(server)
	}
}

// refreshForced asks the Source because of a failure, but not all the time. It reports whether there is something new.
func (k *keeper) refreshForced(ctx context.Context) bool {
	if time.Since(k.forcedAt) < k.forcedPause {
		return false
	}
	before := k.known()
	k.forcedAt = time.Now()
	k.forcedPause = min(max(2*k.forcedPause, firstSourcePause), lastSourcePause)
	k.refresh(ctx)
	return k.known() != before
}

// certificateChanged is called when the server shows another certificate than before: then there may be a new CA too.
func (l *link) certificateChanged() {
	l.mu.Lock()
	l.newCert = true
	l.mu.Unlock()
	l.wakeKeeper()
}

func (k *keeper) sourceFailed(err error) {
	k.counted.refreshFailed.Add(1)
	k.problem(asFault(err))
	k.refreshAt = time.Now().Add(spread(backoff(k.sourceFailures, firstSourcePause, min(lastSourcePause, max(k.Every, firstSourcePause)))))
	k.sourceFailures++
	if k.known() == nil && k.Cache != "" {
		k.load()
	}
}

// combine makes a trust of what Source told last and what Local adds. It reports whether that can be used.
func (k *keeper) combine() bool {
	server := *k.told
	if k.Local != nil {
		k.localAt = time.Now().Add(localPause)
		if err := k.Local(&server); err != nil {
			k.problem(asFault(err))
			return false
		}
	}
	if k.sourceFailures == 0 {
		k.solved(ofSource)
	}
	server.PasswordUnknown = server.PasswordUnknown && server.Password == ""
	t, f := newTrust(server, k.link)
	if f != nil {
		k.problem(f)
		return false
	}
	k.solved(ofBundle)
	k.adopt(t)
	return true
}

// adopt goes on with t if it is something new. Clients are moved once the server is known to be right by it.
func (k *keeper) adopt(t *trust) {
	k.mu.Lock()
	last := k.trust
	if last != nil && last.server == t.server {
		k.mu.Unlock()
		return
	}
	k.trust = t
	k.mu.Unlock()
	if last != nil && !slices.Equal(last.server.login(), t.server.login()) {
		k.closeGate() // until it is known that this login works
	}
	k.moved, k.probeAt, k.probeFailures = false, time.Now(), 0
	if last != nil {
		k.log.Info("the server's address, CA bundle, password or the client certificate changed: clients move to fresh connections", "address", t.server.Address, "cas", len(t.cas))
	}
}
