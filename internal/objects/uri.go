package objects

import (
	"path"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sealane/sealane/internal/durable"
)

// uri is SCHEME://BUCKET/OBJECT.
type uri struct{ scheme, bucket, object string }

// bucketName is what GCS and S3 allow, taken together, without names that a folder can't have.
var bucketName = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9_-]|\.[a-z0-9])*[a-z0-9]$`)

const (
	maxBucketName = 222
	maxObjectName = 1024
	maxNamePart   = 255 // of a file's or folder's name
)

// parseURI reads a URI. The rules are the same wherever the bucket is, so that the configuration can change: an object's name is a path
// that a folder can have.
func parseURI(s string) (uri, error) {
	const form = "write gs://BUCKET/OBJECT.rdb, such as gs://backups/cache.rdb"
	wrong := func(text, hint string) (uri, error) { return uri{}, newError(InvalidURI, shown(s), text, "%s", hint) }
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || scheme != "gs" && scheme != "s3" {
		return wrong("it does not begin with gs://", form)
	}
	bucket, object, _ := strings.Cut(rest, "/")
	switch {
	case len(bucket) < 3 || len(bucket) > maxBucketName || !bucketName.MatchString(bucket):
		return wrong("the bucket's name \""+shown(bucket)+"\" is not one",
			"a bucket's name has 3 to 222 of a-z, 0-9, -, _ and single dots, and begins and ends with a letter or digit")
	case object == "":
		return wrong("it names a bucket and no object", form)
	case len(object) > maxObjectName:
		return wrong("the object's name has more than 1024 bytes", form)
	case !utf8.ValidString(object) || strings.ContainsFunc(object, func(r rune) bool { return unicode.IsControl(r) || r == '\\' }):
		return wrong("the object's name has control characters, a backslash, or is not UTF-8", form)
	case object != path.Clean("/" + object)[1:]:
		return wrong("the object's name has empty parts, . or .., or ends with a slash", form)
	}
	for part := range strings.SplitSeq(object, "/") {
		if len(part) > maxNamePart {
			return wrong("a part of the object's name has more than 255 bytes", form)
		}
		if durable.IsPending(part) {
			return wrong("the name is one of those for files that are being written", form)
		}
	}
	return uri{scheme, bucket, object}, nil
}

// shown is a caller's text as an error may show it.
func shown(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}
