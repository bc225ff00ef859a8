package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A hold keeps clients' requests from the engine, so that it can be replaced: clients are not read, and what was read and not sent
// waits. What is in flight is waited for. It is part of changes of the engine (enginechange.go).

const (
	// defaultTransactionTime is for how long a hold lets transactions go on that were open when it began. One that takes longer is aborted at
	// EXEC, if the engine is changed.
	defaultTransactionTime = 250 * time.Millisecond
	// busyPace and maxBusyPace are how often loops are asked whether something is in flight.
	busyPace    = 200 * time.Microsecond
	maxBusyPace = 5 * time.Millisecond
	// maxBusyShown is how many clients an error names.
	maxBusyShown = 5
)

// hold is one. It is guarded by Loops.holdMu.
type hold struct {
	since, until time.Time
	end          *time.Timer
	begun        int // how often it was asked for
}

// holdTerm is a hold up to the next time that it is asked for. The zero value is any hold.
type holdTerm struct {
	hold  *hold
	begun int
}

// holding is what a loop knows of a hold.
type holding struct {
	held       bool // clients' requests wait
	finishing  bool // transactions that are open may go on
	listed     bool
	unfinished []*Session // had something in flight at the last look
}

// HoldState is how far a hold is. The zero value says that there is none.
type HoldState struct{ Since, Until time.Time }

// Busy is a client that a hold waits for.
type Busy struct {
	Client  netip.AddrPort
	Name    string
	Command string // what it asked last
	Why     string
}

// BusyError says that something was still in flight when the time for it was over.
type BusyError struct {
	All []Busy
	For time.Duration
}

func (e *BusyError) Error() string {
	var shown []string
	for _, b := range e.All[:min(maxBusyShown, len(e.All))] {
		shown = append(shown, fmt.Sprintf("%s of %s (%s)", b.Command, b.Client, b.Why))
	}
	if more := len(e.All) - len(shown); more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	if len(e.All) == 0 {
		return fmt.Sprintf("the engine does not answer after %v", e.For.Round(time.Millisecond))
	}
	return fmt.Sprintf("still in flight after %v: %s", e.For.Round(time.Millisecond), strings.Join(shown, ", "))
}

// errReleased says that a hold has ended while its beginning was waited for.
var errReleased = errors.New("the hold has ended meanwhile")

// Hold keeps requests from the engine until Release, for limit at most, and returns when nothing is in flight any more. If that takes
// longer than wait, it returns a *BusyError, and the hold goes on. During a hold, another one only moves the limit, and waits as well.
// Clients that wait in a blocking command, subscribers and monitors do not count as in flight: none of their requests is executed
// while nothing else is.
func (ls *Loops) Hold(ctx context.Context, limit, wait time.Duration) error {
	began := time.Now()
	h := ls.beginHold(began, limit)
	for pace, fenced := busyPace, false; ; pace = min(2*pace, maxBusyPace) {
		waited := time.Since(began)
		busy := ls.busy(waited >= ls.transactionTime, fenced)
		switch {
		case !ls.holds(h):
			return errReleased
		case len(busy) == 0 && fenced:
			return nil
		case waited >= wait:
			return &BusyError{busy, waited}
		}
		if fenced = len(busy) == 0 && ls.fence(ctx); fenced {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pace):
		}
	}
}

func (ls *Loops) beginHold(now time.Time, limit time.Duration) *hold {
	ls.holdMu.Lock()
	defer ls.holdMu.Unlock()
	h := ls.hold
	if h != nil {
		h.end.Stop()
	} else {
		h = &hold{since: now}
		ls.hold = h
	}
	h.begun++
	h.until = now.Add(limit)
	term := holdTerm{h, h.begun}
	h.end = time.AfterFunc(limit, func() { ls.endHold(term) })
	if h.begun > 1 {
		return h
	}
	for _, l := range ls.all {
		l.post(func() { l.holding = holding{held: true, finishing: true} })
	}
	return h
}

// Release ends a hold. It does nothing where there is none.
func (ls *Loops) Release() { ls.endHold(holdTerm{}) }

