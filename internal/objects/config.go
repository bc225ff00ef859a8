package objects

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// The services that an endpoint can speak.
const (
	GCS = "gcs"
	S3  = "s3"
)

// Bucket says where a bucket is: a folder, or a bucket at an endpoint. It is an entry of buckets in the configuration of `sealane serve`.
type Bucket struct {
	// Folder has the objects as files: an absolute path. For AnyBucket each bucket is a folder in it, which an export makes.
	Folder string `yaml:"folder"`
	// Service is the API of Endpoint, GCS or S3.
	Service string `yaml:"service"`
	// Endpoint is the URL of the service, https, or http on loopback. Default: Google's, or Amazon's of Region.
	Endpoint string `yaml:"endpoint"`
	// Region is the one of an S3 endpoint. Default us-east-1.
	Region string `yaml:"region"`
	// Bucket is its name at the endpoint. Default: the name that the URI has.
	Bucket string `yaml:"bucket"`
	// CredentialsFile is the JSON file of a service account, or for S3 a file in the form of ~/.aws/credentials. Default: what the
	// service's own tools take, from the environment, the user's files or the machine.
	CredentialsFile string `yaml:"credentials_file"`
	// Anonymous asks without credentials, as for public buckets and emulators.
	Anonymous bool `yaml:"anonymous"`
	// CAFile has the certificates of the CAs that the endpoint is trusted by, PEM. Default: the system's.
	CAFile string `yaml:"ca_file"`
	// Projects are those that may use the bucket. Default: any.
	Projects []string `yaml:"projects"`

	shared bool // it is the entry for AnyBucket
}

// CheckBuckets returns every problem of the configuration; each names the field and the value.
func CheckBuckets(buckets map[string]Bucket) []string {
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(buckets)) {
		add := func(field, format string, args ...any) {
			problems = append(problems, fmt.Sprintf("buckets.%s%s: ", name, field)+fmt.Sprintf(format, args...))
		}
		if name != AnyBucket && (len(name) < 3 || len(name) > maxBucketName || !bucketName.MatchString(name)) {
			add("", "want the name of a bucket, such as backups, or %q for all others", AnyBucket)
		}
		buckets[name].check(name, add)
	}
	return problems
}

func (b Bucket) check(name string, add func(field, format string, args ...any)) {
	if (b.Folder == "") == (b.Service == "") {
		add("", "want either folder, or service (gcs or s3)")
		return
	}
	if b.Folder != "" {
		if !filepath.IsAbs(b.Folder) {
			add(".folder", "%q: want an absolute path, such as /srv/backups", b.Folder)
		}
		for field, set := range map[string]bool{"endpoint": b.Endpoint != "", "region": b.Region != "", "bucket": b.Bucket != "",
			"credentials_file": b.CredentialsFile != "", "anonymous": b.Anonymous, "ca_file": b.CAFile != ""} {
			if set {
				add("."+field, "goes with service, not with folder")
			}
		}
		return
	}
	if b.Service != GCS && b.Service != S3 {
		add(".service", "%q: want gcs or s3", b.Service)
	}
	if b.Region != "" && b.Service != S3 {
		add(".region", "%q: goes with service s3", b.Region)
	}
	if b.Anonymous && b.CredentialsFile != "" {
		add(".anonymous", "goes without credentials_file")
	}
	if b.Bucket != "" && name == AnyBucket {
		add(".bucket", "%q: several buckets can't all have one name", b.Bucket)
	}
	for field, path := range map[string]string{"credentials_file": b.CredentialsFile, "ca_file": b.CAFile} {
		if path != "" && !filepath.IsAbs(path) {
			add("."+field, "%q: want an absolute path", path)
		}
	}
	if problem := checkEndpoint(b.Endpoint); problem != "" {
		add(".endpoint", "%s", problem)
	}
}

// checkEndpoint never repeats what may hold a password.
func checkEndpoint(endpoint string) string {
	if endpoint == "" {
		return ""
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return "want a URL, such as https://storage.example.com"
	case u.User != nil:
		return "has a user name or password in it: credentials go into credentials_file or the environment"
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return fmt.Sprintf("%q: want no path after the host", endpoint)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return fmt.Sprintf("%q: want https, because the data would cross the network in the clear", endpoint)
	}
	return ""
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func quoteAll(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
