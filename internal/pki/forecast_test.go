package pki_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

// What is forecast is what happens, for thirty years, whenever one asks; and who may connect is who does.
func TestForecastIsWhatHappens(t *testing.T) {
	t.Parallel()
	end := start.AddDate(30, 0, 0)
	w := newWorld(t, pki.State{Names: loopback}, start)
	var happened []string
	first := len(w.s.CAs)
	forecasts := map[time.Time][]pki.Moment{start: pki.Forecast(w.s, start, end)}
	for now := w.next(start); !now.After(end); now = w.next(now) {
		actions := w.tick(now)
		for _, a := range actions {
			happened = append(happened, fmt.Sprint(now.Unix(), a.Kind, a.Generation, a.Reason))
		}
		if len(w.s.CAs) > first && len(forecasts) == 1 {
			forecasts[now] = pki.Forecast(w.s, now, end)
		}
		accepted := w.s.At(now).Accepted()
		for _, ca := range w.s.CAs {
			err := verify(t, pki.EncodePEM(ca.Certificate), w.served, "localhost", now)
			if got := err == nil; got != slices.Contains(accepted, ca.Generation) {
				t.Fatalf("day %.0f: who holds CA-%d gets %v; accepted are %v", days(now), ca.Generation, err, accepted)
			}
		}
		var chain [][]byte
		for _, c := range w.served {
			chain = append(chain, c.Raw)
		}
		if !w.s.At(now).Serves(chain) || w.s.At(now).Serves(append(chain, chain[0])) || w.s.At(now).Serves(chain[1:]) {
			t.Fatalf("day %.0f: what is served is not what is meant, or something else is", days(now))
		}
	}
	for asked, moments := range forecasts {
		var forecast []string
		for _, m := range moments {
			for _, a := range m.Actions {
				forecast = append(forecast, fmt.Sprint(m.Time.Unix(), a.Kind, a.Generation, a.Reason))
			}
		}
		if want := happened[len(happened)-len(forecast):]; len(forecast) < 60 || !slices.Equal(forecast, want) {
			t.Errorf("on day %.0f this was forecast:\n%q\nwant\n%q", days(asked), forecast, want)
		}
	}
}

// A new instance's future needs no key and no certificate, and begins with what is made at once.
func TestForecastOfANewInstance(t *testing.T) {
	t.Parallel()
	start := start.Truncate(time.Second)
	moments := pki.Forecast(pki.State{Names: loopback}, start, start.AddDate(12, 0, 0))
	var got []string
	for _, m := range moments {
		for _, a := range m.Actions {
			if a.Kind != pki.IssueLeaf && a.Kind != pki.IssueNextLeaf {
				got = append(got, fmt.Sprintf("%d %s %d: bundle %v, accepted %v", m.Time.Sub(start)/day, a.Kind, a.Generation, m.Published, m.Accepted))
			}
		}
	}
	want := []string{
		"0 create-ca 1: bundle [1], accepted [1]",
		"1825 create-ca 2: bundle [1 2], accepted [1]", "1825 sign-cross 2: bundle [1 2], accepted [1]",
		"2737 activate-ca 2: bundle [1 2], accepted [1 2]",
		"3620 end-cross 2: bundle [1 2], accepted [2]",
		"3650 retire-ca 1: bundle [2 3], accepted [2]", "3650 create-ca 3: bundle [2 3], accepted [2]", "3650 sign-cross 3: bundle [2 3], accepted [2]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if len(moments[0].Actions) != 2 || len(pki.Forecast(pki.State{Names: loopback}, start, start.Add(-1))) != 0 {
		t.Errorf("first moment: %+v", moments[0])
	}
}

// Whatever a configuration may say works.
func TestEveryScaleIsSound(t *testing.T) {
	t.Parallel()
	for ca := pki.MinScaledCA; ca < 3650*day; ca += max(time.Second, ca/500).Truncate(time.Second) {
		if err := pki.ScaledLifetimes(ca).Check(); err != nil {
			t.Fatalf("%s: %v", ca, err)
		}
	}
}
