package pki_test

import (
	"encoding/base64"
	"testing"

	"github.com/sealane/sealane/internal/pki"
)

// What older versions of Sealane have sealed is on disk, and must open for ever.
func TestSecretsSealedLongAgoStillOpen(t *testing.T) {
	t.Parallel()
	key, err := pki.ParseMasterKey("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
	if err != nil {
		t.Fatal(err)
	}
	const secret, purpose = "secret", "auth string of 0a1b2c3d4e5f"
	sealed, err := base64.StdEncoding.DecodeString("Ac2ulsfQoYyPkiBd171e++hFfrVCyLqJDT5zyzGKmAopFPk=")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := key.Open(sealed, purpose); err != nil || string(got) != secret {
		t.Errorf("got %q, %v; want %q", got, err, secret)
	}
	if overhead := len(key.Seal([]byte(secret), purpose)) - len(secret); overhead != 1+12+16 {
		t.Errorf("sealing adds %d bytes, want the version, a nonce of 12 and a tag of 16", overhead)
	}
}
