package engine

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/resp"
)

// How the engines of an instance's nodes replicate from each other. A replica connects with its own TLS, and shows its node's
// certificate, to whoever ends TLS in front of the primary's socket; that one logs in to the primary as the user "replication". So
// no engine listens on the network, and none holds a password.

// ReplicationConfig is what an engine needs to be a replica, and to have replicas.
type ReplicationConfig struct {
	// Certificate, PrivateKey and Authorities are PEM. They are written to files of mode 0600 in the engine's folder.
	Certificate, PrivateKey, Authorities []byte
	// PasswordHash is the SHA-256, in lower-case hexadecimal, of the password of the user "replication". It may do nothing but replicate.
	PasswordHash string
	// AnnounceHost and AnnouncePort are how a primary names this replica (INFO, ROLE). Engines leave out a replica that they have no
	// address of, and from a Unix socket they get none.
	AnnounceHost string
	AnnouncePort int
	// Backlog is how many bytes of what changes an engine keeps for replicas whose link breaks: one that misses no more than that goes on
	// with a partial resynchronisation.
	Backlog int64
}

const (
	replicationUser = "replication"
	// peerName has the certificate and its key. They are one file so that an engine that reads it never gets the one without the other.
	peerName        = "replication.pem"
	authoritiesName = "replication-ca.pem"

	pingPeriodDirective = "repl-ping-replica-period"
	pingPeriod          = "1" // second

	minBacklog = 16 << 10 // of the engines
	// minReplicaBuffer is the engines' own default.
	minReplicaBuffer = 256 << 20
)

// ErrNoReplication says that an engine was started without Config.Replication.
var ErrNoReplication = errors.New("the engine was started without replication over TLS; start it again with it")

var announcedHost = regexp.MustCompile(`^[A-Za-z0-9:._-]{1,253}$`)

// replicationDirectives are the same in each engine that replicates. Those that came later than Redis 6.0 say so.
var replicationDirectives = []struct {
	kind        Kind // "": both
	since       Version
	name, value string
}{
	// A snapshot goes out as it is made, without a file and at once.
	{"", minVersion, "repl-diskless-sync", "yes"},
	{"", minVersion, "repl-diskless-sync-delay", "0"},
	// A replica without data loads what comes at once. One with data takes it into a file first, and so keeps its old data until the new
	// are whole: loading beside them (swapdb) would need twice the memory. The file is removed where nothing is to be on the disk.
	{"", minVersion, "repl-diskless-load", "on-empty-db"},
	{"", minVersion, "rdb-del-sync-files", "yes"},
	// Without replicas for a while, an engine would forget its history and its replication ID.
	{"", minVersion, "repl-backlog-ttl", "0"},
	// Something comes every second, also while a snapshot is made or loaded. Silence for the timeout ends a link, and a snapshot on its
	// way. It is longer than a usual script, for which an engine is silent too.
	{"", minVersion, pingPeriodDirective, pingPeriod},
	{"", minVersion, "repl-timeout", "10"},
	{"", minVersion, "replica-read-only", "yes"},
	// Reads go on while there is no primary. Which replica clients may read from is not for the replica to say.
	{"", minVersion, "replica-serve-stale-data", "yes"},
	// Without this a replica ends itself where its disk is full and it is told of a change.
	{"", Version{7, 0, 0}, "replica-ignore-disk-write-errors", "yes"},
	// A replica has one connection to its primary.
	{Redis, Version{8, 0, 0}, "repl-rdb-channel", "no"},
	{Valkey, Version{8, 0, 0}, "dual-channel-replication-enabled", "no"},
}

