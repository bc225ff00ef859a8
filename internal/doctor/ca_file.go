package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
)

// maxBundle is more than any bundle of CAs has; those of whole systems have a quarter of a MiB.
const maxBundle = 8 << 20

// trustStep reads what the client trusts.
func (d *diagnoser) trustStep(context.Context) finding {
	c := d.config
	if c.CAFile == "" && c.Instance == nil {
		return ok("the CAs that this machine trusts: no --ca was given")
	}
	raw, err := readBundle(c)
	if errors.Is(err, fs.ErrNotExist) {
		return d.failed(diagnosis.CAFileMissing, diagnosis.Details{}, "no such file")
	}
	if err != nil {
		why := underlying(err).Error()
		return d.failed(diagnosis.CAFileUnreadable, diagnosis.Details{Why: why}, "%s", why)
	}
	cas, marked, kind, details := parseCAs(raw)
	if kind != "" {
		return d.failed(kind, details, "%d bytes", len(raw))
	}
	d.trusted, d.roots = cas, x509.NewCertPool()
	var names []string
	last := cas[0]
	for _, ca := range cas {
		d.roots.AddCert(ca)
		names = append(names, diagnosis.CAName(ca)+" until "+ca.NotAfter.UTC().Format(time.DateOnly))
		if ca.NotAfter.After(last.NotAfter) {
			last = ca
		}
	}
	detail := fmt.Sprintf("%s holds %s", trustName(c), diagnosis.Few(names))
	now := c.Now()
	if now.After(last.NotAfter) {
		return d.failed(diagnosis.CAExpired, diagnosis.Details{Cert: last}, "%s", detail)
	}
	if c.CAFile != "" && c.Instance != nil {
		if next := missingCA(cas, currentCAs(c.Instance), now); next != nil {
			return d.warned(diagnosis.CANextMissing, diagnosis.Details{Cert: next}, "%s", detail)
		}
	}
	if marked {
		return d.warned(diagnosis.CAFileMarked, diagnosis.Details{}, "%s", detail)
	}
	return ok("%s", detail)
}

func readBundle(c Config) ([]byte, error) {
	if c.CAFile == "" {
		return c.Instance.Bundle, nil
	}
	f, err := os.Open(c.CAFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err == nil && len(raw) > maxBundle {
		err = fmt.Errorf("it has more than %d MiB", maxBundle>>20)
	}
	return raw, err
}

// parseCAs reads the CAs of a bundle. Server certificates among them are passed over, because clients do so too.
func parseCAs(raw []byte) (cas []*x509.Certificate, marked bool, kind diagnosis.Kind, details diagnosis.Details) {
	bundle, kind, details := diagnosis.ParseBundle(raw)
	if kind != "" {
		return nil, false, kind, details
	}
	cas = slices.DeleteFunc(slices.Clone(bundle.Certs), func(c *x509.Certificate) bool { return !diagnosis.MayBeCA(c) })
	if len(cas) == 0 {
		return nil, false, diagnosis.CAFileNoCA, diagnosis.Details{Cert: bundle.Certs[len(bundle.Certs)-1]}
	}
	return cas, bundle.Marked, "", details
}

// currentCAs are all CAs of an instance, nil if they can't be read.
func currentCAs(i *Instance) []*x509.Certificate {
	cas, _, _, _ := parseCAs(i.Bundle)
	return cas
}

// missingCA is a CA among current that the client does not trust, nil if there is none. Where the client trusts none of them,
// that is no question of the next CA: the chain will tell.
func missingCA(trusted, current []*x509.Certificate, now time.Time) *x509.Certificate {
	trusts := func(ca *x509.Certificate) bool { return slices.ContainsFunc(trusted, ca.Equal) }
	i := slices.IndexFunc(current, func(ca *x509.Certificate) bool { return now.Before(ca.NotAfter) && !trusts(ca) })
	if i < 0 || !slices.ContainsFunc(current, trusts) {
		return nil
	}
	return current[i]
}

// underlying is the cause of an error on a file, without the name.
func underlying(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
