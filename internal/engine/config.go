package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/sealane/sealane/internal/process"
)

// Config says how an engine runs.
type Config struct {
	// Dir is the engine's own folder: it is created, and made 0700. The path of the socket in it is bound by
	// process.MaxSocketPath.
	Dir string
	// Directives are further lines of redis.conf: maxmemory, maxclients, save, appendonly, databases. The caller has
	// checked them; those that this package sets itself are refused, and no value can end its line. The words of a
	// value, separated by spaces, are the directive's arguments.
	Directives map[string]string
	// PasswordHashes are the SHA-256 of the default user's passwords, in lower-case hexadecimal. Without any, the user needs no
	// password.
	PasswordHashes []string
	// AdminPassword is the password of the control plane's user. It must not be empty. Only its SHA-256 is written down.
	AdminPassword string
	// KeepDump leaves dump.rdb in its place after it was loaded. Without it, as where persistence is off, the dump is renamed, so
	// that a later crash does not bring back the data of the last clean stop as if they were current.
	KeepDump bool
	// NetworkNamespace is the file of the network namespace that the engine runs in; "": that of this process. It matters only for
	// connections to other engines, because clients come through the socket.
	NetworkNamespace string
	// Replication lets the engine replicate, and be replicated from, over TLS. Nil: it never has replicas, nor is one, but for the copy
	// that Follow and OpenForCopy make.
	Replication *ReplicationConfig
	// Primary is where the engine's primary is reached; see FollowTLS. The zero value: it starts as a primary. An engine that has to be a
	// replica is started as one, and not told afterwards: it is never a primary for a moment, and only so does it take the
	// replication ID of its dump for its own, without which it could not go on with a partial resynchronisation.
	Primary netip.AddrPort
	// NoReplicas keeps replicas away until AllowReplicas. An engine that is started again after a crash may have lost data, and replicas
	// that were connected to it come back by themselves, within a second, and copy what there is.
	NoReplicas bool
}

// retireMark is a line of the configuration that tells Adopt to rename the dump.
const retireMark = "# sealane: rename the dump once it is loaded\n"

// owned are the directives that a caller may not set, because this package sets them or because they would undo what it
// guarantees. So are all that begin with one of ownedPrefixes.
var (
	owned = []string{"port", "bind", "bind-source-addr", "protected-mode", "unixsocket", "unixsocketperm",
		"unixsocketgroup", "daemonize", "supervised", "pidfile", "dir", "dbfilename", "logfile", "syslog-enabled",
		"always-show-logo", "user", "aclfile", "requirepass", "rename-command", "include", "loadmodule", "loadmodule-ex",
		"replicaof", "slaveof", "masterauth", "masteruser", "primaryauth", "primaryuser", "enable-debug-command",
		"enable-module-command", "enable-protected-configs", "sanitize-dump-payload", "acl-pubsub-default",
		"hide-user-data-from-log", "oom-score-adj", "oom-score-adj-values"}
	ownedPrefixes = []string{"tls-", "cluster-", "rdma-"}

	directiveName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	sha256Hex     = regexp.MustCompile(`^[0-9a-f]{64}$`)

	// argumentsPerLine says how many arguments of a directive Redis 6.0 takes in one line. Later versions take such lines too.
	argumentsPerLine = map[string]int{"save": 2, "client-output-buffer-limit": 4}
)

// render makes the configuration file. It reports all problems, not only the first.
func render(bin Binary, cfg Config) ([]byte, error) {
	v := bin.Version
	if err := check(bin, cfg); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("# Written by Sealane at each start: changes are lost.\n")
	if !cfg.KeepDump {
		b.WriteString(retireMark)
	}
	// Protected mode is about TCP connections, of which there are none. It stays on in case a bug lets one in.
	fmt.Fprintf(&b, "port 0\nprotected-mode yes\nunixsocket %s\nunixsocketperm 600\n", quote(Socket(cfg.Dir)))
	fmt.Fprintf(&b, "dir %s\ndbfilename %s\n", quote(cfg.Dir), dumpName)
	b.WriteString("daemonize no\nalways-show-logo no\n")
	// Redis 6.0 adds "save" lines to its defaults; an empty one clears these.
	b.WriteString("save \"\"\n")
	if v.Compare(Version{7, 0, 0}) >= 0 {
		// When the machine is shut down every process gets a signal, and the data are to survive that too.
		b.WriteString("shutdown-on-sigterm save\nshutdown-on-sigint save\n")
	}
	for _, f := range startDirectives {
		if v.Compare(f.since) >= 0 {
			writeDirective(&b, f.name, f.value)
		}
	}
	if cfg.Replication != nil {
		b.WriteString(replicationLines(bin, cfg))
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Directives)) {
		writeDirective(&b, name, cfg.Directives[name])
	}
	fmt.Fprintf(&b, "user default %s\n", strings.Join(defaultUserRules(v, cfg.PasswordHashes), " "))
	sum := sha256.Sum256([]byte(cfg.AdminPassword))
	fmt.Fprintf(&b, "user %s %s\n", adminUser, strings.Join(allRules(v, []string{hex.EncodeToString(sum[:])}), " "))
	if cfg.Replication != nil {
		state := "on"
		if cfg.NoReplicas {
			state = "off"
		}
		fmt.Fprintf(&b, "user %s reset %s %s\n", replicationUser, state, strings.Join(replicationRules(cfg.Replication.PasswordHash), " "))
	}
	return b.Bytes(), nil
}

