package relay

import (
	"bytes"
	"errors"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// setup is what brings a fresh connection into the state of its key.
type setup struct {
	ready             bool                // connected, and what its key needs is set up
	letsInWithoutAuth bool                // who connects is let in without a password
	needsAuth         bool                // it was answered NOAUTH: nobody is logged in on it
	connName          string              // its name at the server
	credentials       routing.Credentials // of its user, by which it comes in
	firstError        []byte              // what the engine has said to our first question, if nothing good came after it
	setupPending      int                 // replies that it still waits for
}

var (
	idRequest      = resp.AppendCommand(nil, "CLIENT", "ID")
	noEvictRequest = resp.AppendCommand(nil, "CLIENT", "NO-EVICT", "on")
	resetRequest   = resp.AppendCommand(nil, "RESET")

	// olderThanClientID is how Redis before 5.0 answers CLIENT ID, once it has let the client in.
	olderThanClientID = []byte("-ERR Syntax error, try CLIENT ")
)

var (
	errUnasked     = errors.New("the engine said what nobody asked for")
	errNotRESP     = errors.New("the engine said what is no RESP")
	errClosedEarly = errors.New("the server closed a connection before anything was asked on it")
)

// SetupError says that the engine no longer lets a user in as it did, so that the client has to log in again.
type SetupError struct{ Reply string }

func (e *SetupError) Error() string { return "the engine refuses to go on for this user: " + e.Reply }

// ask sends a request of the relay's own.
func (u *upstream) ask(request []byte, h *replyHandler) {
	_, _ = u.Write(request)
	u.pendingReplies.push(pendingReply{count: 1, handler: h})
}

// askSetup asks what has to be answered before the connection is ready.
func (u *upstream) askSetup(h *replyHandler, args ...string) {
	u.setupPending++
	u.ask(resp.AppendCommand(nil, args...), h)
}

// prepare brings a fresh connection into the state of its key. Nothing of a client is sent before that is known to
// have worked: it would run as somebody else.
func (u *upstream) prepare() {
	b := u.loop.group.backend.Load()
	switch {
	case u.key.user != "":
		u.askSetup(onSetup, append([]string{"AUTH"}, u.credentials...)...)
	case b.remote() && b.Login != nil:
		u.askSetup(onBackendLogin, append([]string{"AUTH"}, b.Login...)...)
	}
	if u.key.proto == 3 {
		u.askSetup(onSetup, "HELLO", "3")
	}
	if u.key.db != 0 {
		u.askSetup(onSetup, "SELECT", itoa(u.key.db))
	}
	switch {
	case u.shared && b.remote():
		u.setConnName(b.Name)
	case b.remote():
		u.nameAsClient(u.client)
	case u.shared:
		// Where memory for clients is short, one that stands for many is not to be the first to go.
		u.ask(noEvictRequest, onOptional)
	}
	u.askEngineID()
	if u.client != nil && !b.remote() {
		u.restore(u.client)
	}
	u.fetchCommands()
	if u.shared || b.remote() || u.resetting {
		u.setupPending++ // whether it lets in without a login decides what may be shared, and whether clients must log in
	}
	if u.setupPending == 0 {
		u.becomeReady()
	} else if u.Flush() != nil {
		u.requeue()
	}
}

// nameAsClient names a connection as its client is.
func (u *upstream) nameAsClient(s *Session) {
	if s != nil {
		u.setConnName(s.login.Name)
	} else {
		u.setConnName("")
	}
}

func (u *upstream) setConnName(name string) {
	if u.connName == name {
		return
	}
	u.connName = name
	u.ask(resp.AppendCommand(nil, "CLIENT", "SETNAME", name), onOptional)
}

// askEngineID asks for the connection's id in the engine. It goes out with the first request.
func (u *upstream) askEngineID() { u.ask(idRequest, onEngineID) }

func (u *upstream) becomeReady() {
	u.ready = true
	if u.shared {
		u.firstError = nil // it only means that a user may do little
	}
	if s := u.client; s != nil {
		u.blocked = append(u.blocked, s)
		s.changed()
	}
	u.unblockAll()
	if u.forMinIdle || u.resetting {
		u.minIdleDone()
		u.resetting = false
		u.loop.putIdle(u)
	}
}

// minIdleDone ends the count of a connection among those that will be idle.
func (u *upstream) minIdleDone() {
	if u.forMinIdle {
		u.forMinIdle = false
		u.loop.dialingIdle--
	}
}

// setupReplied is called for each reply that the connection had to wait for.
func (u *upstream) setupReplied() {
	if u.setupPending--; u.setupPending == 0 {
		u.becomeReady()
	}
}

var (
	// onSetup is for what has to succeed.
	onSetup = &replyHandler{complete: true}
	// onOptional is for what may fail.
	onOptional = &replyHandler{complete: true, answer: func(u *upstream, _ *Session, reply []byte) []byte {
		u.noteFirstError(reply)
		return nil
	}}
	onEngineID     = &replyHandler{complete: true}
	onBackendLogin = &replyHandler{complete: true}
	onPoolReset    = &replyHandler{complete: true}
)

// They lead back to where they are asked from, which the compiler takes for a cycle.
func init() {
	onSetup.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		if bytes.HasPrefix(reply, []byte("-BUSY")) {
			u.failBusy(reply)
			return nil
		}
		if reply[0] == '-' {
			u.noteFirstError(reply)
			u.fail(&SetupError{string(reply)})
			return nil
		}
		u.setupReplied()
		return nil
	}
	onBackendLogin.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		u.noteFirstError(reply)
		if reply[0] == '-' {
			u.loginRefused(reply)
		} else {
			u.setupReplied()
		}
		return nil
	}
	onEngineID.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		u.noteFirstError(reply)
		u.engineIDReplied(reply)
		return nil
	}
	onPoolReset.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		if !bytes.HasPrefix(reply, []byte("+RESET")) {
			u.fail(&SetupError{string(reply)}) // Redis 6.0 has no RESET
			return nil
		}
		u.setupPending--
		u.connName = ""
		u.prepare()
		return nil
	}
}

