// Package wire holds the fixed words that Sealane's programs recognise each other by: names in ALPN, a push, and how
// certain errors begin.
//
// A gateway, a sidecar and a `sealane doctor` that talk to each other may be of different versions. So a value here never
// changes: a new meaning gets a new name, and wire_test.go repeats the values.
package wire

// Names in ALPN (RFC 7301).
const (
	// ALPNSealane is negotiated between a sidecar and a gateway. It allows the gateway to send GoawayPush.
	ALPNSealane = "sealane/1"

	// ALPNProbe is offered by what is no application, such as `sealane doctor` and the server's own checks. It is never
	// selected. A gateway keeps those that offer it out of the record of what clients trust.
	ALPNProbe = "sealane-probe"

	// ALPNTrustsCA begins a name that a sidecar offers for each CA that it trusts. The SHA-256 of the CA's certificate
	// follows, in lower-case hexadecimal. It is never selected.
	ALPNTrustsCA = "sealane-ca/"
)

// ProbeLibrary is what a probe without TLS says its library is (CLIENT SETINFO LIB-NAME), since it can't offer ALPNProbe. A gateway keeps
// it out of the list of clients without TLS.
const ProbeLibrary = "sealane-probe"

// GoawayPush asks a sidecar to go on with a fresh connection. It is a RESP3 push that comes between two replies, also
// where the client speaks RESP2. The gateway serves the connection on until the sidecar closes it.
const GoawayPush = ">1\r\n$14\r\nsealane-goaway\r\n"

// How errors begin, without the "-" of RESP. More words may follow.
const (
	// MaxClients is how Redis begins its own error, which client libraries look for. Redis goes on with " reached", or in
	// cluster mode with " + cluster connections reached". A gateway and a sidecar say " reached" too.
	MaxClients = "ERR max number of clients"

	// EngineUnavailable is how a gateway begins what it says while its engine does not answer.
	EngineUnavailable = "ERR the engine behind this port"

	// WantsTLS is what a gateway says at a port with TLS to a client without. To a web browser it says TLSRequired alone,
	// because "ERR" is RESP's.
	WantsTLS    = "ERR " + TLSRequired
	TLSRequired = "this port wants TLS"
)
