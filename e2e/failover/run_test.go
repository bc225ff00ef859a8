package failover

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/sealane/sealane/e2e/failover/history"
)

func TestLongestGap(t *testing.T) {
	t.Parallel()
	s := func(seconds ...int) (all []time.Duration) {
		for _, n := range seconds {
			all = append(all, time.Duration(n)*time.Second)
		}
		return all
	}
	for _, c := range []struct {
		name       string
		times      []time.Duration
		start, end int
		want       int
	}{
		{"it begins before the failover", s(1, 2, 9, 10), 3, 20, 10},
		{"it is within", s(1, 2, 3, 8, 9, 10), 3, 10, 5},
		{"one that ended before does not count", s(1, 9, 10, 11, 12), 10, 12, 1},
		{"writes never come back", s(1, 2), 3, 20, 18},
		{"what comes after the end does not count", s(1, 4, 5, 50), 3, 7, 3},
		{"no write at all", nil, 3, 20, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := longestGap(c.times, time.Duration(c.start)*time.Second, time.Duration(c.end)*time.Second); got != time.Duration(c.want)*time.Second {
				t.Errorf("got %v, want %d s", got, c.want)
			}
		})
	}
}

func TestOnlyWhatWasNotExecutedIsRefused(t *testing.T) {
	t.Parallel()
	_, refused := net.DialTimeout("tcp", "127.0.0.1:1", time.Second)
	for _, c := range []struct {
		err  error
		want history.Outcome
	}{
		{nil, history.Done},
		{ServerError("READONLY You can't write against a read only replica."), history.Refused},
		{ServerError("LOADING Redis is loading the dataset in memory"), history.Refused},
		{ServerError("TRYAGAIN it may have been executed"), history.Unknown},
		{ServerError("ERR something"), history.Unknown},
		{refused, history.Refused},
		{fmt.Errorf("%w: not a primary yet", errNotSent), history.Refused},
		{io.EOF, history.Unknown},
		{errors.New("Command timed out"), history.Unknown},
	} {
		if got := outcome(c.err); got != c.want {
			t.Errorf("%v: got %s, want %s", c.err, got, c.want)
		}
	}
}

// A library that is asked nothing notices nothing. So the end of a connection is noticed without it, and whether a request was in
// flight then.
func TestClosedConnectionsAreNoticed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reports := make(chan Closed, 10)
	watch, err := watchConnections(func(c Closed) { reports <- c })
	if err != nil {
		t.Fatal(err)
	}
	defer watch.ignore()
	for i, c := range []struct {
		name           string
		busy, byServer bool
	}{
		{"by the server, idle", false, true},
		{"by the server, with a request in flight", true, true},
		{"by the library, idle", false, false},
		{"by the library, with a request in flight", true, false},
	} {
		o := &owner{client: i, watch: watch}
		client, err := o.dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		o.busy.Store(c.busy)
		if c.byServer {
			server.Close()
		} else {
			client.Close()
		}
		if got, want := <-reports, (Closed{Client: i, Clean: !c.busy, ByServer: c.byServer}); got != want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, want)
		}
		client.Close()
		server.Close()
	}
	if len(reports) > 0 {
		t.Errorf("a connection is reported twice: %+v", <-reports)
	}
}

func TestAReplyOfAnotherKindIsAViolation(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind  history.Kind
		reply any
	}{
		{history.Set, "1.1"}, {history.Set, int64(1)}, {history.Append, "OK"}, {history.Get, "OK"}, {history.Swap, int64(3)},
	} {
		o := history.Op{Kind: c.kind, Key: "key", Value: "1.2", End: 1}
		if c.kind == history.Get {
			o.Value = ""
		}
		if err := record(&o, []Reply{{Value: c.reply}}); err != nil {
			t.Fatal(err)
		}
		got := history.Check(history.History{Ops: []history.Op{o}})
		if !slices.ContainsFunc(got.Violations, func(v history.Violation) bool { return v.Rule == history.Foreign }) {
			t.Errorf("%s that is answered with %v: got %v, want %q", c.kind, c.reply, got.Violations, history.Foreign)
		}
	}
}
