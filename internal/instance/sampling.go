package instance

import (
	"context"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/pki"
)

// Sampling presents the next CA to clients that did not ask for it.
type Sampling struct {
	Generation int // the CA; once another one is to sign next, the sampling is over
	Percent    float64
	PerHour    int
}

// addTestChains completes a snapshot with what the gateway presents to clients that are to be tested, if there is anything.
func addTestChains(s *gateway.Snapshot, view pki.View, masterKey pki.MasterKey, sampling *Sampling) error {
	chain, key, err := view.NextChain(masterKey)
	if err != nil || len(chain) == 0 {
		return err
	}
	s.Next = &gateway.NextChain{Name: pki.NextName, Certificate: chain, PrivateKey: key, Anchors: []string{view.NextAnchor()}}
	if sampling != nil {
		s.Next.Sampling = &gateway.Sampling{Percent: sampling.Percent, PerHour: sampling.PerHour}
	}
	if chain, key, err = view.NextCrossChain(masterKey); err != nil || len(chain) == 0 {
		return err
	}
	s.NextCross = &gateway.NextChain{Name: pki.NextCrossName, Certificate: chain, PrivateKey: key, Anchors: []string{view.NextCrossLabel()}}
	return nil
}

// SetSampling presents the CA that is to sign next to some of the clients that did not ask for it: in percent of the full handshakes,
// and at most perHour times an hour. Chance decides whether the CA's cross-certificate is presented with it. A client that does not
// verify it sees an error, once. Sampling ends when that CA signs, and with a percentage of 0 at once. SetSampling returns as RotateCA
// does.
func (c *Certificates) SetSampling(ctx context.Context, name Name, percent float64, perHour int) error {
	switch {
	case !(percent >= 0 && percent <= 100): // NaN is neither
		return invalid("percent", "%v: want more than 0 and at most 100, or 0 to end it", percent)
	case percent > 0 && (perHour < 1 || perHour > gateway.MaxSamplesPerHour):
		return invalid("per_hour", "%d: want 1 to %d", perHour, gateway.MaxSamplesPerHour)
	}
	var changed *Instance
	err := c.records.mutate(name, func(i *Instance) error {
		if err := i.requireNoOperation(); err != nil {
			return err
		}
		if err := i.requireTLS(); err != nil {
			return err
		}
		i.Sampling, changed = nil, i
		if percent == 0 {
			return nil
		}
		ca, ok := i.Certificates.At(c.now()).NextSigner()
		if !ok {
			return precondition("there is no CA that waits to sign, so there is nothing to sample: start the next generation first")
		}
		i.Sampling = &Sampling{Generation: ca.Generation, Percent: percent, PerHour: perHour}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.workers.waitApplied(ctx, changed); err != nil {
		return err
	}
	c.log.Info("sampling changed", "instance", name, "percent", percent, "per_hour", perHour)
	return nil
}

// activeSampling is the sampling that goes on now; nil: none. The view is of the instance's certificates.
func (i *Instance) activeSampling(view pki.View) *Sampling {
	if i.Sampling == nil {
		return nil
	}
	ca, ok := view.NextSigner()
	if !ok || ca.Generation != i.Sampling.Generation || ca.Fingerprint() != view.NextAnchor() {
		return nil
	}
	return i.Sampling
}
