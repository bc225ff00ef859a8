package pki_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/pki"
)

// bundle is that of an instance with two CAs.
func bundle(t testing.TB) []byte {
	t.Helper()
	key := masterKey(t)
	s := pki.State{Names: loopback}
	s, _, err := s.DoAll(pki.Plan(s, start), key, start)
	if err != nil {
		t.Fatal(err)
	}
	next, err := s.Rotate(start)
	if err != nil {
		t.Fatal(err)
	}
	if s, _, err = s.DoAll(next, key, start); err != nil {
		t.Fatal(err)
	}
	return s.At(start).Bundle()
}

func TestPEMIsRefusedUnlessAllOfItIsRight(t *testing.T) {
	t.Parallel()
	good := string(bundle(t))
	_, second, _ := strings.Cut(good[1:], "-----BEGIN")
	for _, tt := range []struct {
		name, text string
		problem    pki.PEMProblem // "": none
		certs      int
	}{
		{"two CAs", good, "", 2},
		{"a byte order mark before each, as joined files have", "\ufeff" + strings.ReplaceAll(good, "-----END CERTIFICATE-----\n", "-----END CERTIFICATE-----\n\ufeff"), "", 2},
		{"carriage returns", strings.ReplaceAll(good, "\n", "\r\n"), "", 2},
		{"text before, between and after", "CA-1\n" + strings.ReplaceAll(good, "-----END CERTIFICATE-----\n", "-----END CERTIFICATE-----\nCA-2\n"), "", 2},
		{"nothing", " \n", pki.PEMEmpty, 0},
		{"UTF-16", "\xff\xfe-\x00", pki.PEMUTF16, 0},
		{"text", "hello", pki.PEMNone, 0},
		{"half of the second", good[:len(good)-len(second)/2], pki.PEMCutOff, 0},
		{"a wrong byte in the first", strings.Replace(good, "MII", "M!I", 1), pki.PEMCutOff, 0},
		{"a certificate that is none", strings.Replace(good, "MII", "MIA", 1), pki.PEMDamaged, 0},
		{"a key beside it", good + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", pki.PEMNotCertificate, 0},
	} {
		certs, _, err := pki.DecodePEM([]byte(tt.text))
		var got pki.PEMProblem
		if e, ok := errors.AsType[*pki.PEMError](err); ok {
			got = e.Problem
		}
		if got != tt.problem || (err == nil) != (tt.problem == "") || len(certs) != tt.certs {
			t.Errorf("%s: got %d certificates, %v; want %d, %q", tt.name, len(certs), err, tt.certs, tt.problem)
		}
	}
	certs, rest, err := pki.DecodePEM([]byte(good + "junk"))
	if err != nil || string(rest) != "junk" {
		t.Errorf("junk after it: rest %q, %v", rest, err)
	}
	if _, _, err := pki.DecodePEM(certs[0].Raw); err == nil || err.Error() != string(pki.PEMIsDER) {
		t.Errorf("DER: got %v, want %q", err, pki.PEMIsDER)
	}
}

// Whatever is accepted is encoded to the same certificates again.
func FuzzDecodePEM(f *testing.F) {
	good := bundle(f)
	f.Add(good)
	f.Add(good[:len(good)-10])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		certs, _, err := pki.DecodePEM(raw)
		if err != nil {
			return
		}
		var encoded []byte
		for _, c := range certs {
			encoded = append(encoded, pki.EncodePEM(c.Raw)...)
		}
		again, rest, err := pki.DecodePEM(encoded)
		if err != nil || len(rest) > 0 || len(again) != len(certs) {
			t.Fatalf("%d certificates are %d when they are read again, %v", len(certs), len(again), err)
		}
		for n := range certs {
			if !bytes.Equal(certs[n].Raw, again[n].Raw) {
				t.Fatalf("certificate %d is another one when it is read again", n)
			}
		}
	})
}
