package objects_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/objects"
)

func TestBucketsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	backups, shared := t.TempDir(), t.TempDir()
	s := storeOf(t, objects.Config{Buckets: map[string]objects.Bucket{
		"backups": {Folder: backups},
		"team-a":  {Folder: filepath.Join(shared, "a"), Projects: []string{"a"}},
		"away":    {Folder: filepath.Join(shared, "not-mounted")},
		"*":       {Folder: shared},
	}})
	for uri, path := range map[string]string{"gs://backups/x.rdb": filepath.Join(backups, "x.rdb"), "gs://others/x.rdb": filepath.Join(shared, "others", "x.rdb")} {
		if err := put(s, uri, uri); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); string(got) != uri || err != nil {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	wantKind(t, put(s, "gs://team-a/x.rdb", "x"), objects.NotAllowed, "the project local may not use the bucket team-a")
	// A folder that is not mounted must not be made: what is written there is hidden when it is.
	wantKind(t, put(s, "gs://away/x.rdb", "x"), objects.NotFound, "the bucket's folder is not there")
	_, err := get(s, "gs://away/x.rdb")
	wantKind(t, err, objects.NotFound, "the bucket's folder is not there")

	only := storeOf(t, objects.Config{Buckets: map[string]objects.Bucket{"backups": {Folder: backups}}})
	wantKind(t, put(only, "gs://others/x.rdb", "x"), objects.BucketNotConfigured, "the server's configuration has no bucket others")
	wantKind(t, put(only, "s3://backups/x.rdb", "x"), objects.InvalidURI, "is not at an S3 endpoint")
	none := storeOf(t, objects.Config{Buckets: map[string]objects.Bucket{}})
	wantKind(t, none.CheckExport("local", "gs://others/x.rdb"), objects.BucketNotConfigured, "no bucket others")
}

func TestAllProblemsOfBucketsAreTold(t *testing.T) {
	t.Parallel()
	problems := strings.Join(objects.CheckBuckets(map[string]objects.Bucket{
		"Up":     {Folder: "/srv"},
		"both":   {Folder: "/srv", Service: "gcs"},
		"none":   {},
		"here":   {Folder: "backups", Region: "x"},
		"other":  {Service: "azure", Endpoint: "http://10.0.0.1:9000", Region: "x", CredentialsFile: "key.json", Anonymous: true},
		"secret": {Service: "s3", Endpoint: "https://key:hunter2@example.com"},
		"path":   {Service: "s3", Endpoint: "https://example.com/x"},
		"word":   {Service: "gcs", Endpoint: "storage"},
		"*":      {Service: "gcs", Bucket: "x"},
		"right":  {Service: "s3", Endpoint: "http://127.0.0.1:9000", Region: "eu-central-1", Bucket: "there", CredentialsFile: "/etc/key", CAFile: "/etc/ca.pem"},
		"right2": {Service: "gcs", Anonymous: true},
	}), "; ")
	for _, want := range []string{
		"buckets.Up: want the name of a bucket", "buckets.both: want either folder, or service", "buckets.none: want either folder, or service",
		`buckets.here.folder: "backups": want an absolute path`, "buckets.here.region: goes with service", `buckets.other.service: "azure": want gcs or s3`,
		`buckets.other.endpoint: "http://10.0.0.1:9000": want https`, `buckets.other.region: "x": goes with service s3`, "buckets.other.anonymous: goes without",
		`buckets.other.credentials_file: "key.json": want an absolute path`, "buckets.secret.endpoint: has a user name or password", "buckets.path.endpoint:",
		"buckets.word.endpoint: want a URL", "buckets.*.bucket:",
	} {
		if !strings.Contains(problems, want) {
			t.Errorf("no %q in %s", want, problems)
		}
	}
	if strings.Contains(problems, "hunter2") || strings.Contains(problems, "right") {
		t.Error(problems)
	}
}

// An export could replace the server's own files.
func TestABucketIsNotInTheStateFolder(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(state, link); err != nil {
		t.Fatal(err)
	}
	for folder, ok := range map[string]bool{
		state: false, filepath.Join(state, "nodes"): false, filepath.Dir(state): false, filepath.Join(link, "nodes", "x"): false, "/": false,
		filepath.Join(state, "buckets", "x"): true, state + "-other": true,
	} {
		_, err := objects.New(objects.Config{StateDir: state, DefaultFolder: filepath.Join(state, "buckets"), Buckets: map[string]objects.Bucket{"bucket": {Folder: folder}}})
		if (err == nil) != ok || !ok && !strings.Contains(err.Error(), "are one in the other") {
			t.Errorf("%s: %v", folder, err)
		}
	}
}
