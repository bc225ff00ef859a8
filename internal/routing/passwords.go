package routing

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"slices"
	"strconv"

	"github.com/sealane/sealane/internal/resp"
)

// Passwords are the SHA-256 hashes of the passwords by which clients log in at the relay. They are for a server whose own users are not
// Sealane's to change: the relay answers AUTH there itself, in the words of an engine that has these passwords for its user default and
// has no other user. The server is told nothing about it.
type Passwords [][sha256.Size]byte

// Login is what is to be done with a request where the relay checks passwords.
type Login struct {
	// Reply is the whole answer; nil: the request goes to the server.
	Reply []byte
	// Request goes to the server in the request's place; nil: the request does, as it is.
	Request []byte
	// Accepted says that the client has shown a password that is good.
	Accepted bool
}

var (
	noAuth = []byte("-NOAUTH Authentication required.\r\n")
	// execNoAuth is said to EXEC from Redis 6.0 on, although there was no MULTI.
	execNoAuth = []byte("-EXECABORT Transaction discarded because of: NOAUTH Authentication required.\r\n")
	// helloWithoutAuth is what Redis 7 and 8 and Valkey say.
	helloWithoutAuth = []byte("-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass>" +
		" option can be used to authenticate the client and select the RESP protocol version at the same time\r\n")
	wrongPassword = []byte("-WRONGPASS invalid username-password pair or user is disabled.\r\n")
	noInteger     = []byte("-ERR Protocol version is not an integer or out of range\r\n")
	noProtocol    = []byte("-NOPROTO unsupported protocol version\r\n")
	syntaxError   = []byte("-ERR syntax error\r\n")
)

// The engine's limits for who has not logged in.
const (
	MaxUnauthenticated     = 16384 // bytes of an argument
	MaxUnauthenticatedArgs = 10
)

// UnauthenticatedTooLarge is the engine's answer to a request of somebody who has not logged in and whose longest argument, or number of
// arguments, is above its limits; nil: it is not.
func UnauthenticatedTooLarge(longest, args int) []byte {
	switch {
	case args > MaxUnauthenticatedArgs:
		return []byte("-ERR Protocol error: unauthenticated multibulk length\r\n")
	case longest > MaxUnauthenticated:
		return []byte("-ERR Protocol error: unauthenticated bulk length\r\n")
	}
	return nil
}

// Judge decides about a request. admitted says that the client has shown a good password before. RESET and QUIT are the caller's.
func (p Passwords) Judge(c *Command, args [][]byte, admitted bool) Login {
	switch {
	case c == auth:
		return p.judgeAuth(args)
	case c == hello:
		return p.judgeHello(args, admitted)
	case !admitted && c == execCommand:
		return Login{Reply: execNoAuth}
	case !admitted:
		return Login{Reply: noAuth}
	}
	return Login{}
}

var auth, hello = Named("auth"), Named("hello")

// IsLogin says that a command may log its client in.
func IsLogin(c *Command) bool { return c == auth || c == hello }

func (p Passwords) judgeAuth(args [][]byte) Login {
	switch len(args) {
	case 2:
		return p.judge("default", args[1])
	case 3:
		return p.judge(string(args[1]), args[2])
	case 0, 1:
		return Login{Reply: []byte("-ERR wrong number of arguments for 'auth' command\r\n")}
	}
	return Login{Reply: syntaxError}
}

func (p Passwords) judge(user string, password []byte) Login {
	if !p.accept(password) || user != "default" {
		return Login{Reply: wrongPassword}
	}
	return Login{Reply: []byte("+OK\r\n"), Accepted: true}
}

// accept compares with all of them, so that the time tells nothing.
func (p Passwords) accept(password []byte) bool {
	sum, good := sha256.Sum256(password), 0
	for _, hash := range p {
		good |= subtle.ConstantTimeCompare(sum[:], hash[:])
	}
	return good == 1
}

// judgeHello takes the login out of HELLO: what is left of it is the server's to answer.
func (p Passwords) judgeHello(args [][]byte, admitted bool) Login {
	login, rest, problem := Login{Accepted: admitted}, slices.Clone(args[:min(2, len(args))]), []byte(nil)
	if len(args) >= 2 {
		n, err := strconv.ParseInt(string(args[1]), 10, 64)
		switch {
		case err != nil:
			return Login{Reply: noInteger}
		case n != 2 && n != 3:
			return Login{Reply: noProtocol}
		}
	}
	given := Login{}
	for left := args[len(rest):]; len(left) > 0 && problem == nil; {
		switch {
		case len(left) >= 3 && is(left[0], "auth"):
			given = p.judge(string(left[1]), left[2])
			left = left[3:]
		case len(left) >= 2 && is(left[0], "setname"):
			rest = append(rest, left[:2]...)
			left = left[2:]
		default:
			problem = fmt.Appendf(nil, "-ERR Syntax error in HELLO option '%s'\r\n", printableWord(left[0]))
		}
	}
	switch {
	case problem != nil:
		return Login{Reply: problem}
	case given.Reply != nil && !given.Accepted:
		return Login{Reply: given.Reply}
	case given.Accepted:
		login.Accepted = true
	}
	if !login.Accepted {
		return Login{Reply: helloWithoutAuth}
	}
	words := make([]string, len(rest))
	for i, w := range rest {
		words[i] = string(w)
	}
	login.Request = resp.AppendCommand(nil, words...)
	return login
}

// printableWord is a client's word as an error may repeat it: one line, and not long.
func printableWord(w []byte) string {
	w = slices.Clone(w[:min(len(w), 128)])
	for i, c := range w {
		if c == '\r' || c == '\n' {
			w[i] = ' '
		}
	}
	return string(w)
}
