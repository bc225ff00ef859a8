package relay

import (
	"bytes"
	"maps"
	"slices"
	"strconv"

	"github.com/sealane/sealane/internal/resp"
	"github.com/sealane/sealane/internal/routing"
)

// kept is what a client has set on its dedicated connection, beside who it is. Another connection of the same client is brought into
// the same state (upstream.restore).
type kept struct {
	channels, patterns, shards map[string]struct{} // subscriptions
	tracking                   []string            // the accepted CLIENT TRACKING ON, with the client's own ids; nil: it is off
	caching                    []string            // the last CLIENT CACHING, which is about the next request only
	settings                   map[string][]string // other accepted requests, the last of each kind
}

// maxPerSubscribe is how many channels one request subscribes to.
const maxPerSubscribe = 512

// keep returns what the session keeps, to add to it.
func (s *Session) keep() *kept {
	if s.kept == nil {
		s.kept = &kept{}
	}
	return s.kept
}

// prepareSetting is for commands that set something on the connection: CLIENT NO-EVICT and the like.
func prepareSetting(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	name, words := s.input.cmd.Name, texts(args)
	if name == "readwrite" {
		name = "readonly" // of which it is the end
	}
	return raw, onLine(func(s *Session, reply []byte) {
		if !isOK(reply) {
			return
		}
		k := s.keep()
		if k.settings == nil {
			k.settings = make(map[string][]string)
		}
		k.settings[name] = words
	})
}

func prepareCaching(_ *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	words := texts(args)
	return raw, onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.keep().caching = words
		}
	})
}

func texts(args [][]byte) []string {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = string(a)
	}
	return words
}

// forgetKept is called when RESET has worked. It leaves what CLIENT CAPA has set.
func (s *Session) forgetKept() {
	if s.kept == nil {
		return
	}
	capa, there := s.kept.settings["client|capa"]
	if s.kept = nil; there {
		s.keep().settings = map[string][]string{"client|capa": capa}
	}
}

// confirmed notes a subscription, or the end of one, by what the engine has said.
func (k *kept) confirmed(m []byte) {
	v, _, err := resp.ParseReply(m, resp.Limits{})
	if err != nil || len(v.Elems) < 2 || v.Elems[1].IsNull {
		return
	}
	word, channel := v.Elems[0].Str, v.Elems[1].Str
	set := &k.channels
	switch word[0] {
	case 'p':
		set = &k.patterns
	case 's':
		if word == "ssubscribe" || word == "sunsubscribe" {
			set = &k.shards
		}
	}
	switch word {
	case "unsubscribe", "punsubscribe", "sunsubscribe":
		if word == "sunsubscribe" {
			set = &k.shards
		}
		delete(*set, channel)
	default:
		if *set == nil {
			*set = make(map[string]struct{})
		}
		(*set)[channel] = struct{}{}
	}
}

// hasChannel says whether the client has subscribed to a channel.
func (k *kept) hasChannel(name string) bool {
	if k == nil {
		return false
	}
	_, there := k.channels[name]
	return there
}

// target is the client that is to be sent the invalidations; nil: there is none, or it is gone. named says that there should be one.
func (k *kept) target(s *Session) (target *Session, named bool) {
	if i := redirectArgument(k.tracking); i > 0 {
		return s.loop.group.clients.find([]byte(k.tracking[i])), true
	}
	return nil, false
}

// redirectArgument is the index of the client's id in CLIENT TRACKING; 0: there is none.
func redirectArgument(words []string) int {
	for i := 3; i+1 < len(words); i++ {
		if equalFold([]byte(words[i]), "redirect") {
			return i + 1
		}
	}
	return 0
}

// waitsForTarget sees to it that the client that is to be sent the invalidations has a connection, and says whether that is to come.
func (k *kept) waitsForTarget(s *Session) bool {
	if k == nil {
		return false
	}
	target, _ := k.target(s)
	return target != nil && s.waitFor(target)
}

