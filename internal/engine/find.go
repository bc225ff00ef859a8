package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind says whose program an engine is.
type Kind string

// The kinds of engine.
const (
	Redis  Kind = "redis"
	Valkey Kind = "valkey"
)

// Version is the version of an engine.
type Version struct{ Major, Minor, Patch int }

var minVersion = Version{6, 0, 0}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Compare is negative when v is older than w, and 0 when they are the same.
func (v Version) Compare(w Version) int {
	return slices.Compare([]int{v.Major, v.Minor, v.Patch}, []int{w.Major, w.Minor, w.Patch})
}

// Binary is an engine's program.
type Binary struct {
	Path    string // absolute; a symbolic link stays, because the programs look at the name by which they are called
	Kind    Kind
	Version Version
	// ActiveDefrag says whether the engine accepts activedefrag, which depends on how it was built: Debian's engines refuse it.
	ActiveDefrag bool
	// TLS says whether the engine was built with TLS, which Config.Replication needs.
	TLS bool
}

// NotFoundError says that no usable engine is installed, and how to get one.
type NotFoundError struct {
	Hint     string  // what to do on this distribution
	Rejected []error // what was found in PATH, and why it can't be used
}

func (e *NotFoundError) Error() string {
	s := "no redis-server or valkey-server in PATH"
	if len(e.Rejected) > 0 {
		s = "no usable redis-server or valkey-server in PATH (" + strings.ReplaceAll(errors.Join(e.Rejected...).Error(), "\n", "; ") + ")"
	}
	return s + "; " + e.Hint
}

// versionTimeout bounds one run of "--version".
const versionTimeout = 5 * time.Second

// Find looks at the programs in paths, each of which must be a usable engine. Without paths it looks for redis-server and
// valkey-server in PATH, and returns them in that order. A *NotFoundError says that there is none.
func Find(ctx context.Context, paths []string) ([]Binary, error) {
	explicit := len(paths) > 0
	if !explicit {
		for _, name := range []string{"redis-server", "valkey-server"} {
			if p, err := exec.LookPath(name); err == nil {
				paths = append(paths, p)
			}
		}
	}
	var found []Binary
	var errs []error
	for _, p := range paths {
		if b, err := inspect(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("engine %s: %w", p, err))
		} else {
			found = append(found, b)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("find engines: %w", err)
	}
	if explicit && len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if len(found) == 0 {
		release, _ := os.ReadFile("/etc/os-release") // without it the hint is a general one
		return nil, &NotFoundError{Hint: installHint(string(release)), Rejected: errs}
	}
	return found, nil
}

func inspect(ctx context.Context, path string) (Binary, error) {
	// LookPath also says in plain words that a file is missing or not executable.
	path, err := exec.LookPath(path)
	if err != nil {
		return Binary{}, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return Binary{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = environment()
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return Binary{}, fmt.Errorf("run --version: %w", err)
	}
	kind, version, err := parseVersion(string(out))
	if err != nil {
		return Binary{}, err
	}
	if version.Compare(minVersion) < 0 {
		return Binary{}, fmt.Errorf("version %s is too old, %s is the oldest that has ACLs", version, minVersion)
	}
	return Binary{Path: path, Kind: kind, Version: version, ActiveDefrag: canDefrag(ctx, path), TLS: hasTLS(ctx, path)}, nil
}

// canDefrag asks an engine whether it accepts activedefrag, which nothing else tells before it is started with it. The engine reads a
// configuration of two lines. The second is never right, so that the engine ends at once, and its complaint says which line was the
// first that it refused. The second is a directive that every version knows: Redis 8 takes one that it doesn't know for a module's, and
// complains of it later and without the number of the line.
func canDefrag(ctx context.Context, path string) bool {
	return strings.Contains(refusal(ctx, path, "activedefrag yes\nport none\n"), "at line 2")
}

// hasTLS asks an engine whether it was built with TLS. Redis 6 without TLS refuses the directive. From 7.0 on all builds know it, and
// those without TLS end with other words. With TLS the engine ends because it was given no certificate. The socket is where none can
// be, in case an engine to come goes on: it would listen nowhere, and end.
func hasTLS(ctx context.Context, path string) bool {
	return strings.Contains(refusal(ctx, path, "port 0\nunixsocket /nonexistent/engine.sock\ntls-replication yes\n"), "No tls-cert-file configured")
}

// refusal runs an engine with a configuration that it can't run with, and returns what it says. "": it has not refused.
func refusal(ctx context.Context, path, configuration string) string {
	cmd := exec.CommandContext(ctx, path, "-")
	cmd.Env = environment()
	cmd.Stdin = strings.NewReader(configuration)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	return string(out)
}

// Redis says "Redis server v=7.0.15 sha=…", Valkey "Valkey server v=8.0.1 sha=…", and Valkey 7.2 "Server v=7.2.5 sha=…".
var versionLine = regexp.MustCompile(`(?m)^(Redis server|Valkey server|Server) v=(\d{1,5})\.(\d{1,5})\.(\d{1,5})`)

// Build asks the engine which one it is. The Binary has its Kind and its Version.
func (e *Engine) Build(ctx context.Context) (Binary, error) {
	info, err := e.Info(ctx, "server")
	if err != nil {
		return Binary{}, err
	}
	b, text := Binary{Kind: Redis}, info["redis_version"]
	if v, ok := info["valkey_version"]; ok { // then redis_version says what it is compatible with
		b.Kind, text = Valkey, v
	}
	if _, err := fmt.Sscanf(text, "%d.%d.%d", &b.Version.Major, &b.Version.Minor, &b.Version.Patch); err != nil {
		return Binary{}, fmt.Errorf("engine %s says its version is %q", e.dir, text)
	}
	return b, nil
}

func parseVersion(out string) (Kind, Version, error) {
	m := versionLine.FindStringSubmatch(out)
	if m == nil {
		return "", Version{}, fmt.Errorf("neither Redis nor Valkey: --version says %.100q", out)
	}
	kind := Valkey
	if m[1] == "Redis server" {
		kind = Redis
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[2+i]) // the pattern has digits only
	}
	return kind, Version{n[0], n[1], n[2]}, nil
}

// installHint says how to install an engine. It chooses by ID, then by ID_LIKE of os-release(5).
func installHint(release string) string {
	var id, like string
	for line := range strings.Lines(release) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		v = strings.Trim(v, `"'`)
		switch k {
		case "ID":
			id = v
		case "ID_LIKE":
			like = v
		}
	}
	for _, name := range append([]string{id}, strings.Fields(like)...) {
		switch {
		case name == "debian" || name == "ubuntu":
			return "install one with: sudo apt-get install redis-server"
		case name == "fedora" || name == "rhel" || name == "centos":
			return "install one with: sudo dnf install valkey (or redis, where there is no valkey)"
		case name == "alpine":
			return "install one with: sudo apk add redis"
		case name == "arch":
			return "install one with: sudo pacman -S valkey"
		case name == "suse" || strings.HasPrefix(name, "opensuse") || name == "sles":
			return "install one with: sudo zypper install redis"
		}
	}
	return "install Redis or Valkey, " + minVersion.String() + " or newer, with your package manager"
}
