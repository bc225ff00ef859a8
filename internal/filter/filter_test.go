package filter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/filter"
)

type item struct {
	name, verb string
	done       bool
	code       int64
	created    time.Time
}

var fields = filter.Fields[item]{
	"name": func(i item) any { return i.name }, "metadata.verb": func(i item) any { return i.verb },
	"done": func(i item) any { return i.done }, "error.code": func(i item) any { return i.code },
	"metadata.createTime": func(i item) any { return i.created },
}

var noon = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

var items = []item{
	{"a", "create", true, 0, noon},
	{"b", "update", false, 0, noon.Add(time.Hour)},
	{"c-web", "update", true, 9, noon.Add(2 * time.Hour)},
	{"d", "", true, 3, time.Time{}},
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                     "a b c-web d",
		"done=true":                            "a c-web d",
		"done = false":                         "b",
		"done!=true":                           "b",
		"NOT done=true":                        "b",
		"-done=true":                           "b",
		"name=a":                               "a",
		`name="c-web"`:                         "c-web",
		"name:WEB":                             "c-web",
		`name="*web"`:                          "c-web",
		`name="c*"`:                            "c-web",
		`name="*-*"`:                           "c-web",
		"metadata.verb=update":                 "b c-web",
		"metadata.verb=update AND done=true":   "c-web",
		"metadata.verb=update done=true":       "c-web",
		"metadata.verb=create OR error.code=3": "a d",
		"(metadata.verb=create OR name=b) AND NOT done=false": "a",
		"metadata.verb:*":                                  "a b c-web",
		"NOT metadata.verb:*":                              "d",
		"error.code>=3":                                    "c-web d",
		"error.code<9 error.code>0":                        "d",
		`metadata.createTime>"2030-01-02T12:00:00Z"`:       "b c-web",
		`metadata.createTime<="2030-01-02T13:00:00+01:00"`: "a",
		"metadata.createTime:*":                            "a b c-web",
		"update":                                           "b c-web",
		"update web":                                       "c-web",
		"done=true AND metadata.verb=update OR name=a OR name=d": "a c-web d", // OR binds more closely than AND
	} {
		f, err := filter.Parse(text, fields)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var got []string
		for _, i := range items {
			if f.Match(i) {
				got = append(got, i.name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", text, got, want)
		}
	}
}

func TestBadFilters(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"colour=red":                         `"colour" is not a field`,
		"done=maybe":                         "true or false",
		"done<true":                          "want = or !=",
		"error.code=x":                       "a whole number",
		`metadata.createTime>yesterday`:      "a time in quotes",
		"name=":                              "is not a filter",
		"(name=a":                            "is not a filter",
		"AND":                                "is not a filter",
		`name="a`:                            "is not a filter",
		"name=(a OR b)":                      "not a value",
		"lower(name)=a":                      "not a field",
		"name=a AND f(x)":                    "functions are not offered",
		"1=1":                                `"1" is not a field`,
		strings.Repeat("(", 500) + "name=a":  "is not a filter",
		"name=" + strings.Repeat("a", 1<<10): "want 1000 at most",
		"name=\xff":                          "is not a filter",
	} {
		if _, err := filter.Parse(text, fields); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.50s: got %v, want an error that says %q", text, err, says)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%.50s: the error has several lines: %q", text, err)
		}
	}
}

// No filter panics or takes long, and what Parse accepts, Match decides.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{"done=true", "a.b:c OR -d", `name="*x*" AND (error.code>1)`, "f(f(f(", "((((", "NOT NOT a", "metadata.verb:*", "-1", "a..b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := filter.Parse(text, fields)
		if err != nil {
			return
		}
		for _, i := range items {
			parsed.Match(i)
		}
	})
}
