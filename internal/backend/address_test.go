package backend_test

import (
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/certtest"
)

func TestAddressesAsPeopleWriteThem(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]backend.Server{
		"127.0.0.1:6379":                  {Address: "127.0.0.1:6379"},
		"Redis.Internal":                  {Address: "redis.internal:6379"},
		"[::1]:7000":                      {Address: "[::1]:7000"},
		"::1":                             {Address: "[::1]:6379"},
		"redis://127.0.0.1":               {Address: "127.0.0.1:6379"},
		"redis://app@10.0.0.5:6380/0":     {Address: "10.0.0.5:6380", User: "app"},
		"rediss://cache.example.com:6380": {Address: "cache.example.com:6380", TLS: true},
		"valkeys://h/":                    {Address: "h:6379", TLS: true},
		"unix:/run/redis/redis.sock":      {Address: "unix:/run/redis/redis.sock"},
		"unix:///run/redis.sock":          {Address: "unix:/run/redis.sock"},
		"redis+unix:///run/redis.sock":    {Address: "unix:/run/redis.sock"},
		"/run//redis.sock":                {Address: "unix:/run/redis.sock"},
	} {
		if got, err := backend.Parse(address); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", address, got, err, want)
		}
	}
	for address, want := range map[string]string{
		"":                                 "empty",
		"redis://:secret@h:1":              "password",
		"redis://app:sec@ret@h":            "password",
		"rediss://u:p%40@h/3":              "password",
		"redis://h?password=secret":        "password",
		"app:secret@h:6379":                "password",
		"h:0":                              "port",
		"h:70000":                          "port",
		"h:redis":                          "port",
		"redis://h/3":                      "database",
		"redis://h?timeout=3":              "options",
		"http://h":                         "scheme",
		"unix:run/redis.sock":              "absolute",
		"unix:" + strings.Repeat("/x", 60): "107",
		"a b":                              "neither a name nor an IP address", "@h": "@",
	} {
		got, err := backend.Parse(address)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want an error with %q", address, got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the password is in %q", address, err)
		}
	}
}

func TestServersThatAreRefusedBeforeTheyAreAsked(t *testing.T) {
	t.Parallel()
	ca := string(certtest.NewAuthority(t, "ca").PEM())
	for name, tc := range map[string]struct {
		server backend.Server
		fields string
	}{
		"plaintext to another machine":         {backend.Server{Address: "10.0.0.5:6379"}, "plaintext"},
		"plaintext to a name":                  {backend.Server{Address: "redis.internal:6379"}, "plaintext"},
		"said to be safe":                      {backend.Server{Address: "10.0.0.5:6379", Plaintext: true}, ""},
		"loopback":                             {backend.Server{Address: "[::1]:6379"}, ""},
		"localhost":                            {backend.Server{Address: "localhost:6379"}, ""},
		"a name that begins like it":           {backend.Server{Address: "localhost.example.com:6379"}, "plaintext"},
		"TLS":                                  {backend.Server{Address: "10.0.0.5:6379", TLS: true, CA: ca}, ""},
		"TLS on a socket":                      {backend.Server{Address: "unix:/x", TLS: true}, "tls"},
		"a CA without TLS":                     {backend.Server{Address: "unix:/x", CA: ca}, "ca"},
		"a CA that is none":                    {backend.Server{Address: "h:1", TLS: true, CA: "x"}, "ca"},
		"half a CA":                            {backend.Server{Address: "h:1", TLS: true, CA: ca[:len(ca)/2]}, "ca"},
		"a user without a password":            {backend.Server{Address: "unix:/x", User: "app"}, "password"},
		"a user with a space":                  {backend.Server{Address: "unix:/x", User: "a b", Password: "p"}, "user"},
		"an address that isn't written so":     {backend.Server{Address: "H:1", TLS: true}, "address"},
		"a password in the address":            {backend.Server{Address: "redis://:secret@h", TLS: true}, "address"},
		"a password in what is no URL":         {backend.Server{Address: "app:secret@h:1", TLS: true}, "address"},
		"a server name without TLS":            {backend.Server{Address: "unix:/x", ServerName: "h"}, "server_name"},
		"everything that can be wrong at once": {backend.Server{Address: "", TLS: true, CA: "x", User: "\n", ServerName: "a b"}, "address ca server_name user password"},
	} {
		var fields []string
		for _, p := range tc.server.Check() {
			fields = append(fields, p.Field)
			if strings.Contains(p.Error(), "secret") {
				t.Errorf("%s: the password is in %q", name, p.Error())
			}
		}
		if got := strings.Join(fields, " "); got != tc.fields {
			t.Errorf("%s: %q; want %q (%v)", name, got, tc.fields, tc.server.Check())
		}
	}
}

// Whatever is parsed is written in one way, which Check has nothing against.
func FuzzParse(f *testing.F) {
	for _, a := range []string{"h:1", "redis://u@h/0", "rediss://[::1]:3", "unix:/x", "/a/../b", "redis://a:b@c", "redis://%zz", "::%eth0", "unix:///a b"} {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, address string) {
		s, err := backend.Parse(address)
		if err != nil {
			return
		}
		again, err := backend.Parse(s.Address)
		if err != nil || again.Address != s.Address {
			t.Errorf("%q is %q, and that %q, %v", address, s.Address, again.Address, err)
		}
		s.Plaintext, s.User = true, ""
		if problems := s.Check(); problems != nil {
			t.Errorf("%q: %v", address, problems)
		}
	})
}