// replicationLines are the lines of redis.conf for replication. They come before Config.Directives, which may say otherwise.
func replicationLines(bin Binary, cfg Config) string {
	var b bytes.Buffer
	b.WriteString("tls-replication yes\ntls-port 0\n")
	for _, d := range [][2]string{{"tls-cert-file", peerName}, {"tls-key-file", peerName}, {"tls-ca-cert-file", authoritiesName}} {
		fmt.Fprintf(&b, "%s %s\n", d[0], quote(filepath.Join(cfg.Dir, d[1])))
	}
	b.WriteString("tls-protocols \"TLSv1.2 TLSv1.3\"\n")
	for _, d := range replicationDirectives {
		if (d.kind == "" || d.kind == bin.Kind) && bin.Version.Compare(d.since) >= 0 {
			writeDirective(&b, d.name, d.value)
		}
	}
	for _, d := range cfg.Replication.directives() {
		writeDirective(&b, d[0], d[1])
	}
	if cfg.Primary.IsValid() {
		writeDirective(&b, "replicaof", fmt.Sprintf("%s %d", cfg.Primary.Addr().Unmap(), cfg.Primary.Port()))
	}
	return b.String()
}

// directives are those that may change while the engine runs.
func (r ReplicationConfig) directives() [][2]string {
	// What is written while a snapshot is on its way waits to be sent, and more than this ends the link. The engines' 256 MB end every
	// copy of an engine that is written to fast. Half of the instance's size is what its bound of memory has room for while a child
	// makes the snapshot. A replica that takes nothing at all is cut by repl-timeout long before.
	buffer := max(r.Backlog*5, minReplicaBuffer)
	return [][2]string{
		{"replica-announce-ip", r.AnnounceHost},
		{"replica-announce-port", strconv.Itoa(r.AnnouncePort)},
		{"repl-backlog-size", strconv.FormatInt(r.Backlog, 10)},
		{replicaLimit, fmt.Sprintf("replica %d 0 0", buffer)},
	}
}

// replicationRules are the ACL rules of the user "replication". They leave it on or off.
func replicationRules(hash string) []string {
	return []string{"resetpass", "#" + hash, "+psync", "+sync", "+replconf", "+ping"}
}

// AllowReplicas lets replicas in, or keeps them away and ends the links of those that there are; see Config.NoReplicas. It is a fence of the
// engine's own, whoever ends TLS in front of it.
func (e *Engine) AllowReplicas(ctx context.Context, allow bool) error {
	commands := [][]string{{"ACL", "SETUSER", replicationUser, "on"}}
	if !allow {
		commands = [][]string{{"ACL", "SETUSER", replicationUser, "off"}, {"CLIENT", "KILL", "TYPE", "replica"}, {"CLIENT", "KILL", "USER", replicationUser}}
	}
	if err := e.replicatesOverTLS(ctx); err != nil {
		return fmt.Errorf("set whether engine %s has replicas: %w", e.dir, err)
	}
	if _, err := e.call(ctx, commands...); err != nil {
		return fmt.Errorf("set whether engine %s has replicas: %w", e.dir, err)
	}
	return nil
}

// checkReplication says what is wrong with Config.Replication and Config.Primary.
func checkReplication(bin Binary, cfg Config) []error {
	if cfg.Replication == nil {
		if cfg.Primary.IsValid() {
			return []error{fmt.Errorf("primary %s: an engine without Replication can't be a replica", cfg.Primary)}
		}
		return nil
	}
	var errs []error
	if !bin.TLS {
		errs = append(errs, fmt.Errorf("%s %s (%s) was built without TLS, which replication needs; use an engine that was built with it (make BUILD_TLS=yes), as those of the distributions are",
			bin.Kind, bin.Version, bin.Path))
	}
	if err := cfg.Replication.check(); err != nil {
		errs = append(errs, err)
	}
	if cfg.Primary.IsValid() && (cfg.Primary.Port() == 0 || cfg.Primary.Addr().IsUnspecified()) {
		errs = append(errs, fmt.Errorf("primary %s: not an address to connect to", cfg.Primary))
	}
	return errs
}

