package rest

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// parameters are what a request's query says: Google's system parameters
// (cloud.google.com/apis/docs/system-parameters), and fields of the message.
type parameters struct {
	enumNumbers bool      // enums as numbers
	compact     bool      // JSON without spaces
	fields      *selector // what is to be in the answer; nil: all
	message     url.Values
}

// inert parameters may be on any request and change no answer. A leading $ is the other spelling of each.
var inert = []string{"key", "quotaUser", "userIp", "uploadType", "upload_protocol", "userProject", ".xgafv", "apiVersion", "trace"}

// parseQuery reads the query. A semicolon is part of a value: people type $alt=json;enum-encoding=int as it is
// documented, and net/url would drop it.
func parseQuery(raw string) url.Values {
	query, _ := url.ParseQuery(strings.ReplaceAll(raw, ";", "%3B")) // as URL.Query does: the rest of a bad one
	return query
}

// parseParameters reads a query, and the header that may stand for one of its parameters. answer is the message that the method
// answers with.
func (c *Config) parseParameters(query url.Values, header http.Header, answer protoreflect.MessageDescriptor) (parameters, error) {
	p := parameters{message: make(url.Values)}
	selectors := header.Values("X-Goog-FieldMask")
	for _, name := range slices.Sorted(maps.Keys(query)) {
		values := query[name]
		value := values[len(values)-1]
		var err error
		switch plain := strings.TrimPrefix(name, "$"); {
		case plain == "alt":
			err = p.alt(name, values)
		case plain == "fields":
			selectors = append(selectors, values...)
		case plain == "prettyPrint" || plain == "pp":
			pretty, bad := strconv.ParseBool(value)
			if p.compact = !pretty; bad != nil {
				err = badParameter(name, fmt.Sprintf("%q: want true or false", value))
			}
		case plain == "callback" && value != "":
			err = badParameter(name, "JSONP is not offered: want alt=json without a callback")
		case plain == "callback" || slices.Contains(inert, plain):
		case plain != name:
			err = badParameter(name, "unknown system parameter: leave it out")
		case slices.Contains(c.Ignored, name):
		default:
			p.message[name] = values
		}
		if err != nil {
			return p, err
		}
	}
	if len(selectors) == 0 || strings.Join(selectors, "") == "" {
		return p, nil
	}
	var err error
	p.fields, err = parseSelector(strings.Join(selectors, ","), answer, c.JSONOnly)
	return p, err
}

// alt reads the format of the answer: official clients ask for "json;enum-encoding=int".
func (p *parameters) alt(name string, values []string) error {
	for _, v := range values {
		format, option, _ := strings.Cut(v, ";")
		switch option = strings.TrimSpace(option); {
		case format != "json" && format != "":
			return badParameter(name, fmt.Sprintf("%q: want json, which is the only format of answers", v))
		case option == "enum-encoding=int":
			p.enumNumbers = true
		case option != "":
			return badParameter(name, fmt.Sprintf("%q: want json or json;enum-encoding=int", v))
		}
	}
	return nil
}

func badParameter(name, what string) error {
	return violation(name, fmt.Sprintf("Invalid query parameter %q: %s", name, what))
}

// refuseTokenInURL refuses a token in the query. The managed service takes it. But URLs end in the logs of proxies and of servers, in
// histories and in error messages, and whoever finds a token there may do what it allows; so no client is to get used to it.
func (c *Config) refuseTokenInURL(query url.Values, header http.Header) error {
	for _, name := range []string{"access_token", "oauth_token", "bearer_token"} {
		if !query.Has(name) && !query.Has("$"+name) {
			continue
		}
		message := name + ": a token in a URL ends in logs, so it is not taken: send the header \"authorization: Bearer TOKEN\""
		if header.Get("Authorization") == "" {
			return c.BadToken(message)
		}
		return violation(name, message)
	}
	return nil
}
