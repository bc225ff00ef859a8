package failover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/sealane/sealane/e2e/failover/history"
)

// Each library has the same limits. The defaults differ so much (go-redis waits for 3 s, redigo and node-redis for ever) that they would
// hide what the targets do.
const (
	dialTimeout  = time.Second
	replyTimeout = 3 * time.Second
)

// Client is a client of some library with one connection to the primary. It reconnects by itself, and sends no command twice: the checker
// must know what was sent.
type Client interface {
	// Do sends the commands over one connection without waiting between them, and returns as many replies.
	Do(ctx context.Context, commands [][]string) []Reply
	Close()
}

// Reply is nil, a string, an int64 or a []string, or an error.
type Reply struct {
	Value any
	Err   error
}

// ServerError is an error that the server replied with.
type ServerError string

func (e ServerError) Error() string { return string(e) }

// errNotSent marks what failed before anything was sent.
var errNotSent = errors.New("not sent")

// refusals are the errors of a server that has not executed the command.
var refusals = []string{"READONLY", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "NOPERM", "NOAUTH", "ERR max number of clients reached"}

// outcome says what a reply tells about a command. Only an error that is known to come before the execution is a refusal.
func outcome(err error) history.Outcome {
	var refused ServerError
	var op *net.OpError
	switch {
	case err == nil:
		return history.Done
	case errors.As(err, &refused):
		for _, r := range refusals {
			if strings.HasPrefix(string(refused), r) {
				return history.Refused
			}
		}
	case errors.Is(err, errNotSent), errors.As(err, &op) && op.Op == "dial":
		return history.Refused
	}
	return history.Unknown
}

// failed is the same error for each command.
func failed(err error, commands [][]string) []Reply {
	replies := make([]Reply, len(commands))
	for i := range replies {
		replies[i].Err = err
	}
	return replies
}

// Libraries are the client libraries of a load.
var Libraries = []string{"go-redis", "rueidis", "redigo", "ioredis", "node-redis"}

// connect makes a client of a library for each owner. nodeDir is the folder of InstallNode.
func connect(library, nodeDir string, e Endpoint, owners []*owner) ([]Client, error) {
	var one func(Endpoint, *owner) (Client, error)
	switch library {
	case "go-redis":
		one = newGoRedis
	case "rueidis":
		one = newRueidis
	case "redigo":
		one = newRedigo
	case "ioredis", "node-redis":
		return newNode(nodeDir, library, e, owners)
	default:
		return nil, fmt.Errorf("library %q: want one of %s", library, strings.Join(Libraries, ", "))
	}
	var clients []Client
	for _, o := range owners {
		c, err := one(e, o)
		if err != nil {
			return clients, fmt.Errorf("%s: %w", library, err)
		}
		clients = append(clients, c)
	}
	return clients, nil
}

var addressInError = regexp.MustCompile(`(\d+\.){3}\d+(:\d+)?(->(\d+\.){3}\d+(:\d+)?)?`)

// errorText is an error without what differs from client to client.
func errorText(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return addressInError.ReplaceAllString(text, "ADDR")
}