// restore brings a fresh connection into the state in which its client has left the one before.
func (u *upstream) restore(s *Session) {
	k := s.kept
	if k == nil {
		k = &kept{}
	}
	if !s.loop.group.backend.Load().Multiplexed {
		u.restoreName(&s.login.Identity)
	}
	for _, name := range slices.Sorted(maps.Keys(k.settings)) {
		u.ask(resp.AppendCommand(nil, k.settings[name]...), onOptional)
	}
	if k.tracking != nil {
		u.restoreTracking(s)
	}
	if k.caching != nil && s.activity.lastCommand.Load() == routing.Named("client|caching") {
		u.ask(resp.AppendCommand(nil, k.caching...), onOptional)
	}
	u.resubscribe("SUBSCRIBE", k.channels)
	u.resubscribe("PSUBSCRIBE", k.patterns)
	u.resubscribe("SSUBSCRIBE", k.shards)
	if s.state.Subscriber.Monitor {
		u.askSetup(onSetup, "MONITOR")
	}
	u.restoreTransaction(s)
}

// restoreName tells the engine what the client is called. Clients learn it from the relay, so it is for those who look at the engine
// itself.
func (u *upstream) restoreName(id *routing.Identity) {
	u.setConnName(id.Name)
	for what, value := range map[string]string{"LIB-NAME": id.LibName, "LIB-VER": id.LibVer} {
		if value != "" {
			u.ask(resp.AppendCommand(nil, "CLIENT", "SETINFO", what, value), onOptional)
		}
	}
}

// restoreTracking turns tracking on again. What the client has in its cache is not known to the new engine, so it may be stale from
// now on.
func (u *upstream) restoreTracking(s *Session) {
	k := s.kept
	words := slices.Clone(k.tracking)
	target, named := k.target(s)
	switch {
	case target != nil:
		words[redirectArgument(words)] = strconv.FormatInt(target.profile.engineID.Load(), 10)
	case named:
		k.tracking = nil // the old engine has told the client that the other one is gone
		return
	default:
		target = s
	}
	u.askSetup(&replyHandler{complete: true, answer: func(u *upstream, _ *Session, reply []byte) []byte {
		if !isOK(reply) {
			u.fail(&SetupError{string(reply)})
			return nil
		}
		if target == s {
			s.invalidateAll()
		} else {
			target.loop.post(target.invalidateAll)
		}
		u.setupReplied()
		return nil
	}}, words...)
}

// resubscribe subscribes to what the client had subscribed to. The client is not told.
func (u *upstream) resubscribe(command string, set map[string]struct{}) {
	for names := range slices.Chunk(slices.Sorted(maps.Keys(set)), maxPerSubscribe) {
		u.setupPending++
		_, _ = u.Write(resp.AppendCommand(nil, append([]string{command}, names...)...))
		u.pendingReplies.push(pendingReply{count: len(names), handler: onResubscribed})
	}
}

// resubscribed takes a confirmation that the client is not told.
func (u *upstream) resubscribed(w *pendingReply) {
	last := w.count == 1
	u.pendingReplies.answered(1)
	if last {
		u.setupReplied()
	}
}

var (
	// onResubscribed gets errors only: confirmations go to resubscribed.
	onResubscribed = &replyHandler{complete: true, subscription: &subscription{}}
	onAborted      = &replyHandler{complete: true}
)

// They lead back to where they are asked from, which the compiler takes for a cycle.
func init() {
	onResubscribed.answer = func(u *upstream, s *Session, reply []byte) []byte { return onSetup.answer(u, s, reply) }
	onAborted.answer = func(u *upstream, _ *Session, reply []byte) []byte {
		if bytes.HasPrefix(reply, []byte("-BUSY")) {
			u.fail(&SetupError{string(reply)})
			return nil
		}
		u.setupReplied()
		return nil
	}
}
