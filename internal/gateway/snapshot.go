package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/replicationlink"
	"github.com/sealane/sealane/internal/routing"
)

const (
	maxSnapshotBytes    = 4 << 20
	maxListeners        = 64
	maxConnectLength    = 512
	maxHandshakeTimeout = 10 * time.Minute
	maxFirstByteTimeout = 24 * time.Hour

	defaultHandshakeTimeout = 10 * time.Second
	defaultFirstByteTimeout = 5 * time.Minute

	// maxSocketPath is what sockaddr_un holds besides its final zero byte.
	maxSocketPath = 107
)

// Listener is one address that the gateway accepts clients at.
type Listener struct {
	Address string `json:"address"` // IP address and port, as in "127.83.0.1:6378"
	TLS     bool   `json:"tls"`     // false: plaintext, for an instance whose user has disabled encryption
	// Shared lets other gateways of the same user accept at this address too (SO_REUSEPORT). The kernel divides clients among them.
	Shared bool `json:"shared,omitempty"`
}

// Replication says where the engines of the instance's other nodes connect to replicate, and from which engine.
type Replication = replicationlink.Config

// Snapshot is the gateway's whole input. Once handed over it must not be changed. It holds private keys, so printing or logging it shows
// the generation and the digest only. Its JSON is for the admin socket and a file of mode 0600.
//
// A field that is added needs omitempty: the digest of a snapshot that does not use it must stay what it is, because the gateway may be
// older than the controller that talks to it.
type Snapshot struct {
	// Generation orders snapshots, from 1. One that is not newer than the gateway's is refused, unless its content is the same.
	Generation uint64     `json:"generation"`
	Listeners  []Listener `json:"listeners"`
	// Engine is the path of the engine's Unix socket. "": there is Backend.
	Engine string `json:"engine"`
	// Backend is a Redis that runs elsewhere, in place of Engine. Nil: there is Engine.
	Backend *backend.Server `json:"backend,omitempty"`
	// Passwords are the SHA-256 hashes, in hex, of those by which clients log in at the gateway, where there is a Backend. An engine
	// checks its own. None: the backend decides.
	Passwords []string `json:"passwords,omitempty"`
	// Certificate is the PEM chain to serve, leaf first; PrivateKey the leaf's, PEM PKCS#8. Needed when a listener has TLS.
	Certificate []byte `json:"certificate,omitempty"`
	PrivateKey  []byte `json:"private_key,omitempty"`
	// Anchors are labels of trust anchors, each of which verifies Certificate by itself. The gateway does not know what they stand for.
	// What a handshake shows of a client's trust is kept under them. None: nothing is kept.
	Anchors []string `json:"anchors,omitempty"`
	// Next is a second certificate, for clients to be tested against. Nil: there is none, and its name is served with Certificate.
	Next *NextChain `json:"next,omitempty"`
	// NextCross is a third one, which there can only be beside Next. Nil: there is none.
	NextCross *NextChain `json:"next_cross,omitempty"`
	// Connect is what a client that speaks the wrong protocol is told to do: one line of printable ASCII. Needed when a
	// listener has TLS.
	Connect string `json:"connect,omitempty"`
	// FirstByteTimeout closes a connection to a listener with TLS that has sent nothing since it was opened. It is generous: pools
	// open early, and a silent connection harms nobody while there is room for others (see Unserved). Zero: 5 min. Where IdleTimeout
	// is shorter, that closes silent connections. At a listener without TLS only IdleTimeout does, as the engine itself would.
	FirstByteTimeout time.Duration `json:"first_byte_timeout,omitempty"`
	// HandshakeTimeout counts from the client's first byte. Zero: 10 s.
	HandshakeTimeout time.Duration `json:"handshake_timeout,omitempty"`
	// MaxClients is how many clients are served at a time, as the engine's maxclients. Zero: as many as the limit of open files allows.
	MaxClients int `json:"max_clients,omitempty"`
	// DataPath is how clients share the engine. "": Transparent.
	DataPath DataPath `json:"data_path,omitempty"`
	// IdleTimeout closes clients that have sent nothing for so long, as the engine's setting timeout would. Zero: never.
	IdleTimeout time.Duration `json:"idle_timeout,omitempty"`
	// Auth is a number that changes with the engine's passwords. A client that has not logged in since the change does not share engine
	// connections that were opened before it.
	Auth uint64 `json:"auth,omitempty"`
	// SystemMemory is how much memory the engine and the gateway may use together, in bytes. Requests that need memory are refused
	// while it is used up. Zero: any.
	SystemMemory int64 `json:"system_memory,omitempty"`
	// Replication lets the engines of the instance's other nodes replicate from an engine of this node. Nil: there is none. A snapshot
	// with it may have no Listeners, and then no Engine.
	Replication *Replication `json:"replication,omitempty"`
	// ReadOnly answers what is not a read with the engine's own READONLY error, whatever the engine would do.
	ReadOnly bool `json:"read_only,omitempty"`
	// Standby says that another engine may take over when this one ends: clients keep their connections and their state, and wait for it.
	Standby bool `json:"standby,omitempty"`
	TLSPolicy
}

