package sidecarconfig

import (
	"testing"

	"github.com/sealane/sealane/internal/sidecar"
)

// A start from the cache goes by the configuration of now: what was relaxed when the cache was written is not relaxed for good.
func TestTheConfigurationCountsMoreThanTheCache(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		link Link
		want sidecar.Server
	}{
		{"names are verified again", Link{Instance: "first", Auth: "none"}, sidecar.Server{ClientsLogIn: true}},
		{"the sidecar logs in again", Link{Instance: "first", Auth: "auto"}, sidecar.Server{}},
		{"the sidecar logs in with a password of its own", Link{Instance: "first", Auth: "env:PATH", User: "app"}, sidecar.Server{User: "app"}},
	} {
		kept := sidecar.Server{AnyName: true, ClientsLogIn: true}
		if err := tc.link.local()(&kept); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if kept.AnyName || kept.ClientsLogIn != tc.want.ClientsLogIn || kept.User != tc.want.User || (kept.Password != "") != (tc.want.User != "") {
			t.Errorf("%s: %+v", tc.name, kept)
		}
	}
}
