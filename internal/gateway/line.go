package gateway

import (
	"container/list"
	"net/netip"
)

// line is where clients wait whose ClientHello is there. Sources take turns; within a source, those that resume a session
// come first, and then the newest: who has waited for long has most likely given up, and a handshake with nobody helps
// nobody. Who must go when there are too many is up to arrivals. It is not safe for concurrent use.
type line struct {
	all   list.List // of *waiting, the oldest first
	turns list.List // of *turn, the next one first
	by    map[netip.Prefix]*turn
}

// waiting is one client in the line.
type waiting struct {
	c              *conn
	resumes        bool
	turn           *turn
	inAll, inTurns *list.Element
}

// turn is a source with somebody in the line.
type turn struct {
	key   netip.Prefix
	fresh list.List // of *waiting, the oldest first; likewise:
	again list.List // those that resume a session
	place *list.Element
}

func (t *turn) list(resumes bool) *list.List {
	if resumes {
		return &t.again
	}
	return &t.fresh
}

func newLine() *line { return &line{by: make(map[netip.Prefix]*turn)} }

func (l *line) len() int { return l.all.Len() }

func (l *line) push(c *conn, resumes bool) *waiting {
	key := sourceOf(c.remote.Addr())
	t := l.by[key]
	if t == nil {
		t = &turn{key: key}
		l.by[key] = t
		t.place = l.turns.PushBack(t)
	}
	w := &waiting{c: c, resumes: resumes, turn: t}
	w.inAll = l.all.PushBack(w)
	w.inTurns = t.list(resumes).PushBack(w)
	return w
}

func (l *line) remove(w *waiting) {
	t := w.turn
	l.all.Remove(w.inAll)
	w.inAll = nil // it is in the line no more
	t.list(w.resumes).Remove(w.inTurns)
	if t.fresh.Len()+t.again.Len() == 0 {
		l.turns.Remove(t.place)
		delete(l.by, t.key)
	}
}

// next takes out whose turn it is; nil when nobody waits.
func (l *line) next() *waiting {
	place := l.turns.Front()
	if place == nil {
		return nil
	}
	l.turns.MoveToBack(place)
	t := place.Value.(*turn)
	e := t.again.Back()
	if e == nil {
		e = t.fresh.Back()
	}
	w := e.Value.(*waiting)
	l.remove(w)
	return w
}

// oldest is who has waited longest; nil when nobody waits.
func (l *line) oldest() *waiting {
	if e := l.all.Front(); e != nil {
		return e.Value.(*waiting)
	}
	return nil
}
