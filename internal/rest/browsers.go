package rest

import (
	"net/http"
	"regexp"
	"strings"
)

// loopbackOrigin is of pages that were loaded from this machine.
var loopbackOrigin = regexp.MustCompile(`^https?://(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?$`)

// allowOrigin lets pages from this machine call the API, and says whether the request was only a browser's question for that. A page
// needs the token like any caller: no cookie stands for it, and none is allowed. Pages from elsewhere get no permission, because a
// browser on this machine reaches ports that they can't.
func (c *Config) allowOrigin(w http.ResponseWriter, r *http.Request) (preflight bool) {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	w.Header().Add("Vary", "Origin")
	preflight = r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
	if loopbackOrigin.MatchString(origin) {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		if preflight {
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST, PATCH, DELETE")
			w.Header().Set("Access-Control-Allow-Headers", strings.Join(append([]string{"authorization", "content-type", "x-goog-api-client", "x-goog-fieldmask",
				"x-goog-user-project", "x-http-method-override", "x-requested-with"}, c.Headers...), ", "))
			w.Header().Set("Access-Control-Max-Age", "600")
		}
	}
	if preflight {
		w.WriteHeader(http.StatusNoContent)
	}
	return preflight
}
