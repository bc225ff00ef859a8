package statedir

import (
	"os"
	"path/filepath"

	"github.com/sealane/sealane/internal/audit"
)

// Dir is the path of a state folder.
type Dir string

// Entry is a file or folder of the state folder.
type Entry struct {
	// Path is relative to the state folder. A * stands for a part of a name, as in path.Match.
	Path string
	// What it holds.
	What string
	// Mode is as ls shows it: the first letter is d for a folder and s for a socket. ByUmask stands for whatever the server's umask
	// allows, which matters to nobody, because the folder around it lets nobody else in.
	Mode string
	// Writer is the process that makes and changes it.
	Writer string
	// Secret is what a secret, or something that is believed, is called in errors; "" for the rest. `sealane serve` does not start while
	// others than its user can read or change it.
	Secret string
}

// ByUmask is a mode that is not chosen.
const ByUmask = "by umask"

// Layout is all that the server keeps on disk, in the order of docs/configuration.md, which shows it. A file that is being written is for a moment
// there a second time, as .NAME.RANDOM.
var Layout = []Entry{
	{".", "the state folder itself", "drwx------", "serve", "state folder"},
	{"state.db", "the records: instances, operations, and their secrets, sealed; its lock is held while the server runs", "-rw-------", "serve", "records"},
	{"master.key", "the key that seals those secrets, unless it comes from elsewhere", "-rw-------", "serve", "master key"},
	{"audit.log", "every certificate that was signed", "-rw-------", "serve", "audit log"},
	{"audit.head", "where `audit.log` ends", "-rw-------", "serve", "audit log's head"},
	{"calls.log", "who did what over the API", "-rw-------", "serve", "log of calls"},
	{"calls.log.1", "the log of calls before that, from 16 MiB on", "-rw-------", "serve", "older log of calls"},
	{"calls.head", "where `calls.log` ends", "-rw-------", "serve", "log of calls' head"},
	{"admin.token", "the administrator's bearer token for the API", "-rw-------", "serve", "administrator's token"},
	{"ops.token", "the bearer token for /metrics and /debug/pprof", "-rw-------", "serve, sidecar", ""},
	{"server.json", "where the running server listens, for the CLI", "-rw-------", "serve", ""},
	{"control.sock", "the socket by which `sealane stop` reaches the server", ByUmask, "serve", ""},
	{"buckets", "a folder per bucket for imports and exports, unless the configuration has `buckets`", "drwx------", "serve", ""},
	{"buckets/*", "one bucket", "drwx------", "serve", ""},
	{"buckets/*/*", "an object, which is an RDB file, or a folder of objects", ByUmask, "serve", ""},
	{"nodes", "a folder per node, which is one engine and its gateway", "drwx------", "serve", "folder of the nodes"},
	{"nodes/*", "one node; its name is random, and is in the records", "drwx------", "serve", ""},
	{"nodes/*/engine.conf", "the engine's configuration, with hashes of passwords", "-rw-------", "serve", ""},
	{"nodes/*/engine.sock", "the socket on which the engine listens", "srw-------", "engine", ""},
	{"nodes/*/engine.lock", "held by the engine, so that there is only one", "-rw-------", "serve", ""},
	{"nodes/*/engine.log", "the engine's log", "-rw-------", "engine", ""},
	{"nodes/*/engine.cgroup", "the folder of the engine's cgroup, if it has one", "-rw-------", "serve", ""},
	{"nodes/*/dump.rdb", "the engine's data: of its last snapshot, or of its clean stop", ByUmask, "engine", ""},
	{"nodes/*/dump.loaded.rdb", "the data of a clean stop, once the engine has loaded them: without persistence they are not loaded again", ByUmask, "engine", ""},
	{"nodes/*/dump.previous.rdb", "the snapshot before, for the case that `dump.rdb` turns out to be damaged", ByUmask, "engine", ""},
	{"nodes/*/dump.replica.rdb", "a snapshot of a node that became a replica: it is loaded only where the primary has none of its own", ByUmask, "engine", ""},
	{"nodes/*/dump.damaged.rdb", "a snapshot that could not be restored because it was damaged; nobody needs it any more", ByUmask, "engine", ""},
	{"nodes/*/temp-*.rdb", "a snapshot while it is written", ByUmask, "engine", ""},
	{"nodes/*/[12]", "the engine, in place of what is above, after it was replaced for the first time; two at a time while it is replaced", "drwx------", "serve", ""},
	{"nodes/*/[12]/engine.sock", "the socket on which it listens", "srw-------", "engine", ""},
	{"nodes/*/[12]/engine.*", "its configuration, lock, log and cgroup, as above", "-rw-------", "serve, engine", ""},
	{"nodes/*/[12]/*.rdb", "its data, as above", ByUmask, "engine, serve", ""},
	{"nodes/*/gateway.sock", "the gateway's admin socket", "srw-------", "gateway", ""},
	{"nodes/*/gateway.lock", "held by the gateway while it serves", "-rw-------", "gateway", ""},
	{"nodes/*/gateway-process.lock", "held by the gateway's process, so that there is only one", "-rw-------", "serve", ""},
	{"nodes/*/gateway.log", "the gateway's log", "-rw-------", "gateway", ""},
	{"nodes/*/gateway.log.1", "its log before that, from 10 MiB on", "-rw-------", "gateway", ""},
	{"nodes/*/gateway.out", "what the gateway prints before it has a log, or when it crashes", "-rw-------", "serve", ""},
	{"nodes/*/snapshot.json", "all that the gateway needs to start by itself: listeners, certificates, their keys", "-rw-------", "gateway", ""},
	{"nodes/*/snapshot.reserve", "takes up 256 KiB of the disk, so that the file above can be replaced when the disk is full, which a failover needs", "-rw-------", "gateway", ""},
	{"nodes/*/sampling.json", "at which addresses a sample of the next CA has failed", "-rw-------", "gateway", ""},
}

// Records is the path of the records.
func (d Dir) Records() string { return d.path("state.db") }

// AdminToken is the path of the administrator's token.
func (d Dir) AdminToken() string { return d.path("admin.token") }

// OpsToken is the path of the token for /metrics and /debug/pprof.
func (d Dir) OpsToken() string { return d.path("ops.token") }

// Control is the path of the socket by which `sealane stop` reaches the server.
func (d Dir) Control() string { return d.path("control.sock") }

// Nodes is the path of the folder with a folder per node.
func (d Dir) Nodes() string { return d.path("nodes") }

// Buckets is the path of the folder with a folder per bucket, for imports and exports.
func (d Dir) Buckets() string { return d.path("buckets") }

// AuditLog is the path of the audit log.
func (d Dir) AuditLog() string { return audit.LogPath(string(d)) }

// AuditHead is the path of the file that says where the audit log ends.
func (d Dir) AuditHead() string { return audit.HeadPath(string(d)) }

// CallsLog is the path of the log of calls.
func (d Dir) CallsLog() string { return audit.CallsPath(string(d)) }

// CallsHead is the path of the file that says where the log of calls ends.
func (d Dir) CallsHead() string { return audit.CallsHeadPath(string(d)) }

func (d Dir) masterKey() string  { return d.path("master.key") }
func (d Dir) serverInfo() string { return d.path("server.json") }

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }

// Default is the state folder where none is named.
func Default() Dir {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return Dir(filepath.Join(dir, "sealane"))
	}
	home, err := os.UserHomeDir()
	if os.Geteuid() == 0 || err != nil {
		return "/var/lib/sealane"
	}
	return Dir(filepath.Join(home, ".local", "state", "sealane"))
}
