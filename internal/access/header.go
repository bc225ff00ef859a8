package access

import "strings"

// maxToken bounds what is hashed of what a caller sends.
const maxToken = 4 << 10

// Bearer is the token in an authorization header, by RFC 6750: the scheme in any case, spaces, the token. ok is false where there is
// none.
func Bearer(header string) (token string, ok bool) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(header), " ")
	token = strings.TrimSpace(rest)
	if !strings.EqualFold(scheme, "bearer") || token == "" || len(token) > maxToken || strings.ContainsAny(token, " \t\r\n") {
		return "", false
	}
	return token, true
}
