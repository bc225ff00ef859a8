package relay

import (
	"strconv"

	"github.com/sealane/sealane/internal/resp"
)

// CLIENT TRACKING, and what else names another client by an id: the engine gets the ids of its connections.

func prepareUnblock(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) < 3 {
		return raw, nil
	}
	return withArgument(args, 2, s.loop.group.clients.engineID(args[2], s.loop.group.trackedEngineIDs())), nil
}

func prepareTracking(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	target := int64(0)
	for i := 3; i+1 < len(args); i++ {
		if equalFold(args[i], "redirect") {
			target = parseID(string(args[i+1]))
			raw = withArgument(args, i+1, s.loop.group.clients.engineID(args[i+1], s.loop.group.trackedEngineIDs()))
			break
		}
	}
	return raw, onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.profile.redirect.Store(target)
		}
	})
}

// blockUntilTarget gives the client that is to be sent the invalidations a dedicated connection first.
func blockUntilTarget(s *Session, args [][]byte) bool {
	for i := 3; i+1 < len(args); i++ {
		if !equalFold(args[i], "redirect") {
			continue
		}
		if target := s.loop.group.clients.find(args[i+1]); target != nil && target.profile.engineID.Load() == 0 {
			if target == s {
				return false // its connection is on its way
			}
			target.loop.post(func() {
				target.wanted = append(target.wanted, s)
				target.maybeClose()
				target.conn.requeue()
			})
			return true
		}
	}
	return false
}

func showRedirect(_ *upstream, s *Session, reply []byte) []byte {
	if n := integer(reply[1:]); reply[0] == ':' && n > 0 {
		return appendInteger(nil, s.redirectedTo(n))
	}
	return reply
}

func showTracking(_ *upstream, s *Session, reply []byte) []byte {
	return withField(reply, "redirect", func(v resp.Value) resp.Value {
		if v.Int > 0 {
			v.Int = s.redirectedTo(v.Int)
		}
		return v
	})
}

// redirectedTo is the client to which invalidations go, by what the engine says of its connection.
func (s *Session) redirectedTo(engineID int64) int64 {
	if target := s.profile.redirect.Load(); target > 0 {
		return target
	}
	return s.loop.group.clients.clientID(engineID)
}

// parseID reads the id of a client; 0 where it is none.
func parseID(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}