func (r ReplicationConfig) check() error {
	var errs []error
	// The values are not quoted: what is wrong may be half a key.
	if _, err := tls.X509KeyPair(r.Certificate, r.PrivateKey); err != nil {
		errs = append(errs, fmt.Errorf("replication certificate and private key: %w", err))
	}
	if !x509.NewCertPool().AppendCertsFromPEM(r.Authorities) {
		errs = append(errs, errors.New("replication authorities: no certificate in PEM; want at least one, or every primary would be refused"))
	}
	if !sha256Hex.MatchString(r.PasswordHash) {
		errs = append(errs, errors.New("replication password hash is not a lower-case hexadecimal SHA-256"))
	}
	if !announcedHost.MatchString(r.AnnounceHost) {
		errs = append(errs, fmt.Errorf("replication announce host %q: want an IP address or a host name", r.AnnounceHost))
	}
	if r.AnnouncePort < 1 || r.AnnouncePort > 65535 {
		errs = append(errs, fmt.Errorf("replication announce port %d: want 1 to 65535", r.AnnouncePort))
	}
	if r.Backlog < minBacklog {
		errs = append(errs, fmt.Errorf("replication backlog %d: want %d bytes or more", r.Backlog, minBacklog))
	}
	return errors.Join(errs...)
}

// peer is the file with the certificate and its key.
func (r ReplicationConfig) peer() []byte {
	return slices.Concat(bytes.TrimRight(r.Certificate, "\n"), []byte("\n"), r.PrivateKey)
}

// write writes both files, where they are not what they should be.
func (r ReplicationConfig) write(dir string) error {
	if err := writeUnlessSame(filepath.Join(dir, peerName), r.peer()); err != nil {
		return err
	}
	return writeUnlessSame(filepath.Join(dir, authoritiesName), r.Authorities)
}

func (r *ReplicationConfig) clone() *ReplicationConfig {
	if r == nil {
		return nil
	}
	c := *r
	c.Certificate, c.PrivateKey, c.Authorities = bytes.Clone(r.Certificate), bytes.Clone(r.PrivateKey), bytes.Clone(r.Authorities)
	return &c
}

// sameFiles says whether both have the same certificates and key.
func (r ReplicationConfig) sameFiles(o ReplicationConfig) bool {
	return bytes.Equal(r.peer(), o.peer()) && bytes.Equal(r.Authorities, o.Authorities)
}

// SetReplication gives the running engine this configuration. Links that are up stay; new certificates are for the next one. It costs
// nothing where the engine has been given the same before. The engine must have been started with Config.Replication: the error is
// ErrNoReplication otherwise, and a *ConfigError where the engine refuses something, which then keeps what it had.
func (e *Engine) SetReplication(ctx context.Context, r ReplicationConfig) error {
	e.replicationMu.Lock()
	defer e.replicationMu.Unlock()
	if err := e.setReplication(ctx, r); err != nil {
		return fmt.Errorf("set the replication of engine %s: %w", e.dir, err)
	}
	return nil
}

func (e *Engine) setReplication(ctx context.Context, r ReplicationConfig) error {
	have := e.replication
	if have != nil && have.sameFiles(r) && have.PasswordHash == r.PasswordHash && slices.Equal(have.directives(), r.directives()) {
		return nil
	}
	if err := r.check(); err != nil {
		return err
	}
	if have == nil {
		if err := e.replicatesOverTLS(ctx); err != nil {
			return err
		}
		if err := e.freezeOffset(ctx, false); err != nil { // a control plane that was killed may have left it
			return err
		}
	}
	e.replication = nil // not known until all has worked
	if have == nil || !have.sameFiles(r) {
		if err := e.setPeer(ctx, r); err != nil {
			return err
		}
	}
	for _, d := range r.directives() {
		if err := e.configSet(ctx, d[0], d[1]); err != nil {
			return err
		}
	}
	if _, err := e.call(ctx, append([]string{"ACL", "SETUSER", replicationUser}, replicationRules(r.PasswordHash)...)); err != nil {
		return err
	}
	e.replication = r.clone()
	return nil
}

