package pki

import (
	"errors"
	"fmt"
	"time"
)

// Lifetimes are how long everything lasts, in whole seconds. The zero value stands for DefaultLifetimes; otherwise
// every field counts, also one that is zero. They are chosen before the first CA is made.
type Lifetimes struct {
	CA            time.Duration // of a CA
	PublishAfter  time.Duration // the newest CA's age at which the next is made
	ActivateAfter time.Duration // a CA's age at which the next signs in its place
	CrossEnds     time.Duration // for so long before the older CA expires, no cross-certificate is served
	Leaf          time.Duration // of a leaf
	Renewal       time.Duration // a leaf's age at which it is replaced
	Jitter        time.Duration // a leaf is replaced up to so much earlier, by chance, lest all instances renew in the same minute
	ReadyFor      time.Duration // once all clients have been known to trust the next CA for so long, it signs; zero: that changes nothing
	Backdate      time.Duration // lets a client whose clock is a little slow accept a certificate made just now
}

const day = 24 * time.Hour

// DefaultLifetimes are those that the package comment (pki.go) describes.
func DefaultLifetimes() Lifetimes {
	return Lifetimes{
		CA: 3650 * day, PublishAfter: 1825 * day, ActivateAfter: 2737 * day, CrossEnds: 30 * day,
		Leaf: 270 * day, Renewal: 180 * day, Jitter: 6 * time.Hour, Backdate: time.Minute, ReadyFor: 30 * day,
	}
}

// MinScaledCA is the shortest life of a CA that works: its cross-certificate ends a second before it does, and a second is
// the smallest unit of a certificate.
const MinScaledCA = 20 * time.Second

// A scaled leaf lives for minLeaf at least, which leaves a busy machine three seconds to replace it. Where a CA lives for less
// than 82 seconds that is more than the leaf's proportion.
const (
	minLeaf    = 6 * time.Second
	minRenewal = 3 * time.Second
)

// ScaledLifetimes are the defaults in the proportion that a CA lives for ca instead of ten years. ca is MinScaledCA at least. With
// them a CA never signs sooner because clients are known to trust it: a proportion of 30 days would say too little about them.
func ScaledLifetimes(ca time.Duration) Lifetimes {
	d := DefaultLifetimes()
	scale := func(t time.Duration) time.Duration {
		return t / time.Second * (ca / time.Second) / (d.CA / time.Second) * time.Second
	}
	l := Lifetimes{
		CA: ca.Truncate(time.Second), ActivateAfter: scale(d.ActivateAfter), CrossEnds: max(scale(d.CrossEnds), time.Second),
		Leaf: max(scale(d.Leaf), minLeaf), Renewal: max(scale(d.Renewal), minRenewal), Jitter: scale(d.Jitter), Backdate: scale(d.Backdate),
	}
	l.PublishAfter = ((l.CA + time.Second) / 2).Truncate(time.Second) // rounded up: two halves must not be less than a life
	return l
}

// Grace is for how long after its installation a bundle is good, at least.
func (l Lifetimes) Grace() time.Duration {
	l = l.orDefaults()
	return l.CA - l.CrossEnds - l.PublishAfter
}

// Check says everything that is wrong with lifetimes.
func (l Lifetimes) Check() error {
	l = l.orDefaults()
	var problems []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf("lifetimes: "+format, args...))
		}
	}
	for _, d := range []time.Duration{l.CA, l.PublishAfter, l.ActivateAfter, l.CrossEnds, l.Leaf, l.Renewal, l.Jitter, l.Backdate, l.ReadyFor} {
		want(d >= 0 && d%time.Second == 0, "%v: want whole seconds, not negative", d)
	}
	want(2*l.PublishAfter >= l.CA, "publish after %v: want at least half of a CA's %v, or there would be three", l.PublishAfter, l.CA)
	want(l.PublishAfter < l.ActivateAfter, "activate after %v: want more than publish after, %v", l.ActivateAfter, l.PublishAfter)
	want(l.ActivateAfter < l.CA-l.CrossEnds, "activate after %v: want less than a CA's %v without the %v at its end", l.ActivateAfter, l.CA, l.CrossEnds)
	want(l.CrossEnds > 0, "cross ends %v before the end: want at least a second", l.CrossEnds)
	want(l.Leaf <= l.CA, "leaf %v: want no more than a CA's %v", l.Leaf, l.CA)
	want(l.Renewal < l.Leaf, "renewal %v: want less than a leaf's %v", l.Renewal, l.Leaf)
	want(l.Jitter < l.Renewal, "jitter %v: want less than renewal, %v", l.Jitter, l.Renewal)
	return errors.Join(problems...)
}

func (l Lifetimes) orDefaults() Lifetimes {
	if l == (Lifetimes{}) {
		return DefaultLifetimes()
	}
	return l
}
