package gateway

import (
	"container/list"
	"net/netip"
)

// handshakeQueue has the clients whose ClientHello is there and whose handshake has not begun. Sources take turns. Within a source,
// those that resume a session come first, and then the newest: whoever has waited for long has most likely given up, and a
// handshake with nobody helps nobody. Which client is closed when there are too many is up to arrivals. It is not safe for
// concurrent use.
type handshakeQueue struct {
	all   list.List // of *queuedHandshake, the oldest first
	turns list.List // of *sourceQueue, the one whose turn it is first
	by    map[netip.Prefix]*sourceQueue
}

// queuedHandshake is one client in the queue.
type queuedHandshake struct {
	c                *conn
	resumes          bool
	source           *sourceQueue
	inAll, inSources *list.Element // nil: it is in the queue no more
}

// sourceQueue has the clients of one source.
type sourceQueue struct {
	key      netip.Prefix
	full     list.List // of *queuedHandshake, the oldest first; likewise:
	resuming list.List
	turn     *list.Element
}

func (s *sourceQueue) list(resumes bool) *list.List {
	if resumes {
		return &s.resuming
	}
	return &s.full
}

func newHandshakeQueue() *handshakeQueue {
	return &handshakeQueue{by: make(map[netip.Prefix]*sourceQueue)}
}

func (q *handshakeQueue) len() int { return q.all.Len() }

func (q *handshakeQueue) push(c *conn, resumes bool) *queuedHandshake {
	key := sourceOf(c.remote.Addr())
	s := q.by[key]
	if s == nil {
		s = &sourceQueue{key: key}
		q.by[key] = s
		s.turn = q.turns.PushBack(s)
	}
	h := &queuedHandshake{c: c, resumes: resumes, source: s}
	h.inAll = q.all.PushBack(h)
	h.inSources = s.list(resumes).PushBack(h)
	return h
}

// remove takes a client out, if it is still in.
func (q *handshakeQueue) remove(h *queuedHandshake) {
	if h.inAll == nil {
		return
	}
	s := h.source
	q.all.Remove(h.inAll)
	s.list(h.resumes).Remove(h.inSources)
	h.inAll, h.inSources = nil, nil
	if s.full.Len()+s.resuming.Len() == 0 {
		q.turns.Remove(s.turn)
		delete(q.by, s.key)
	}
}

// next takes out the client whose turn it is; nil when the queue is empty.
func (q *handshakeQueue) next() *queuedHandshake {
	turn := q.turns.Front()
	if turn == nil {
		return nil
	}
	q.turns.MoveToBack(turn)
	s := turn.Value.(*sourceQueue)
	e := s.resuming.Back()
	if e == nil {
		e = s.full.Back()
	}
	h := e.Value.(*queuedHandshake)
	q.remove(h)
	return h
}

// oldest is the client that has waited longest; nil when the queue is empty.
func (q *handshakeQueue) oldest() *queuedHandshake {
	if e := q.all.Front(); e != nil {
		return e.Value.(*queuedHandshake)
	}
	return nil
}