func check(bin Binary, cfg Config) error {
	var errs []error
	if v := bin.Version; v.Compare(minVersion) < 0 {
		errs = append(errs, fmt.Errorf("version %s is too old, %s is the oldest that has ACLs", v, minVersion))
	}
	if n := len(Socket(cfg.Dir)); n > process.MaxSocketPath {
		errs = append(errs, fmt.Errorf("socket path %s is %d bytes long, the limit of Unix sockets is %d",
			Socket(cfg.Dir), n, process.MaxSocketPath))
	}
	for _, hash := range cfg.PasswordHashes {
		if !sha256Hex.MatchString(hash) {
			errs = append(errs, errors.New("password hash is not a lower-case hexadecimal SHA-256"))
		}
	}
	if cfg.AdminPassword == "" {
		errs = append(errs, errors.New("no admin password"))
	}
	errs = append(errs, checkReplication(bin, cfg)...)
	for _, name := range slices.Sorted(maps.Keys(cfg.Directives)) {
		if !directiveName.MatchString(name) {
			errs = append(errs, fmt.Errorf("directive %q: not a name", name))
		} else if slices.Contains(owned, name) || slices.ContainsFunc(ownedPrefixes, func(p string) bool {
			return strings.HasPrefix(name, p)
		}) {
			errs = append(errs, fmt.Errorf("directive %s: not to be changed", name))
		}
	}
	return errors.Join(errs...)
}

func writeDirective(b *bytes.Buffer, name, value string) {
	words := strings.FieldsFunc(value, func(r rune) bool { return r == ' ' })
	if len(words) == 0 {
		words = []string{""}
	}
	perLine := argumentsPerLine[name]
	if perLine == 0 {
		perLine = len(words)
	}
	for line := range slices.Chunk(words, perLine) {
		b.WriteString(name)
		for _, w := range line {
			b.WriteString(" " + quote(w))
		}
		b.WriteByte('\n')
	}
}

// quote writes s so that the engines' configuration parser reads it back. The parser splits at line feeds first, so none may
// stay as it is.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// allRules are the ACL rules of a user who may do anything.
func allRules(v Version, hashes []string) []string {
	rules := append([]string{"reset", "on"}, passwordRules(hashes)...)
	rules = append(rules, "~*", "+@all")
	if v.Compare(Version{6, 2, 0}) >= 0 { // 6.0 has no rules for channels and refuses them
		rules = append(rules, "&*")
	}
	return rules
}

// passwordRules are the ACL rules that add these passwords to a user. Without any, they let the user in without one.
func passwordRules(hashes []string) []string {
	if len(hashes) == 0 {
		return []string{"nopass"}
	}
	var rules []string
	for _, hash := range hashes {
		rules = append(rules, "#"+hash)
	}
	return rules
}

// defaultUserRules take from the default user what would break a promise: a plaintext listener or another copy of the data
// (CONFIG SET, REPLICAOF, the replication commands, MIGRATE, CLUSTER, MODULE), the control over the process and its files
// (SHUTDOWN, DEBUG, FAILOVER, the saves), and the users (ACL).
//
// Redis 6.0 can't take a subcommand away. So the whole command is taken, and its harmless subcommands are given back. An engine
// does not start with the name of a command that it doesn't know, so a rule for a newer command needs the version's check.
func defaultUserRules(v Version, hashes []string) []string {
	rules := append(allRules(v, hashes),
		"-config", "+config|get", "+config|resetstat", "+config|help",
		"-acl", "+acl|whoami", "+acl|cat", "+acl|genpass", "+acl|help",
		"-shutdown", "-debug", "-module", "-migrate", "-cluster",
		"-replicaof", "-slaveof", "-psync", "-sync", "-replconf",
		"-save", "-bgsave", "-bgrewriteaof")
	if v.Compare(Version{6, 2, 0}) >= 0 {
		rules = append(rules, "-failover")
	}
	return rules
}

// keepsDump reads from the configuration file what Config.KeepDump was at the start. Without a file there is nothing to rename.
func keepsDump(conf string) (bool, error) {
	b, err := os.ReadFile(conf)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	return !bytes.Contains(b, []byte("\n"+retireMark)), err
}
