package audit

import (
	"log/slog"
	"path/filepath"
)

// The log of calls says who did what over the API. It is chained and checked as the log of certificates is, but it does not grow for
// ever: calls.log becomes calls.log.1 when it has 16 MiB, and the calls.log.1 of before is gone. So it holds the last 16 to 32 MiB,
// which is 40,000 calls or more. Who needs them for longer copies them elsewhere meanwhile.
//
// A call that changes something is entered before it is made, and its outcome in an entry of its own. A call without an outcome was
// under way when the server ended, or the outcome could not be entered.

const (
	CallMade    Action = "call"    // a call, with its outcome where the call is over
	CallOutcome Action = "outcome" // of a call that was entered before
)

// Call is what an entry says of a call.
type Call struct {
	Token     string `json:"token"`               // the token's id
	Principal string `json:"principal,omitempty"` // the token's description
	Method    string `json:"method"`              // such as google.cloud.redis.v1.CloudRedis/DeleteInstance
	Resource  string `json:"resource,omitempty"`  // as the request names it
	Peer      string `json:"peer,omitempty"`      // the caller's address
	Outcome   string `json:"outcome,omitempty"`   // a name of google.rpc.Code, such as OK
	Of        uint64 `json:"of,omitempty"`        // the number of the entry that this one is the outcome of
}

// CallsTitle is what the log is called in errors.
const CallsTitle = "log of calls"

// callsLimit is how large calls.log gets.
const callsLimit = 16 << 20

func calls(dir string) files {
	return files{title: CallsTitle, log: filepath.Join(dir, "calls.log"), head: filepath.Join(dir, "calls.head"), limit: callsLimit}
}

// CallsPath is the log of calls in a state folder.
func CallsPath(dir string) string { return calls(dir).log }

// CallsHeadPath is the file that holds the head of the log of calls.
func CallsHeadPath(dir string) string { return calls(dir).head }

// OpenCalls is Open for the log of calls.
func OpenCalls(dir string, log *slog.Logger) (*Log, error) {
	return open(calls(dir), log, func(d disk) disk { return d })
}

// VerifyCalls is Verify for the log of calls.
func VerifyCalls(dir string, each func(Entry)) (Summary, error) { return calls(dir).verify(each) }
