package instance

import (
	"net"
	"strconv"
	"time"

	"github.com/sealane/sealane/internal/gateway"
)

// EncryptionMode is whether an instance's clients use TLS.
type EncryptionMode string

const (
	ModeDisabled  EncryptionMode = "DISABLED"              // none does
	ModePreferred EncryptionMode = "PREFERRED"             // each may choose: there is a port with TLS and one without
	ModeEnforced  EncryptionMode = "SERVER_AUTHENTICATION" // all do
)

// Encryption is how far an instance has come on the way from plaintext to TLS, or back. An instance that never set out has none; its
// Spec alone says whether it has TLS.
//
// While both are taken, the Spec and the Port stay what they were before, because clients of the Memorystore API know only two modes
// and would see a change that they did not ask for.
type Encryption struct {
	Preferred bool
	// PlaintextPort and TLSPort are the instance's for good once they are here, so that the way back needs no other.
	PlaintextPort, TLSPort int
	// Enforced is when plaintext was closed, zero if it is not. WasEncrypted is what the Spec said before.
	Enforced     time.Time `json:",omitzero"`
	WasEncrypted bool      `json:",omitempty"`
}

// EncryptionMode is whether the instance's clients use TLS.
func (i Instance) EncryptionMode() EncryptionMode {
	switch {
	case i.Encryption != nil && i.Encryption.Preferred:
		return ModePreferred
	case i.Spec.TransitEncryption:
		return ModeEnforced
	}
	return ModeDisabled
}

// TLSPort is the port with TLS; 0: none.
func (i Instance) TLSPort() int {
	switch {
	case i.EncryptionMode() == ModeDisabled:
		return 0
	case i.Encryption != nil:
		return i.Encryption.TLSPort
	}
	return i.Port
}

// PlaintextPort is the port without TLS; 0: none.
func (i Instance) PlaintextPort() int {
	switch {
	case i.EncryptionMode() == ModeEnforced:
		return 0
	case i.Encryption != nil:
		return i.Encryption.PlaintextPort
	}
	return i.Port
}

// ports are all that the instance has at its address.
func (i Instance) ports() []int {
	if e := i.Encryption; e != nil {
		return []int{e.TLSPort, e.PlaintextPort}
	}
	return []int{i.Port}
}

// showPort makes Port that of the mode that the Memorystore API shows.
func (i *Instance) showPort() {
	if i.Port = i.Encryption.PlaintextPort; i.Spec.TransitEncryption {
		i.Port = i.Encryption.TLSPort
	}
}

// listeners are what the gateway listens at. Where plaintext was closed its port has TLS, so that clients without are told how to connect.
func (i Instance) listeners() []gateway.Listener {
	at := func(port int, tls bool) gateway.Listener {
		return gateway.Listener{Address: net.JoinHostPort(i.Host, strconv.Itoa(port)), TLS: tls}
	}
	switch mode := i.EncryptionMode(); {
	case i.Encryption == nil:
		return []gateway.Listener{at(i.Port, mode == ModeEnforced)}
	case mode == ModeDisabled:
		return []gateway.Listener{at(i.Encryption.PlaintextPort, false)}
	default:
		return []gateway.Listener{at(i.Encryption.TLSPort, true), at(i.Encryption.PlaintextPort, mode == ModeEnforced)}
	}
}