// DataPath is how clients share the engine's connections. It may change at any time; no client notices.
type DataPath string

const (
	// Transparent gives each client an engine connection of its own.
	Transparent DataPath = "transparent"
	// Multiplexed lets clients without state of their own share a few.
	Multiplexed DataPath = "multiplexed"
)

// String says which snapshot it is, and hides the key from fmt.
func (s Snapshot) String() string {
	return fmt.Sprintf("snapshot %d (%.12s)", s.Generation, s.Digest())
}

// GoString hides the key from %#v.
func (s Snapshot) GoString() string { return s.String() }

// LogValue hides the key from slog.
func (s Snapshot) LogValue() slog.Value {
	return slog.GroupValue(slog.Uint64("generation", s.Generation), slog.String("digest", s.Digest()))
}

// Digest is the SHA-256, in hex, over everything but Generation. Two snapshots with the same digest make the gateway serve the same.
func (s Snapshot) Digest() string {
	s.Generation = 0
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings, numbers and bytes always marshal
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// problems are all that is wrong with a snapshot: whoever reads the error gets to mend everything at once.
type problems []error

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Errorf(format, args...)) }

// check returns the problems of everything but the certificate and its key.
func (s Snapshot) check() problems {
	var p problems
	if s.Generation == 0 {
		p.add("generation 0: must be at least 1")
	}
	if n := len(s.Listeners); n == 0 && s.Replication == nil || n > maxListeners {
		p.add("listeners: there are %d: must be 1 to %d, or none where there is replication", n, maxListeners)
	} else {
		s.checkListeners(&p)
	}
	s.checkReplication(&p)
	s.checkEngine(&p)
	if s.Connect == "" && s.hasTLS() {
		p.add(`connect "": must say how to connect, because a listener has TLS`)
	}
	if len(s.Connect) > maxConnectLength || !printable(s.Connect) {
		p.add("connect %.80q: must be one line of printable ASCII, at most %d bytes", s.Connect, maxConnectLength)
	}
	if s.MaxClients < 0 {
		p.add("max_clients %d: must be 0 or more", s.MaxClients)
	}
	if s.DataPath != "" && s.DataPath != Transparent && s.DataPath != Multiplexed {
		p.add("data_path %.40q: must be %q or %q", s.DataPath, Transparent, Multiplexed)
	}
	if s.SystemMemory < 0 {
		p.add("system_memory %d: must be 0 or more", s.SystemMemory)
	}
	if s.IdleTimeout < 0 {
		p.add("idle_timeout %v: must be 0 or more", s.IdleTimeout)
	}
	if s.FirstByteTimeout < 0 || s.FirstByteTimeout > maxFirstByteTimeout {
		p.add("first_byte_timeout %v: must be 0 to %v", s.FirstByteTimeout, maxFirstByteTimeout)
	}
	if s.HandshakeTimeout < 0 || s.HandshakeTimeout > maxHandshakeTimeout {
		p.add("handshake_timeout %v: must be 0 to %v", s.HandshakeTimeout, maxHandshakeTimeout)
	}
	s.checkAnchors(&p)
	return p
}

