package relay

import (
	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// Where Backend.Passwords has passwords, clients log in here. What is said to AUTH and HELLO is decided by package routing; this file
// says it when it is its turn among the replies.

// wrongAuth has too few arguments, which makes an engine refuse the transaction that it is in.
var wrongAuth = resp.AppendCommand(nil, "AUTH")

// mustLogIn says that the client has not shown a password yet, and that there are some.
func (s *Session) mustLogIn(b *Backend) bool { return !s.login.admitted && len(b.Passwords) > 0 }

// logOut forgets who the client is, as RESET does.
func (s *Session) logOut() {
	b := s.loop.group.backend.Load()
	s.login.auth, s.login.secret, s.login.admitted = b.Auth, nil, len(b.Passwords) == 0
}

// checkLogin returns what the server is to get of a request. Nil: nothing, because the request is done with, or, if not done, because
// its answer has to wait until those before it are given.
func (s *Session) checkLogin(b *Backend, raw []byte) (forward []byte, done bool) {
	c := s.input.cmd
	switch {
	case c == routing.Empty:
		return raw, false
	case s.login.admitted && !routing.IsLogin(c):
		return raw, false
	case s.login.admitted && s.state.Queuing:
		return s.queuedLogin(b, raw), false
	case s.midReply():
		return nil, false
	case s.mustLogIn(b) && s.refuseTooLarge():
		return nil, true
	case s.mustLogIn(b) && (c == routing.ProtocolError || s.input.passingHead):
		s.endUnauthenticated([]byte("-ERR Protocol error\r\n"))
		return nil, true
	case s.mustLogIn(b) && c.Affinity == routing.Resets && s.input.scan.Args() == 1:
		return nil, s.resetLocally(raw)
	case s.mustLogIn(b) && c.Affinity == routing.Quits:
		return nil, s.answerLocally(c, raw)
	}
	login := b.Passwords.Judge(c, s.arguments(raw), s.login.admitted)
	s.login.admitted = s.login.admitted || login.Accepted
	switch {
	case login.Reply == nil && login.Request == nil:
		return raw, false
	case login.Reply == nil:
		return login.Request, false
	}
	// Libraries say who they are before they log in, and a probe never does.
	if args := s.arguments(raw); len(args) == 4 && equalFold(args[0], "client") && equalFold(args[1], "setinfo") && equalFold(args[2], "lib-name") {
		s.claimLibrary(string(args[3]))
	}
	s.activity.lastCommand.Store(c)
	s.activity.commands.Add(1)
	s.reply(login.Reply)
	return nil, true
}

// queuedLogin is what is queued in place of a request of a transaction: a password is nothing for the server to see.
func (s *Session) queuedLogin(b *Backend, raw []byte) []byte {
	login := b.Passwords.Judge(s.input.cmd, s.arguments(raw), true)
	if login.Reply != nil {
		return wrongAuth
	}
	return login.Request
}

// midReply says that something else is to be said to the client before what it asks now.
func (s *Session) midReply() bool {
	u := s.dedicated
	return s.state.InFlight() > 0 || s.state.Subscriber.PendingConfirmations > 0 || u != nil && !u.scan.Between()
}

// refuseTooLarge ends a client that has not logged in and whose request is too large for that, and says whether it has.
func (s *Session) refuseTooLarge() bool {
	reply := routing.UnauthenticatedTooLarge(s.input.scan.Longest(), s.input.scan.Args())
	if reply == nil {
		return false
	}
	s.endUnauthenticated(reply)
	return true
}

func (s *Session) endUnauthenticated(reply []byte) {
	s.setReason(EngineClosed, nil)
	s.reply(reply)
	s.endAfterEngine()
}
