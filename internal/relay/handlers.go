package relay

import (
	"bytes"

	"github.com/sealane/sealane/internal/routing"
)

// handler is what is done about the requests or replies of one command.
type handler struct {
	// onRequest, where given, looks at the request when it is its turn: what the engine gets, and what becomes of the reply.
	// It may return the request as it is.
	onRequest func(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler)
	onReply   *replyHandler // where there is no onRequest
	// blockUntil says that the request has to wait for something, and sees to it; route is tried again then.
	blockUntil func(s *Session, args [][]byte) bool
}

// handlers are those of the commands of which package routing says that they are handled.
var handlers = make(map[*routing.Command]handler)

// handlerOf returns the handler of a command; the zero value where there is none.
func handlerOf(c *routing.Command) handler {
	if !c.Handled {
		return handler{}
	}
	return handlers[c]
}

// whole is a handler of complete replies.
func whole(answer func(u *upstream, s *Session, reply []byte) []byte) handler {
	return handler{onReply: &replyHandler{complete: true, answer: answer}}
}

// Some lead back to the map, which the compiler takes for a cycle.
func init() {
	handlers[routing.ReplyOn] = handler{onRequest: prepareReplyMode}
	handlers[routing.ReplyOff] = handler{onRequest: prepareReplyMode}
	handlers[routing.ReplySkip] = handler{onRequest: prepareReplyMode}
	handlers[routing.OutcomeUnknown] = handler{onRequest: prepareOutcomeUnknown}
	handlers[routing.Unknown] = handler{onRequest: prepareUnknown}
	for name, h := range map[string]handler{
		"auth":   {onRequest: prepareIdentityChange},
		"hello":  {onRequest: prepareHello},
		"select": {onRequest: prepareIdentityChange},
		"reset":  {onReply: onReset},

		"multi":   {onReply: onMulti},
		"exec":    {onRequest: prepareExec},
		"discard": {onReply: onDiscard},
		"watch":   {onReply: onWatch},
		"unwatch": {onReply: onUnwatch},

		"subscribe":    {onRequest: prepareSubscription},
		"psubscribe":   {onRequest: prepareSubscription},
		"ssubscribe":   {onRequest: prepareSubscription},
		"unsubscribe":  {onRequest: prepareSubscription},
		"punsubscribe": {onRequest: prepareSubscription},
		"sunsubscribe": {onRequest: prepareSubscription},
		"monitor":      {onReply: onMonitor},

		"wait":    {onRequest: prepareWait},
		"waitaof": {onRequest: prepareWait},

		"slowlog":              {onRequest: prepareCommandLog},
		"commandlog":           {onRequest: prepareCommandLog},
		"info":                 whole(showInfo),
		"client|id":            whole(showID),
		"client|getname":       whole(showName),
		"client|setname":       {onRequest: prepareSetName},
		"client|setinfo":       {onRequest: prepareSetInfo},
		"client|info":          whole(showClient),
		"client|list":          {onRequest: prepareList},
		"client|kill":          {onRequest: prepareKill},
		"client|unblock":       {onRequest: prepareUnblock},
		"client|pause":         {onRequest: preparePause},
		"client|unpause":       {onReply: onUnpause},
		"client|getredir":      whole(showRedirect),
		"client|trackinginfo":  whole(showTracking),
		"client|caching":       {onRequest: prepareCaching},
		"client|import-source": {onRequest: prepareSetting},
		"readonly":             {onRequest: prepareSetting},
		"readwrite":            {onRequest: prepareSetting},
		"client|no-evict":      {onRequest: prepareSetting},
		"client|no-touch":      {onRequest: prepareSetting},
		"client|capa":          {onRequest: prepareSetting},
		"client|tracking":      {onRequest: prepareTracking, blockUntil: blockUntilTarget},
	} {
		handlers[routing.Named(name)] = h
	}
}

// prepareUnknown is for commands that nothing is known of. They may work on the connection itself if they are CLIENT's.
func prepareUnknown(_ *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	ofConnection := len(args) > 0 && equalFold(args[0], "client")
	return raw, onLine(func(s *Session, reply []byte) { s.state.UnknownReplied(reply, ofConnection) })
}

var (
	onReset = onLine(func(s *Session, reply []byte) {
		if !bytes.HasPrefix(reply, []byte("+RESET")) {
			s.state.Resetting = false
			return
		}
		s.hasReset()
	})
	// onProtocolError is for requests that the engine may refuse as a protocol error. It closes the connection then, a moment later:
	// nobody may have the connection next.
	onProtocolError = onLine(func(s *Session, reply []byte) {
		if bytes.HasPrefix(reply, []byte("-ERR Protocol error")) {
			s.state.LoseTrack(routing.DirtyForGood)
		}
	})
	onMonitor = onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.state.Subscriber.Monitor = true
			s.loop.group.monitors.Add(s.id)
			s.profile.subscriber.Store(true)
		} else if isQueued(reply) {
			s.enterPassthrough()
		}
	})
	onUnpause = onLine(func(s *Session, reply []byte) {
		if isOK(reply) {
			s.loop.group.pausedUntil.Store(0)
		}
	})
)

func isOK(reply []byte) bool     { return bytes.HasPrefix(reply, []byte("+OK")) }
func isQueued(reply []byte) bool { return bytes.HasPrefix(reply, []byte("+QUEUED")) }
