package routing

import "strconv"

// Identity is who a client is, as the engine has let it say so: it comes along to every engine connection that serves the client.
type Identity struct {
	User            string // "": as it was connected, without a login of its own
	DB              int
	Proto           int // 2 or 3
	Name            string
	LibName, LibVer string
}

// AfterReset is what RESET leaves: engines that know a library's name (from 7.2 on) keep it.
func (id Identity) AfterReset() Identity {
	return Identity{Proto: 2, LibName: id.LibName, LibVer: id.LibVer}
}

// identityAfterAuth, and those below, say who a client would be after a request that the engine accepts, and whether that is all that
// the request can do.
func identityAfterAuth(id Identity, args [][]byte) (Identity, bool) {
	switch len(args) {
	case 2:
		id.User = "default"
	case 3:
		id.User = string(args[1])
	default:
		return id, false
	}
	return id, true
}

func identityAfterSelect(id Identity, args [][]byte) (Identity, bool) {
	if len(args) != 2 {
		return id, false
	}
	n, err := strconv.Atoi(string(args[1]))
	if err != nil || strconv.Itoa(n) != string(args[1]) || n < 0 {
		return id, false
	}
	id.DB = n
	return id, true
}

// identityAfterHello knows the requests that fail as a whole or not at all.
func identityAfterHello(id Identity, args [][]byte) (Identity, bool) {
	if len(args) == 1 {
		return id, true
	}
	if v := string(args[1]); v != "2" && v != "3" {
		return id, false
	}
	id.Proto = int(args[1][0] - '0')
	args = args[2:]
	if len(args) >= 3 && is(args[0], "auth") {
		id.User = string(args[1])
		args = args[3:]
	}
	if len(args) >= 2 && is(args[0], "setname") && IsName(args[1]) {
		id.Name = string(args[1])
		args = args[2:]
	}
	return id, len(args) == 0
}

// Credentials are the arguments of AUTH that let a user in. They are in memory only.
type Credentials []string

// CredentialsIn are those in AUTH or HELLO; nil where there are none.
func CredentialsIn(args [][]byte) Credentials {
	switch {
	case is(args[0], "auth") && len(args) == 2:
		return Credentials{string(args[1])}
	case is(args[0], "auth") && len(args) == 3:
		return Credentials{string(args[1]), string(args[2])}
	case is(args[0], "hello") && len(args) >= 5 && is(args[2], "auth"):
		return Credentials{string(args[3]), string(args[4])}
	}
	return nil
}

// IsName is the engine's rule for the names of clients.
func IsName(name []byte) bool {
	for _, c := range name {
		if c < '!' || c > '~' {
			return false
		}
	}
	return true
}
