package stunnel_test

import (
	"bytes"
	"regexp"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/sealane/sealane/internal/sidecarconfig"
	"github.com/sealane/sealane/internal/stunnel"
)

// sidecarName is what the sidecar takes as a link's name.
var sidecarName = regexp.MustCompile(`^[A-Za-z0-9\[][A-Za-z0-9._:\[\]-]{0,250}$`)

// Whatever is imported, what comes out is a configuration, and one that verifies and stays on this machine.
func FuzzToSidecar(f *testing.F) {
	f.Add([]byte("[a]\nclient = yes\naccept = 6379\nconnect = x:1\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := stunnel.Parse(raw)
		if err != nil {
			return
		}
		text, err := stunnel.ToSidecar(file, "x.conf")
		if err != nil {
			return
		}
		var c sidecarconfig.Config
		d := yaml.NewDecoder(bytes.NewReader(text))
		d.KnownFields(true)
		if err := d.Decode(&c); err != nil {
			t.Fatalf("%q becomes\n%s\n%v", raw, text, err)
		}
		names := make(map[string]bool)
		for _, l := range c.Links {
			if l.VerifyName != nil || l.AllowNonLoopback || l.ServerIdentity != "" || names[l.Name] || !sidecarName.MatchString(l.Name) {
				t.Errorf("%q becomes\n%s", raw, text)
			}
			names[l.Name] = true
		}
		if len(c.Links) == 0 {
			t.Errorf("%q becomes no link", raw)
		}
	})
}