// setPeer writes the certificates and has the engine read them again. The engine does that, for all files together, when it is given the
// name of one, also one that it has already.
func (e *Engine) setPeer(ctx context.Context, r ReplicationConfig) error {
	peer, authorities := filepath.Join(e.dir, peerName), filepath.Join(e.dir, authoritiesName)
	before, err := os.ReadFile(peer)
	if err == nil {
		var trusted []byte
		if trusted, err = os.ReadFile(authorities); err == nil {
			if err = r.write(e.dir); err != nil {
				return err
			}
			err = e.configSet(ctx, "tls-cert-file", peer)
			if refused := (*ConfigError)(nil); errors.As(err, &refused) {
				// The engine still has what it had, and its next start has to work.
				return errors.Join(err, durable.WriteFile(peer, before, 0o600), durable.WriteFile(authorities, trusted, 0o600))
			}
			return err
		}
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// Somebody has removed the files under the engine.
	if err := r.write(e.dir); err != nil {
		return err
	}
	return e.configSet(ctx, "tls-cert-file", peer)
}

// configSet sets one directive. The error is a *ConfigError where the engine refuses it.
func (e *Engine) configSet(ctx context.Context, name, value string) error {
	_, err := e.call(ctx, []string{"CONFIG", "SET", name, value})
	var reply resp.ReplyError
	if errors.As(err, &reply) && reply.Code() == "ERR" {
		return &ConfigError{Name: name, Value: value, Reply: reply}
	}
	return err
}

// replicatesOverTLS returns ErrNoReplication for an engine that would connect to its primary without TLS.
func (e *Engine) replicatesOverTLS(ctx context.Context) error {
	replies, err := e.call(ctx, []string{"CONFIG", "GET", "tls-replication"})
	if err == nil && (len(replies[0].Elems) != 2 || replies[0].Elems[1].Str != "yes") {
		err = ErrNoReplication
	}
	return err
}

// freezeLimit ends a freeze of which nobody hears any more, as far as clients notice it.
const freezeLimit = 30 * time.Second

// FreezeOffset keeps a primary from moving its offset on by itself, or ends that. Keys that expire and the PING of every second do, and a
// primary that has said something that the new one hasn't heard can't become its replica without taking all data anew. It is for a
// planned failover, when clients write no more (RefuseWrites): before the primary's offset is read for the last time, until the primary
// follows the new one. Engines before 6.2 still let keys expire. A replica cuts its link after 10 s without a PING.
func (e *Engine) FreezeOffset(ctx context.Context, freeze bool) error {
	if err := e.freezeOffset(ctx, freeze); err != nil {
		return fmt.Errorf("set whether the offset of engine %s may move: %w", e.dir, err)
	}
	return nil
}

func (e *Engine) freezeOffset(ctx context.Context, freeze bool) error {
	period, pause := pingPeriod, []string{"CLIENT", "UNPAUSE"}
	if freeze {
		period, pause = "3600", []string{"CLIENT", "PAUSE", strconv.FormatInt(freezeLimit.Milliseconds(), 10), "WRITE"}
	}
	if err := e.configSet(ctx, pingPeriodDirective, period); err != nil {
		return err
	}
	_, err := e.call(ctx, pause)
	var reply resp.ReplyError
	if errors.As(err, &reply) && reply.Code() == "ERR" { // before 6.2 there is neither the one nor the other
		return nil
	}
	return err
}

// FollowTLS makes the engine a replica of the one that is reached at that address, over TLS. Where it is that already, nothing is done.
// It keeps its data, and goes on with a partial resynchronisation, if they are of the primary's history; else it keeps them until
// it has all of the primary's. The error is ErrNoReplication for an engine that was started without Config.Replication.
func (e *Engine) FollowTLS(ctx context.Context, primary netip.AddrPort) error {
	if err := e.followTLS(ctx, netip.AddrPortFrom(primary.Addr().Unmap(), primary.Port())); err != nil {
		return fmt.Errorf("make engine %s a replica of %s: %w", e.dir, primary, err)
	}
	return nil
}

func (e *Engine) followTLS(ctx context.Context, primary netip.AddrPort) error {
	if !primary.IsValid() || primary.Port() == 0 || primary.Addr().IsUnspecified() {
		return errors.New("not an address to connect to")
	}
	if err := e.replicatesOverTLS(ctx); err != nil {
		return err
	}
	now, err := e.Replication(ctx)
	if err != nil || now.Role == RoleReplica && strings.EqualFold(now.Primary, primary.String()) {
		return err
	}
	host, port, _ := net.SplitHostPort(primary.String()) // it was made of both
	_, err = e.call(ctx, []string{"REPLICAOF", host, port})
	return err
}
