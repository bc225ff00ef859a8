package pki_test

import (
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/pki"
)

func TestIdentityIsReadAsItWasMade(t *testing.T) {
	t.Parallel()
	for _, parts := range [][3]string{{"local", "local", "first"}, {"example.com:web", "europe-west1", "cache"}, {"123456", "us-central1", "a"}} {
		uri := pki.Identity(parts[0], parts[1], parts[2])
		project, location, id, ok := pki.ParseIdentity(uri)
		if got := [3]string{project, location, id}; !ok || got != parts {
			t.Errorf("%s: got %q, %t; want %q", uri, got, ok, parts)
		}
	}
	if got, want := pki.Identity("local", "local", "first"), "spiffe://sealane/local/local/first"; got != want {
		t.Errorf("got %q, want %q: secrets of existing instances are sealed under it", got, want)
	}
}

func FuzzParseIdentity(f *testing.F) {
	for _, uri := range []string{
		"spiffe://sealane/local/local/first", "spiffe://sealane/local/local/$(reboot)", "spiffe://sealane/local/local/x\n",
		"spiffe://sealane/local/local/--help", "spiffe://elsewhere/local/local/first",
	} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		project, location, id, ok := pki.ParseIdentity(uri)
		if !ok {
			return
		}
		if again := pki.Identity(project, location, id); again != uri {
			t.Errorf("%q is read as %q", uri, again)
		}
		for _, part := range []string{project, location, id} { // commands to paste are made of them
			if strings.HasPrefix(part, "-") || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789-.:") != "" {
				t.Errorf("%q has the part %q, which a shell could take for more than a word", uri, part)
			}
		}
	})
}
