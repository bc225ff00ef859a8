package main

import (
	"testing"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

// The lifetimes that a server was configured with are found again from how long its CA is valid.
func TestLifetimesAreFoundAgain(t *testing.T) {
	t.Parallel()
	for ca := pki.MinScaledCA; ca <= pki.DefaultLifetimes().CA; ca += max(time.Second, ca/97).Truncate(time.Second) {
		want := pki.ScaledLifetimes(ca)
		got := lifetimesOf(want.CA + want.Backdate)
		// Where a second more or less makes the same validity, no date differs by more.
		if d := got.CA - want.CA; d.Abs() > time.Second || got.CA+got.Backdate != want.CA+want.Backdate {
			t.Fatalf("%s: %+v; want %+v", ca, got, want)
		}
	}
	if d := pki.DefaultLifetimes(); lifetimesOf(d.CA+d.Backdate) != d {
		t.Error("the default lifetimes are not found again")
	}
}
