package doctor

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/resp"
)

// engineTime reads the reply to TIME: seconds and microseconds.
func engineTime(v resp.Value) (time.Time, bool) {
	if v.Kind != resp.Array || len(v.Elems) != 2 {
		return time.Time{}, false
	}
	s, err := strconv.ParseInt(v.Elems[0].Str, 10, 64)
	us, err2 := strconv.ParseInt(v.Elems[1].Str, 10, 64)
	if err != nil || err2 != nil || s < 0 || s > 1<<40 || us < 0 || us >= 1e6 {
		return time.Time{}, false
	}
	return time.Unix(s, us*1000), true
}

// reading is by how much another clock is ahead of this machine's.
type reading struct {
	of    string
	ahead time.Duration
}

// apiClock is the clock of the API server.
func apiClock(i *Instance) (reading, bool) {
	if i == nil || i.Date.IsZero() {
		return reading{}, false
	}
	return reading{"the API server", i.Date.Sub(i.Here)}, true
}

// maxSkew is what certificates that are backdated by a minute leave room for, twice.
const maxSkew = 30 * time.Second

// clockStep compares this machine's clock with the server's.
func (d *diagnoser) clockStep(ctx context.Context) finding {
	r, known := apiClock(d.config.Instance)
	if d.session != nil {
		sent := d.config.Now()
		answer := d.session.do(ctx, "TIME")
		if t, isTime := engineTime(answer.Value); isTime {
			r, known = reading{"the engine", t.Sub(sent.Add(d.config.Now().Sub(sent) / 2))}, true
		}
	}
	switch {
	case !known:
		return skipped("nothing to compare with: engines tell the time after AUTH, the API does for a NAME")
	case r.ahead.Abs() > maxSkew:
		return d.warned(diagnosis.ClockSkew, diagnosis.Details{Clock: r.String()}, "%s", r)
	}
	return ok("%s", r)
}

func (r reading) String() string {
	switch ahead := r.ahead.Round(time.Second); {
	case ahead > 0:
		return fmt.Sprintf("this machine's clock is %s behind that of %s", diagnosis.Span(ahead), r.of)
	case ahead < 0:
		return fmt.Sprintf("this machine's clock is %s ahead of that of %s", diagnosis.Span(ahead), r.of)
	}
	return "this machine's clock agrees with that of " + r.of
}

// trueTime is a clock that can be believed: the API's, or that of an engine whose certificate is right but for the time.
func (d *diagnoser) trueTime() (reading, bool) {
	if r, known := apiClock(d.config.Instance); known {
		return r, true
	}
	served := d.handshake.served()
	leaf := served[0]
	if _, err := leaf.Verify(diagnosis.OptionsWhenValid(served, d.roots, d.config.Now())); err != nil || leaf.VerifyHostname(d.config.Host) != nil {
		return reading{}, false
	}
	if len(d.handshake.replies) < 2 {
		return reading{}, false
	}
	t, isTime := engineTime(d.handshake.replies[1])
	return reading{"the engine", t.Sub(d.handshake.sent)}, isTime
}