// engineIDReplied has the answer to CLIENT ID, which also tells whether the engine lets clients in without a login.
func (u *upstream) engineIDReplied(reply []byte) {
	noAuth := bytes.HasPrefix(reply, []byte("-NOAUTH"))
	if u.resetting && noAuth {
		u.end() // whom it served was let in before there was a password
		return
	}
	id := int64(idUnknown)
	u.needsAuth = noAuth
	if u.key.user == "" {
		u.loop.group.idsUntold.Store(!noAuth && reply[0] != ':')
		u.loop.letsInWithoutAuth = reply[0] == ':' || bytes.HasPrefix(reply, olderThanClientID)
	}
	if bytes.HasPrefix(reply, olderThanClientID) {
		u.letsInWithoutAuth = true
	}
	if reply[0] == ':' {
		u.letsInWithoutAuth = true
		id = integer(reply[1:])
		u.loop.group.trackEngineID(id, u.loop.group.backend.Load().remote())
	} else if noAuth && u.key.user == "" && u.loop.group.backend.Load().Refused != nil {
		u.loginRefused(reply)
		return
	}
	u.engineIDIs(id)
	if !u.ready && u.setupPending > 0 {
		u.setupReplied()
	}
}

// noteFirstError notes an error: an engine that has no room, or is in protected mode, says so to whatever it is asked first, and closes.
func (u *upstream) noteFirstError(reply []byte) {
	u.firstError = nil
	if bytes.HasPrefix(reply, []byte("-ERR ")) || bytes.HasPrefix(reply, []byte("-DENIED ")) {
		u.firstError = append(u.firstError, reply...)
	}
}

// failBusy gives up a connection that can't be set up while the engine runs a script for too long. Those that wait for it are
// told what the engine says to everybody else, and stay.
func (u *upstream) failBusy(reply []byte) {
	for _, s := range u.takeBlocked() {
		s.answerBlocked(reply)
	}
	if s := u.client; s != nil {
		if s.state.Pinned() {
			u.fail(&SetupError{string(reply)}) // it can't go on without what it has left on the connection before
			return
		}
		s.detach()
		s.answerBlocked(reply)
	}
	u.end()
}

// reset makes a connection as good as new, on which something may have been left: RESET, and all that its key needs.
func (u *upstream) reset() {
	u.needsReset, u.ready, u.resetting = false, false, true
	u.setupPending++
	u.ask(resetRequest, onPoolReset)
	if u.Flush() != nil {
		u.requeue()
	}
}
