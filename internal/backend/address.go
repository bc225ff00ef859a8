package backend

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sealane/sealane/internal/diagnosis"
)

const (
	defaultPort = "6379"
	// maxSocketPath is what sockaddr_un holds besides its final zero byte.
	maxSocketPath = 107
	maxCABytes    = 1 << 20
	maxUser       = 512
	maxPassword   = 4096
)

const wantAddress = "want unix:/PATH, HOST:PORT, redis://HOST:PORT or rediss://HOST:PORT"

// ErrPasswordInURL says that an address has a password in it.
var ErrPasswordInURL = errors.New("it has a password in it, which the shell's history, the list of processes and logs would show")

// Parse makes a Server of an address as people write it: unix:/PATH, a path, HOST:PORT, HOST, redis://USER@HOST:PORT, rediss://…, which
// asks for TLS, redis+unix:///PATH, or unix:///PATH. Nothing of the address is in the error.
func Parse(address string) (Server, error) {
	scheme, rest, isURL := strings.Cut(address, "://")
	switch {
	case address == "":
		return Server{}, errors.New("it is empty: " + wantAddress)
	case isURL:
		return parseURL(strings.ToLower(scheme), rest, address)
	case strings.HasPrefix(address, "unix:"), strings.HasPrefix(address, "/"):
		return unixServer(strings.TrimPrefix(address, "unix:"))
	case strings.Contains(address, "@") && strings.Contains(address[:strings.LastIndex(address, "@")], ":"):
		return Server{}, ErrPasswordInURL
	case strings.Contains(address, "@"):
		return Server{}, errors.New("it has an @, which only a URL may have: " + wantAddress)
	}
	return tcpServer(address)
}

func parseURL(scheme, rest, address string) (Server, error) {
	// A password with a # or a / in it would be taken for other parts of the URL.
	if user, _, ok := cutLast(rest, "@"); ok && strings.Contains(user, ":") {
		return Server{}, ErrPasswordInURL
	}
	u, err := url.Parse(address)
	if err != nil {
		return Server{}, errors.New("it is no URL: " + wantAddress)
	}
	if u.Query().Has("password") {
		return Server{}, ErrPasswordInURL
	}
	if u.Fragment != "" || u.RawQuery != "" {
		return Server{}, errors.New("it has options behind ? or #, which have flags of their own: " + wantAddress)
	}
	var s Server
	switch scheme {
	case "unix", "redis+unix", "redis-socket", "valkey+unix":
		s, err = unixServer(u.Path)
	case "redis", "rediss", "valkey", "valkeys":
		if db := strings.Trim(u.Path, "/"); db != "" && db != "0" {
			return Server{}, errors.New("it names a database: clients choose it themselves (SELECT, or the number in their own URL)")
		}
		s, err = tcpServer(u.Host)
		s.TLS = scheme == "rediss" || scheme == "valkeys"
	default:
		return Server{}, errors.New("its scheme is not known: " + wantAddress)
	}
	if u.User != nil {
		s.User = u.User.Username()
	}
	return s, err
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func unixServer(path string) (Server, error) {
	switch {
	case !filepath.IsAbs(path):
		return Server{}, errors.New("the path of a Unix socket must be absolute: " + wantAddress)
	case len(path) > maxSocketPath:
		return Server{}, fmt.Errorf("the path of a Unix socket has %d bytes at most", maxSocketPath)
	case !isText(path):
		return Server{}, errors.New("it has a character that is not printable: " + wantAddress)
	}
	return Server{Address: "unix:" + filepath.Clean(path)}, nil
}

func tcpServer(address string) (Server, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]"), defaultPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return Server{}, errors.New("its port is not a number from 1 to 65535: " + wantAddress)
	}
	if !isHost(host) || strings.EqualFold(host, "unix") { // "unix:6379" would be a path
		return Server{}, errors.New("its host is neither a name nor an IP address: " + wantAddress)
	}
	return Server{Address: net.JoinHostPort(strings.ToLower(host), strconv.FormatUint(n, 10))}, nil
}

// isHost is what getaddrinfo could make sense of.
func isHost(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	if base, zone, _ := strings.Cut(host, "%"); strings.Contains(base, ":") {
		return net.ParseIP(base) != nil && (zone == "" || isHost(zone))
	}
	return strings.IndexFunc(host, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_')
	}) < 0
}

func isText(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// Problem is what is wrong with a field of a Server, by the field's name in its JSON. It never has the password.
type Problem struct{ Field, Text string }

func (p Problem) Error() string { return p.Field + ": " + p.Text }

// Check returns all that is wrong with a server before it is asked anything.
func (s Server) Check() []Problem {
	var all []Problem
	add := func(field, format string, args ...any) {
		all = append(all, Problem{field, fmt.Sprintf(format, args...)})
	}
	switch normal, err := Parse(s.Address); {
	case errors.Is(err, ErrPasswordInURL):
		add("address", "%v", err)
	case err != nil && strings.Contains(s.Address, "@"): // what is before it may be a password
		add("address", "%v", err)
	case err != nil:
		add("address", "%s: %v", diagnosis.Quote(s.Address), err)
	case normal.Address != s.Address:
		add("address", "%s: must be written %s", diagnosis.Quote(s.Address), diagnosis.Quote(normal.Address))
	case s.TLS && s.path() != "":
		add("tls", "true: a Unix socket is on this machine, and Redis has no TLS there")
	case !s.TLS && !s.Plaintext && s.path() == "" && leavesMachine(s.host()):
		add("plaintext", "false: %s may not be on this machine, and without TLS what is sent to it could be read and changed on the way: use TLS, or say true"+
			" if the way is safe otherwise (a private network, a VPN)", diagnosis.Quote(s.Address))
	}
	switch {
	case s.CA != "" && !s.TLS:
		add("ca", "it is given, but tls is false: a CA is of no use without TLS")
	case len(s.CA) > maxCABytes:
		add("ca", "%d bytes: want at most %d", len(s.CA), maxCABytes)
	case s.CA != "":
		if bundle, problem, _ := diagnosis.ParseBundle([]byte(s.CA)); problem != "" || len(bundle.Certs) == 0 {
			add("ca", "it holds no certificates that can be used: want CA certificates in PEM")
		}
	}
	if s.ServerName != "" && (!s.TLS || !isHost(s.ServerName)) {
		add("server_name", "%s: want the name in the server's certificate, and tls true", diagnosis.Quote(s.ServerName))
	}
	if !isText(s.User) || len(s.User) > maxUser || strings.ContainsAny(s.User, " ") {
		add("user", "%s: want the name of an ACL user, without spaces, at most %d bytes", diagnosis.Quote(s.User), maxUser)
	}
	if s.User != "" && s.Password == "" {
		add("password", "there is none, but there is a user %s: a user logs in with a password", diagnosis.Quote(s.User))
	}
	if len(s.Password) > maxPassword {
		add("password", "%d bytes: want at most %d", len(s.Password), maxPassword)
	}
	return all
}
