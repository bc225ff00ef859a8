package routing

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/sealane/sealane/internal/resp"
)

// Whatever a client says, what goes on to the server of an AUTH or HELLO is well formed, asks for no login, and is nothing at all unless
// the client has shown a password.
func FuzzNoLoginIsPassedOn(f *testing.F) {
	for _, words := range []string{"AUTH one", "AUTH default one", "hello 3 auth default one setname n", "HELLO 3 SETNAME AUTH AUTH default one", "HELLO x", "hello 3 auth a", "GET k"} {
		f.Add([]byte(words), false)
		f.Add([]byte(words), true)
	}
	passwords := Passwords{sha256.Sum256([]byte("one")), sha256.Sum256([]byte("two"))}
	f.Fuzz(func(t *testing.T, request []byte, admitted bool) {
		args := bytes.Split(request, []byte(" "))
		c := find(bytes.ToLower(args[0]), nil)
		l := passwords.Judge(c, args, admitted)
		switch {
		case l.Reply != nil:
			if _, n, err := resp.ParseReply(l.Reply, resp.Limits{}); err != nil || n != len(l.Reply) {
				t.Fatalf("%q is answered with %q", request, l.Reply)
			}
		case l.Request != nil:
			out := resp.Arguments(nil, l.Request)
			if CredentialsIn(out) != nil || !admitted && !l.Accepted {
				t.Fatalf("%q goes on as %q", request, l.Request)
			}
			for i, w := range out {
				if is(w, "auth") && (i == 0 || !is(out[i-1], "setname")) {
					t.Fatalf("%q goes on as %q", request, l.Request)
				}
			}
		case !admitted || IsLogin(c):
			t.Fatalf("%q goes on as it is", request)
		}
	})
}

// A password is good for the user default alone, and by any of the hashes.
func TestPasswordsAreThoseOfTheDefaultUser(t *testing.T) {
	t.Parallel()
	passwords := Passwords{sha256.Sum256([]byte("one")), sha256.Sum256([]byte(""))}
	for request, want := range map[string]bool{
		"auth one": true, "auth default one": true, "auth Default one": false, "auth bob one": false, "auth two": false, "auth one ": false,
		"hello 3 auth default one": true, "hello 3 auth bob one": false, "hello 3 auth default one auth default two": false, "auth ": true,
	} {
		args := bytes.Split([]byte(request), []byte(" "))
		if got := passwords.Judge(find(args[0], nil), args, false).Accepted; got != want {
			t.Errorf("%q: accepted %t; want %t", request, got, want)
		}
	}
}
