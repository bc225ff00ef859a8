package relay

import (
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/attribution"
	"github.com/sealane/sealane/internal/routing"
)

// MONITOR, SLOWLOG and COMMANDLOG say who asked; package attribution finds out. This file tells it what is asked.

func prepareCommandLog(s *Session, raw []byte, args [][]byte) ([]byte, *replyHandler) {
	kind := attribution.Slow
	if len(args) == 4 && equalFold(args[0], "commandlog") {
		kind = attribution.Kind(strings.ToLower(string(args[3])))
	}
	return raw, &replyHandler{complete: true, answer: func(_ *upstream, s *Session, reply []byte) []byte {
		return s.loop.group.log.Show(kind, reply)
	}}
}

// noteAnswered notes a request that has been answered, if the engine has noted it too.
func (s *Session) noteAnswered(c *routing.Command, sent int64) {
	now := s.loop.now
	if took := now.UnixNano() - sent; took >= int64(attribution.SlowTime) {
		s.noteRequest(attribution.Slow, c, time.Unix(0, sent), now, took/1000)
	}
	told := s.activity.bytesOut.Load()
	if size := told - s.activity.bytesOutBefore; size >= attribution.LargeSize {
		s.noteRequest(attribution.LargeReply, c, time.Unix(0, sent), now, int64(size))
	}
	s.activity.bytesOutBefore = told
}

// noteLargeRequest notes a request that is so long that the engine notes it.
func (s *Session) noteLargeRequest(size int) {
	if size >= attribution.LargeSize {
		now := s.loop.now
		s.noteRequest(attribution.LargeRequest, s.input.cmd, now.Add(-time.Second), now.Add(time.Minute), int64(size))
	}
}

func (s *Session) noteRequest(kind attribution.Kind, c *routing.Command, asked, answered time.Time, value int64) {
	s.loop.group.log.Note(attribution.Request{
		Kind: kind, Command: c.Name, Runs: c.Pin == routing.PinScript || c == exec, Client: s.cfg.Remote, Name: s.login.Name,
		Asked: asked, Answered: answered, Value: value,
	})
}

var exec = routing.Named("exec")

// isOwnRequest says that a request which no client made is one of the relay's own, as MONITOR shows it.
func (ls *Loops) isOwnRequest(request string) bool {
	name, _, _ := strings.Cut(request, " ")
	return slices.Contains(ownRequests, request) || name == `"SELECT"` || name == `"AUTH"` || request == ls.canary.shown
}

var ownRequests = []string{`"CLIENT" "ID"`, `"CLIENT" "NO-EVICT" "on"`, `"HELLO" "3"`, `"COMMAND"`, `"RESET"`, `"HELLO"`, `"WAIT" "0" "0"`, `"SWAPDB" "0" "0"`}