// endHold ends a hold, unless it is another one by now, or was asked for again.
func (ls *Loops) endHold(term holdTerm) {
	ls.holdMu.Lock()
	defer ls.holdMu.Unlock()
	h := ls.hold
	if h == nil || term != (holdTerm{}) && term != (holdTerm{h, h.begun}) {
		return
	}
	h.end.Stop()
	ls.hold = nil
	for _, l := range ls.all {
		l.post(l.endHold)
	}
}

// holdTerm is the hold that there is now.
func (ls *Loops) holdTerm() holdTerm {
	ls.holdMu.Lock()
	defer ls.holdMu.Unlock()
	if ls.hold == nil {
		return holdTerm{hold: &hold{}} // none: a later one is another
	}
	return holdTerm{ls.hold, ls.hold.begun}
}

func (ls *Loops) holds(h *hold) bool {
	ls.holdMu.Lock()
	defer ls.holdMu.Unlock()
	return ls.hold == h
}

// HoldState says whether there is a hold.
func (ls *Loops) HoldState() HoldState {
	ls.holdMu.Lock()
	defer ls.holdMu.Unlock()
	if ls.hold == nil {
		return HoldState{}
	}
	return HoldState{ls.hold.since, ls.hold.until}
}

// endHold lets the clients of a loop go on.
func (l *loop) endHold() {
	l.holding = holding{}
	for _, s := range l.sessions() {
		if s.conn.paused || s.input.waits() {
			s.conn.requeue()
		}
	}
}

// busy returns the clients that have something in flight.
func (ls *Loops) busy(transactionsOver, fenced bool) []Busy {
	found := make(chan []Busy, len(ls.all))
	asked := 0
	for _, l := range ls.all {
		if l.post(func() { found <- l.busy(transactionsOver, fenced) }) {
			asked++
		}
	}
	var all []Busy
	for range asked {
		all = append(all, <-found...)
	}
	return all
}

// busy returns the loop's clients that have something in flight. Nothing is sent during a hold, so who had nothing has nothing; but
// for those that waited in a blocking command and had requests behind it, which are looked at again after the fence.
func (l *loop) busy(transactionsOver, fenced bool) []Busy {
	if transactionsOver {
		l.finishing = false
	}
	look := l.unfinished
	if !l.listed || fenced {
		look, l.listed = l.sessions(), true
	}
	l.unfinished = nil
	var all []Busy
	for _, s := range look {
		if fenced && s.state.InFlight() > 0 {
			s.hearOut()
		}
		if why := s.busyWith(); why != "" {
			l.unfinished = append(l.unfinished, s)
			all = append(all, Busy{s.cfg.Remote, s.login.Name, s.lastCommandName(), why})
		}
	}
	l.flushClients()
	return all
}

// mayFinish says that the client is in the middle of what a hold lets it finish.
func (s *Session) mayFinish() bool {
	return s.state.PassingRest || s.state.Queuing && s.loop.finishing
}

// busyWith says what a hold has to wait for; "": nothing.
func (s *Session) busyWith() string {
	u := s.dedicated
	switch {
	case s.phase >= engineGone:
	case s.state.PassingRest:
		return "in the middle of a request"
	case s.state.Queuing && s.loop.finishing:
		return "in a transaction"
	case s.state.Passthrough:
		if u != nil && !u.closed && !u.taken() {
			return "the engine has not read its request yet"
		}
	case u != nil && u.isMidReply(s), u != nil && s.state.InFlight() > 0 && len(u.replyBuffer) > 0:
		return "in the middle of a reply"
	case s.state.InFlight() == 0:
	case !s.waitsInEngine():
		return "waits for a reply"
	case u != nil && !u.taken():
		return "the engine has not read its request yet"
	}
	return ""
}

// fence returns when the engine has answered somebody who asked just now: it has executed what it had read before.
func (ls *Loops) fence(ctx context.Context) bool {
	b := ls.backend.Load()
	fd, err := b.Connect()
	if errors.Is(err, unix.EAGAIN) {
		return false // the engine accepts nobody just now
	}
	if err != nil {
		return true // it is gone, and executes nothing
	}
	c := os.NewFile(uintptr(fd), b.Engine)
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })
	defer stop()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return true
	}
	// Whatever it says, NOAUTH too, it has come to this.
	_, _ = c.Write([]byte("PING\r\n"))
	_, err = c.Read(make([]byte, 64))
	return !errors.Is(err, os.ErrDeadlineExceeded)
}
