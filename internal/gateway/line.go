package gateway

import (
	"container/heap"
	"container/list"
	"net/netip"
	"time"
)

// line is where clients wait whose ClientHello is there. Sources take turns; within a source, those that resume a session
// come first, and then the newest: who has waited for long has most likely given up, and a handshake with nobody helps
// nobody. When somebody must go it is the oldest of the source with the most. It is not safe for concurrent use.
type line struct {
	all     list.List // of *waiting, the oldest first
	turns   list.List // of *source, the next one first
	sources map[netip.Prefix]*source
	most    sources
}

// waiting is one client in the line.
type waiting struct {
	c               *conn
	since           time.Time
	resumes         bool
	from            *source
	inAll, inSource *list.Element
}

// source is an address with somebody in the line: whoever has an IPv6 address has 2^64 of them.
type source struct {
	key   netip.Prefix
	fresh list.List // of *waiting, the oldest first; likewise:
	again list.List // those that resume a session
	turn  *list.Element
	place int // in most
}

func (s *source) len() int { return s.fresh.Len() + s.again.Len() }

func newLine() *line { return &line{sources: make(map[netip.Prefix]*source)} }

func (l *line) len() int { return l.all.Len() }

func sourceOf(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // the zero Addr has the zero Prefix
	return p
}

func (l *line) push(c *conn, resumes bool, now time.Time) *waiting {
	key := sourceOf(c.remote.Addr())
	s := l.sources[key]
	if s == nil {
		s = &source{key: key}
		l.sources[key] = s
		s.turn = l.turns.PushBack(s)
		heap.Push(&l.most, s)
	}
	w := &waiting{c: c, since: now, resumes: resumes, from: s}
	w.inAll = l.all.PushBack(w)
	if resumes {
		w.inSource = s.again.PushBack(w)
	} else {
		w.inSource = s.fresh.PushBack(w)
	}
	heap.Fix(&l.most, s.place)
	return w
}

func (l *line) remove(w *waiting) {
	s := w.from
	l.all.Remove(w.inAll)
	w.inAll = nil // it is in the line no more
	if w.resumes {
		s.again.Remove(w.inSource)
	} else {
		s.fresh.Remove(w.inSource)
	}
	if s.len() > 0 {
		heap.Fix(&l.most, s.place)
		return
	}
	heap.Remove(&l.most, s.place)
	l.turns.Remove(s.turn)
	delete(l.sources, s.key)
}

// next takes out whose turn it is; nil when nobody waits.
func (l *line) next() *waiting {
	turn := l.turns.Front()
	if turn == nil {
		return nil
	}
	l.turns.MoveToBack(turn)
	s := turn.Value.(*source)
	e := s.again.Back()
	if e == nil {
		e = s.fresh.Back()
	}
	w := e.Value.(*waiting)
	l.remove(w)
	return w
}

// shed takes out who is least worth a handshake; nil when nobody waits.
func (l *line) shed() *waiting {
	if len(l.most) == 0 {
		return nil
	}
	s := l.most[0]
	e, other := s.fresh.Front(), s.again.Front()
	if e == nil || other != nil && other.Value.(*waiting).since.Before(e.Value.(*waiting).since) {
		e = other
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

// sources is a heap with the one first that has most in the line.
type sources []*source

func (h sources) Len() int           { return len(h) }
func (h sources) Less(i, j int) bool { return h[i].len() > h[j].len() }
func (h sources) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *sources) Push(s any) {
	s.(*source).place = len(*h)
	*h = append(*h, s.(*source))
}

func (h *sources) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return s
}
