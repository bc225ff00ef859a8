package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
)

// wrongName is in no certificate (RFC 2606).
const wrongName = "not-this-server.invalid"

// verificationStep proves that the connections of the further steps are verified: the same code that makes them must refuse
// this server with a CA that is not its own, and under a name that is not its own.
func (d *diagnoser) verificationStep(ctx context.Context) finding {
	roots, err := impostor(d.handshake.served()[0], d.config.Now())
	if err != nil {
		return skipped("no CA could be made: %v", err)
	}
	attempt := func(t trust) error {
		s, err := d.dialer.open(ctx, t)
		if err == nil {
			s.close()
		}
		return err
	}
	return d.proof(attempt(trust{roots: roots}), attempt(trust{roots: d.roots, host: wrongName}))
}

// proof is what came of the two attempts, which must fail: with a wrong CA, and under a wrong name.
func (d *diagnoser) proof(byCA, byName error) finding {
	_, unknownCA := errors.AsType[x509.UnknownAuthorityError](byCA)
	_, wrongHost := errors.AsType[x509.HostnameError](byName)
	alert, _ := diagnosis.AlertOf(byName)
	switch {
	case byCA == nil:
		return d.failed(diagnosis.NotVerified, diagnosis.Details{Why: "a CA that has nothing to do with it"}, "an unrelated CA verifies the certificate")
	case byName == nil:
		return d.failed(diagnosis.NotVerified, diagnosis.Details{Why: "a name that is not in it"}, "%s is taken for a name of the server", wrongName)
	case !unknownCA:
		return skipped("an unrelated CA could not be tried: %s", diagnosis.Reason(byCA))
	case !wrongHost && alert == 0: // a server may refuse a name that it doesn't know
		return skipped("an unrelated CA is refused; a wrong name could not be tried: %s", diagnosis.Reason(byName))
	}
	return ok("an unrelated CA is refused, and so is a wrong name")
}

// impostor is a pool with a fresh CA that has the name of the one that signed leaf.
func impostor(leaf *x509.Certificate, now time.Time) (*x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), RawSubject: leaf.RawIssuer,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return pool, nil
}
