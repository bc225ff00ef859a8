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
	target, words := int64(0), texts(args)
	if i := redirectArgument(words); i > 0 {
		target = parseID(words[i])
		raw = withArgument(args, i, s.loop.group.clients.engineID(args[i], s.loop.group.trackedEngineIDs()))
	}
	on := len(words) > 2 && equalFold(args[2], "on")
	return raw, onLine(func(s *Session, reply []byte) {
		if !isOK(reply) {
			return
		}
		s.profile.redirect.Store(target)
		if s.keep().tracking = nil; on {
			s.kept.tracking = words
		}
	})
}

// blockUntilTarget gives the client that is to be sent the invalidations a dedicated connection first.
func blockUntilTarget(s *Session, args [][]byte) bool {
	i := redirectArgument(texts(args))
	if i == 0 {
		return false
	}
	target := s.loop.group.clients.find(args[i])
	return target != nil && s.waitFor(target)
}

// waitFor sees to it that another client has a dedicated connection, and returns whether that is to come.
func (s *Session) waitFor(target *Session) bool {
	if target == s || target.profile.engineID.Load() != 0 { // its own is on its way
		return false
	}
	target.loop.post(func() {
		target.wanted = append(target.wanted, s)
		target.maybeClose()
		target.conn.requeue()
	})
	return true
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