// checkReplication checks what replicas are served.
func (s Snapshot) checkReplication(p *problems) {
	if s.Replication == nil {
		return
	}
	for _, problem := range s.Replication.Check() {
		p.add("replication.%w", problem)
	}
	if s.Backend != nil {
		p.add("replication: must be null, because there is a backend")
	}
	if i := slices.IndexFunc(s.Listeners, func(l Listener) bool { return l.Address == s.Replication.Address }); i >= 0 {
		p.add("replication.address %q: is listeners[%d] already", s.Replication.Address, i)
	}
}

// checkEngine checks what is behind the gateway.
func (s Snapshot) checkEngine(p *problems) {
	if s.Engine == "" && s.Backend == nil && len(s.Listeners) == 0 && s.Replication != nil {
		return // there are no clients
	}
	if s.Backend == nil {
		if !filepath.IsAbs(s.Engine) || len(s.Engine) > maxSocketPath {
			p.add("engine %q: must be an absolute path of at most %d bytes", s.Engine, maxSocketPath)
		}
		if len(s.Passwords) > 0 {
			p.add("passwords: there are %d: must be none where there is an engine, which has them itself", len(s.Passwords))
		}
		return
	}
	if s.Engine != "" {
		p.add("engine %q: must be empty, because there is a backend", s.Engine)
	}
	if s.ReadOnly {
		p.add("read_only true: must be false, because there is a backend and not an engine")
	}
	if s.Standby {
		p.add("standby true: must be false, because there is a backend and not an engine")
	}
	for _, problem := range s.Backend.Check() {
		p.add("backend.%w", problem)
	}
	if _, err := s.passwords(); err != nil {
		p.add("%w", err)
	}
}

// passwords are Passwords, decoded.
func (s Snapshot) passwords() (all routing.Passwords, err error) {
	for i, text := range s.Passwords {
		hash, err := hex.DecodeString(text)
		if err != nil || len(hash) != sha256.Size {
			return nil, fmt.Errorf("passwords[%d] (%d bytes, not shown): must be a SHA-256 in hex", i, len(text))
		}
		all = append(all, [sha256.Size]byte(hash))
	}
	return all, nil
}

func (s Snapshot) checkListeners(p *problems) {
	seen := make(map[netip.AddrPort]int)
	for i, l := range s.Listeners {
		a, err := netip.ParseAddrPort(l.Address)
		switch {
		case err != nil:
			p.add("listeners[%d].address %q: must be an IP address and a port", i, l.Address)
			continue
		case a.Port() == 0:
			p.add("listeners[%d].address %q: the port must not be 0", i, l.Address)
		case a.String() != l.Address:
			p.add("listeners[%d].address %q: must be written %q", i, l.Address, a)
		}
		if first, ok := seen[a]; ok {
			p.add("listeners[%d].address %q: is listeners[%d] already", i, l.Address, first)
		} else {
			seen[a] = i
		}
	}
}

func (s Snapshot) hasTLS() bool {
	return slices.ContainsFunc(s.Listeners, func(l Listener) bool { return l.TLS })
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// encodeSnapshot returns the JSON that decodeSnapshot reads.
func encodeSnapshot(s Snapshot) ([]byte, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	return append(data, '\n'), nil
}

// decodeSnapshot refuses a field that this gateway does not know: it may be a policy that would not be enforced.
func decodeSnapshot(r io.Reader) (Snapshot, error) {
	var s Snapshot
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Snapshot{}, fmt.Errorf("decode snapshot: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Snapshot{}, errors.New("decode snapshot: there is more after it")
	}
	return s, nil
}
