package sidecar_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/redis/apiv1/redispb"
	"google.golang.org/protobuf/proto"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/sidecar"
)

// What the API says of an instance is the whole of where its link leads and what it trusts.
func TestASourceOfTheAPITellsWhatAnInstanceNeeds(t *testing.T) {
	t.Parallel()
	const path = "/v1/projects/web/locations/europe-west1/instances/first"
	instance := func() *redispb.Instance {
		return &redispb.Instance{
			Host: "10.0.0.5", Port: 6378, State: redispb.Instance_READY, AuthEnabled: true,
			TransitEncryptionMode: redispb.Instance_SERVER_AUTHENTICATION,
			ServerCaCerts:         []*redispb.TlsCertificate{{Cert: "CA 1\n"}, {Cert: "CA 2\n"}},
		}
	}
	whole := sidecar.Server{
		Address: "10.0.0.5:6378", Bundle: "CA 1\nCA 2\n", Identity: "spiffe://sealane/web/europe-west1/first", Password: "secret-horse",
	}
	without := func(change func(*sidecar.Server)) sidecar.Server { s := whole; change(&s); return s }
	for _, tc := range []struct {
		name         string
		withPassword bool
		change       func(*redispb.Instance)
		want         sidecar.Server
		says         string // of the error
		asked        []string
	}{
		{"with its password", true, func(*redispb.Instance) {}, whole, "", []string{path, path + "/authString"}},
		{"clients log in themselves", false, func(*redispb.Instance) {}, without(func(s *sidecar.Server) { s.Password = "" }), "", []string{path}},
		{"it has no password", true, func(i *redispb.Instance) { i.AuthEnabled = false }, without(func(s *sidecar.Server) { s.Password = "" }), "", []string{path}},
		{"it is being created", true, func(i *redispb.Instance) { i.Host, i.State = "", redispb.Instance_CREATING }, sidecar.Server{},
			"instance first is CREATING and has no address", []string{path}},
		{"it has no encryption", true, func(i *redispb.Instance) { i.TransitEncryptionMode, i.ServerCaCerts = redispb.Instance_DISABLED, nil }, sidecar.Server{},
			"instance first has no encryption", []string{path}},
		// It is shown as it was before it took both, at a port without TLS.
		{"it takes TLS beside plaintext", true, func(i *redispb.Instance) { i.TransitEncryptionMode, i.Port = redispb.Instance_DISABLED, 6379 }, whole,
			"", []string{path, path + "/transitEncryption", path + "/authString"}},
		{"its TLS was closed again", true, func(i *redispb.Instance) { i.TransitEncryptionMode, i.Port = redispb.Instance_DISABLED, 1 }, sidecar.Server{},
			"instance first has no encryption", []string{path, path + "/transitEncryption"}},
	} {
		var asked []string
		get := func(_ context.Context, path string, answer proto.Message) error {
			asked = append(asked, path)
			switch a := answer.(type) {
			case *redispb.Instance:
				i := instance()
				tc.change(i)
				proto.Merge(a, i)
			case *sealanepb.TransitEncryption:
				i := instance()
				if tc.change(i); i.Port == 6379 {
					a.TlsPort = 6378
				}
			case *redispb.InstanceAuthString:
				a.AuthString = "secret-horse"
			}
			return nil
		}
		source := sidecar.FromAPI(get, sidecar.Instance{Project: "web", Region: "europe-west1", ID: "first", WithPassword: tc.withPassword})
		got, err := source(t.Context())
		if got != tc.want || (err != nil) != (tc.says != "") || !slices.Equal(asked, tc.asked) {
			t.Errorf("%s: %v, asked for %q; want %q", tc.name, err, asked, tc.asked)
		}
		if f, ok := errors.AsType[*diagnosis.Fault](err); tc.says != "" && (!ok || !strings.Contains(f.Sentence, tc.says) || f.Fix == "") {
			t.Errorf("%s: %v; want %q and what to do", tc.name, err, tc.says)
		}
	}
	away := errors.New("the API is away")
	source := sidecar.FromAPI(func(context.Context, string, proto.Message) error { return away }, sidecar.Instance{ID: "first"})
	if _, err := source(t.Context()); !errors.Is(err, away) {
		t.Errorf("got %v; want %v", err, away)
	}
}

// Whoever prints or logs a Server does not show the password or the key.
func TestAServerIsPrintedWithoutItsSecrets(t *testing.T) {
	t.Parallel()
	s := sidecar.Server{Address: "10.0.0.5:6378", User: "app", Password: "secret-horse", Certificate: "CERT", Key: "secret-key"}
	var out bytes.Buffer
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		fmt.Fprintf(&out, format+format, s, &s)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "server", s)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("JSON", "server", s)
	for _, secret := range []string{"secret-horse", "secret-key", fmt.Sprintf("%x", "secret-horse")} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q is in %s", secret, out.String())
		}
	}
	if !strings.Contains(out.String(), "10.0.0.5:6378") {
		t.Errorf("the address is not in %s", out.String())
	}
}
