// Package failover puts clients of five libraries under load while primaries fail, and measures what the clients notice. The same load
// runs against Sealane and against Redis with Sentinel. What the clients saw is checked by the package history.
package failover

import (
	"context"
	"crypto/tls"
	"slices"
)

// Kind is a way in which a primary fails, or is made to give up its role.
type Kind string

const (
	Kill    Kind = "kill -9"
	Stop    Kind = "SIGSTOP"
	Disk    Kind = "kill -9 on a full disk"
	Socket  Kind = "unreachable socket"
	Command Kind = "failover command"
)

// Target is a primary with replicas that clients write to.
type Target interface {
	Name() string
	Endpoint() Endpoint
	// Lossless says whether a failover of a kind is promised to lose no acknowledged write at all.
	Lossless(kind Kind) bool
	// Fail makes the primary fail, and returns when that has happened. A command is sent, and its end is not awaited.
	Fail(ctx context.Context, kind Kind) error
	// Promoted waits until another node is the primary.
	Promoted(ctx context.Context) error
	// Heal repairs what Fail broke, as an operator or a service manager would, and waits until a replica is in sync with the primary.
	Heal(ctx context.Context) error
	// Close ends all processes and removes all files.
	Close() error
}

// Endpoint says how clients reach a target.
type Endpoint struct {
	Address string      // HOST:PORT; "" with sentinels
	TLS     *tls.Config // nil: plaintext
	CAFile  string      // the CA of TLS, for clients in other processes

	Sentinels []string // HOST:PORT; clients ask them for the primary
	Master    string   // its name there
}

// isSentinel says whether an address is not a node's.
func (e Endpoint) isSentinel(address string) bool { return slices.Contains(e.Sentinels, address) }
