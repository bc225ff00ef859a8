package relay

import (
	"bytes"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// Who a client is comes along to every engine connection that serves it. The engine decides: AUTH, HELLO and SELECT go to it, and
// what it says is noted.

// failureLogsOut is how Redis before 6.0 refuses a password. Nobody is logged in on that connection then, whoever was before: it can be
// given to no other client.
var failureLogsOut = []byte("-ERR invalid password")

func prepareIdentityChange(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) == 0 {
		return raw, nil
	}
	onReply := s.onIdentityReply(args)
	return raw, &replyHandler{complete: true, answer: func(u *upstream, s *Session, reply []byte) []byte {
		reply = u.loginAnswer(reply)
		onReply(u, reply)
		return reply
	}}
}

func prepareHello(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	onReply := s.onIdentityReply(args)
	return raw, &replyHandler{complete: true, answer: func(u *upstream, s *Session, reply []byte) []byte {
		reply = u.loginAnswer(reply)
		onReply(u, reply)
		return withField(reply, "id", func(resp.Value) resp.Value {
			return resp.Value{Kind: resp.Integer, Int: s.id}
		})
	}}
}

// onIdentityReply returns what notes what became of AUTH, HELLO or SELECT. Who the client is after it is only known when its turn has
// come: what was asked before may be such a request as well, or change the name.
func (s *Session) onIdentityReply(args [][]byte) func(u *upstream, reply []byte) {
	identityAfter, secret := s.input.cmd.IdentityAfter, routing.CredentialsIn(args)
	kept := make([][]byte, len(args))
	for i, a := range args {
		kept[i] = bytes.Clone(a)
	}
	return func(u *upstream, reply []byte) {
		after, known := identityAfter(s.login.Identity, kept)
		s.identityReplied(u, after, known, secret, reply)
	}
}

// identityReplied notes what became of AUTH, HELLO or SELECT.
func (s *Session) identityReplied(u *upstream, after routing.Identity, known bool, secret routing.Credentials, reply []byte) {
	failed := reply[0] == '-'
	accepted := isOK(reply) || reply[0] == '*' || reply[0] == '%' // HELLO's answer is a list
	switch {
	case bytes.HasPrefix(reply, []byte("-NOPROTO")): // HELLO looks at the protocol before it does anything
	case isQueued(reply), !known && (!failed || secret != nil), !accepted && !failed:
		s.state.LoseTrack(routing.DirtyUntilReset) // what it comes to is not followed
	case bytes.HasPrefix(reply, failureLogsOut) && s.dedicated == u && s.isBorrowed(u):
		s.detach().end() // the client goes on as who it was, over connections of its own
	case bytes.HasPrefix(reply, failureLogsOut):
		s.state.LoseTrack(routing.DirtyForGood)
	case failed:
		if s.dedicated == u && s.isBorrowed(u) {
			s.returnDedicated() // it was one of what the client did not become
		}
	default:
		if secret != nil {
			s.login.secret = secret
			u.letsInWithoutAuth = true
		}
		before, borrowed := u.key, s.dedicated == u && s.isBorrowed(u)
		s.setIdentity(after)
		if borrowed {
			if u.key.db = before.db; isOK(reply) {
				u.key.proto = before.proto // only HELLO changes it
			}
			if s.isBorrowed(u) {
				s.returnDedicated() // it has logged in, and the client goes on with one in its own database and protocol
				break
			}
		}
		if u.id == idUnknown && u.client == s {
			u.askEngineID()
			u.flushLater()
		}
	}
}

// setIdentity is called when the engine has accepted who the client is.
func (s *Session) setIdentity(id routing.Identity) {
	s.login.Identity, s.shared = id, nil
	if s.dedicated != nil {
		s.dedicated.key = s.keyFor(&Backend{Engine: s.dedicated.key.engine}, id)
	}
	s.publish()
}

// publish shows others what the client has become.
func (s *Session) publish() {
	shown := s.login.Identity
	s.profile.identity.Store(&shown)
}

// hasReset is called when the engine has done a RESET.
func (s *Session) hasReset() {
	s.transaction = transaction{}
	s.state.HasReset()
	s.forgetKept()
	s.loop.group.monitors.Remove(s.id)
	s.profile.subscriber.Store(false)
	s.profile.redirect.Store(0)
	s.logOut() // the engine has, if there is anything to log in to
	s.setIdentity(s.login.AfterReset())
}

func prepareSetName(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) != 3 {
		return raw, nil
	}
	name := string(args[2])
	// A connection that stands for many has a name of its own at a server which others look at too.
	if b := s.loop.group.backend.Load(); b.remote() && s.dedicated == nil && routing.IsName(args[2]) {
		raw = resp.AppendCommand(nil, "CLIENT", "SETNAME", b.Name)
	}
	return raw, &replyHandler{answer: func(u *upstream, s *Session, reply []byte) []byte {
		if isOK(reply) {
			s.login.Name = name
			s.publish()
			if u.client == s {
				u.connName = name
			}
		}
		return reply
	}}
}

// claimLibrary notes the library of a client that the engine wasn't told of, or didn't take.
func (s *Session) claimLibrary(name string) {
	if routing.IsName([]byte(name)) {
		s.profile.claimedLibrary.Store(&name)
	}
}

func prepareSetInfo(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	if len(args) != 4 {
		return raw, nil
	}
	value, version := string(args[3]), equalFold(args[2], "lib-ver")
	return raw, onLine(func(s *Session, reply []byte) {
		if !isOK(reply) {
			if !version { // engines before 7.2 don't know the command
				s.claimLibrary(value)
			}
			return
		}
		if version {
			s.login.LibVer = value
		} else {
			s.login.LibName = value
		}
		s.publish()
	})
}
