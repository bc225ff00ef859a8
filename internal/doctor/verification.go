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
)

// wrongName is in no certificate (RFC 2606).
const wrongName = "not-this-server.invalid"

// verificationStep proves that the connections of the further steps are verified: the same code that makes them must refuse
// this server with a CA that is not its own, and under a name that is not its own.
func (x *exam) verificationStep(ctx context.Context) finding {
	roots, err := x.impostor()
	if err != nil {
		return skipped("no CA could be made: %v", err)
	}
	attempt := func(t trust) error {
		s, err := x.open(ctx, t)
		if err == nil {
			s.close()
		}
		return err
	}
	wrongCA := x.trust()
	wrongCA.roots = roots
	wrongHost := x.trust()
	wrongHost.host = wrongName
	return x.proof(attempt(wrongCA), attempt(wrongHost))
}

// proof judges what came of the two attempts that must fail.
func (x *exam) proof(byCA, byName error) finding {
	_, unknownCA := errors.AsType[x509.UnknownAuthorityError](byCA)
	_, wrongHost := errors.AsType[x509.HostnameError](byName)
	switch {
	case byCA == nil:
		return failed(x.notVerified("a CA that has nothing to do with it"), "an unrelated CA verifies the certificate")
	case byName == nil:
		return failed(x.notVerified("a name that is not in it"), "%s is taken for a name of the server", wrongName)
	case !unknownCA:
		return skipped("an unrelated CA could not be tried: %s", reason(byCA))
	case !wrongHost && alertOf(byName) == "": // a server may refuse a name that it doesn't know
		return skipped("an unrelated CA is refused; a wrong name could not be tried: %s", reason(byName))
	}
	return ok("an unrelated CA is refused, and so is a wrong name")
}

// impostor is a pool with a fresh CA that is called as the right one is.
func (x *exam) impostor() (*x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), RawSubject: x.seen.state.PeerCertificates[0].RawIssuer,
		NotBefore: x.Now().Add(-time.Hour), NotAfter: x.Now().Add(time.Hour),
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
