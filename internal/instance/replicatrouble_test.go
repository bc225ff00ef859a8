package instance

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// The log names a trouble of a replica once, however often its figures change.
func TestTroubleOfReplicaIsOneKind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault error
		info  NodeInfo
		text  string
	}{
		{tooSoon(3614085347 * time.Nanosecond), NodeInfo{}, "it keeps ending, so it is started again in 4s at the earliest"},
		{tooSoon(95 * time.Millisecond), NodeInfo{}, "it keeps ending, so it is started again in 1s at the earliest"},
		{nil, NodeInfo{Known: true, Lag: 3210 * time.Millisecond}, "it is 3.2s behind the primary"},
		{nil, NodeInfo{Known: true, Lag: 30 * time.Millisecond}, "it is copying the primary's data"},
		{nil, NodeInfo{Known: true, Fault: "its process hangs"}, "its process hangs"},
		{errors.New("no folder"), NodeInfo{Known: true, InSync: true}, "no folder"},
		{nil, NodeInfo{}, "it is copying the primary's data"},
		{nil, NodeInfo{Known: true, InSync: true}, ""},
	} {
		text, kind := replicaTrouble(c.fault, c.info)
		if text != c.text {
			t.Errorf("%v, %+v: %q, not %q", c.fault, c.info, text, c.text)
		}
		if strings.ContainsAny(kind, "0123456789") || kind == "" != (text == "") {
			t.Errorf("%v, %+v: the kind is %q", c.fault, c.info, kind)
		}
	}
}
