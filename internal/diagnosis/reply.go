package diagnosis

import (
	"strings"

	"github.com/sealane/sealane/internal/wire"
)

// Reply says what an error means with which a verified server answers AUTH (toAuth) or PING. words is the reply without its first byte.
// Details: Said, Command.
func Reply(words string, toAuth bool) (Kind, Details) {
	d := Details{Said: words, Command: "PING"}
	if toAuth {
		d.Command = "AUTH"
	}
	code, _, _ := strings.Cut(words, " ")
	switch {
	case strings.HasPrefix(words, wire.MaxClients):
		return MaxClients, d
	case strings.HasPrefix(words, wire.EngineUnavailable):
		return EngineAway, d
	}
	switch code {
	case "DENIED":
		return ProtectedMode, d
	case "LOADING":
		return Loading, d
	case "BUSY":
		return Busy, d
	case "MASTERDOWN":
		return MasterDown, d
	}
	switch {
	case toAuth:
		return AuthWrong, d
	case code == "NOAUTH":
		return AuthMissing, d
	case code == "NOPERM":
		return NoPermission, d
	case code == "MISCONF":
		return NoWrites, d
	}
	return PingRefused, d
}

// Unanswered says why a verified server gives no reply to command. Details: Command, Why.
func Unanswered(command string, err error) (Kind, Details) {
	d := Details{Command: command, Why: Reason(err)}
	if isTimeout(err) {
		return NoReply, d
	}
	return ClosedAfterHandshake, d
}
