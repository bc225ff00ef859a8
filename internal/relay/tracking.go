package relay

import (
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
			target = number(string(args[i+1]))
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
				target.loop.again(&target.conn.socket)
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
