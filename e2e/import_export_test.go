package e2e_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/objecttest"
)

// task begins an import or export, and returns its operation; of one that is refused at once, the error's text.
func (s *server) task(i instance, verb, uri string) (operation, refused string) {
	s.t.Helper()
	body := `{"inputConfig": {"gcsSource": {"uri": %q}}}`
	if verb == "export" {
		body = `{"outputConfig": {"gcsDestination": {"uri": %q}}}`
	}
	r := s.rest("POST", "/v1/"+i.Name+":"+verb, fmt.Sprintf(body, uri))
	var answer struct {
		Name  string
		Error struct{ Message string }
	}
	if err := json.Unmarshal(r.body, &answer); err != nil || r.code == 200 && answer.Name == "" {
		s.t.Fatalf("%s %s: %d, %s", verb, uri, r.code, r.body)
	}
	if r.code == 200 {
		return answer.Name, ""
	}
	return "", fmt.Sprintf("%d: %s", r.code, answer.Error.Message)
}

// does runs an import or export that must succeed.
func (s *server) does(i instance, verb, uri string) {
	s.t.Helper()
	op, refused := s.task(i, verb, uri)
	if refused != "" {
		s.t.Fatalf("%s %s: %s", verb, uri, refused)
	}
	s.wantDone(op)
}

// doesNot runs one that must fail, at once or in the end, with an error that says so. The instance is READY again.
func (s *server) doesNot(i instance, verb, uri, says string) {
	s.t.Helper()
	op, failure := s.task(i, verb, uri)
	if failure == "" {
		eventually(s.t, 60*time.Second, op+" is done", func() (done bool) {
			done, failure = s.operation(op)
			return done
		})
	}
	if !strings.Contains(failure, says) {
		s.t.Errorf("%s %s: %q; want %q in it", verb, uri, failure, says)
	}
	for _, private := range []string{s.state, s.base, objecttest.SecretKey} {
		if strings.Contains(failure, private) {
			s.t.Errorf("%s %s: %q shows %s", verb, uri, failure, private)
		}
	}
	if got := s.describe(filepath.Base(i.Name)); got.State != "READY" {
		s.t.Errorf("%s %s: the instance is %s afterwards", verb, uri, got.State)
	}
}

// gcloud's export and import work on a machine without any configuration. Clients stay connected, and an import has the file's data and no
// others.
func TestGcloudExportsAndImports(t *testing.T) {
	t.Parallel()
	need(t, "gcloud")
	s := startServer(t, serverOptions{})
	i := s.create("first", "--region", "us-central1", "--project", "my-project")
	ca := filepath.Join(s.base, "ca.pem")
	s.write(ca, i.ServerCACerts[0].Cert)
	gcloud := func(args ...string) string {
		return s.mustRun(s.gcloud(append(args, "first", "--region=us-central1", "--quiet")...))
	}
	s.redis(i, ca, "SET", "kept", "value")
	client := verifiedDial(t, i, ca)
	connected, err := client()
	if err != nil {
		t.Fatal(err)
	}
	gcloud("redis", "instances", "export", "gs://backups/daily/first.rdb")
	file := filepath.Join(s.state, "buckets", "backups", "daily", "first.rdb")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the exported file: %v, %v", info, err)
	}
	s.mustRun(s.program("redis-check-rdb", file))
	s.redis(i, ca, "DEL", "kept")
	s.redis(i, ca, "SET", "later", "value")
	gcloud("redis", "instances", "import", "gs://backups/daily/first.rdb")
	if got := s.redis(i, ca, "KEYS", "*"); got != "kept" {
		t.Errorf("after the import there are %q; want what was exported and no more", got)
	}
	wantReply(t, connected, "GET kept", "$5\r\nvalue\r\n")
}

// A file that can't be imported costs nothing, whatever is wrong with it.
func TestAnImportOfAWrongFileChangesNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t, serverOptions{})
	i := s.create("first")
	ca := s.bundle("first")
	s.redis(i, ca, "SET", "kept", strings.Repeat("value", 1000))
	s.does(i, "export", "gs://backups/right.rdb")
	folder := filepath.Join(s.state, "buckets", "backups")
	right, err := os.ReadFile(filepath.Join(folder, "right.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(right)
	flipped[len(right)-20] ^= 1
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(right); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	newer := bytes.Clone(right)
	copy(newer, "REDIS0099")
	client := startStream(t, i, ca, "counter")
	for name, c := range map[string]struct{ content, says string }{
		"empty.rdb":   {"", "the file is empty"},
		"cut.rdb":     {string(right[:len(right)-5]), "has no end marker"},
		"head.rdb":    {string(right[:20]), "has no end marker"},
		"flipped.rdb": {string(flipped), "is damaged"},
		"zipped.rdb":  {zipped.String(), "gunzip"},
		"newer.rdb":   {string(newer), "RDB version 99, which Redis"},
		"aof.rdb":     {"*1\r\n$4\r\nPING\r\n", "append-only file"},
		"page.rdb":    {"<html>404</html>", "HTML or XML"},
		"text.txt":    {"hello\n", "but text"},
		// The checksum is right, and the engine is the first to see that there is no such type.
		"type.rdb": {withoutChecksum(right[:9], "\xfe\x00\x7e\x01k\x01v"), ""},
	} {
		s.write(filepath.Join(folder, name), c.content)
		s.doesNot(i, "import", "gs://backups/"+name, c.says)
	}
	for uri, says := range map[string]string{
		"gs://backups/missing.rdb": "there is no such object", "gs://nowhere/x.rdb": "there is no such object", "gs://backups/../../admin.token": "empty parts, . or ..",
		"": "gs://", "/etc/passwd": "does not begin with gs://", "gs://backups": "names a bucket and no object", "s3://backups/right.rdb": "is not at an S3 endpoint",
	} {
		s.doesNot(i, "import", uri, says)
	}
	s.doesNot(i, "export", "gs://backups/important.txt", "ends in .rdb")
	if got := s.redis(i, ca, "STRLEN", "kept"); got != "5000" {
		t.Errorf("STRLEN: %s", got)
	}
	client.wantUnnoticed(t)
}

// withoutChecksum is an RDB file with a body, and zeros in the checksum's place.
func withoutChecksum(magic []byte, body string) string {
	return string(magic) + body + "\xff" + strings.Repeat("\x00", 8)
}

// An export to a full disk leaves the old file and nothing else, and the server and its clients go on.
func TestAnExportToAFullDisk(t *testing.T) {
	t.Parallel()
	small := tmpfs(t, "1m")
	s := startServer(t, serverOptions{config: localConfig() + "buckets: {small: {folder: " + small + "}}\n"})
	i := s.create("first")
	ca := s.bundle("first")
	s.does(i, "export", "gs://small/first.rdb")
	old, err := os.ReadFile(filepath.Join(small, "first.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	s.redis(i, ca, "EVAL", "for n = 1, 20000 do redis.call('SET', 'key' .. n, redis.sha1hex(n) .. redis.sha1hex(n + 1) .. redis.sha1hex(n + 2)) end", "0")
	client := startStream(t, i, ca, "counter")
	for range 2 {
		s.doesNot(i, "export", "gs://small/first.rdb", "the disk of the bucket's folder is full")
	}
	if got, err := os.ReadFile(filepath.Join(small, "first.rdb")); err != nil || !bytes.Equal(got, old) {
		t.Errorf("%d bytes, %v; want the old file", len(got), err)
	}
	if entries, err := os.ReadDir(small); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
	s.doesNot(i, "export", "gs://elsewhere/first.rdb", "the server's configuration has no bucket elsewhere")
	client.wantUnnoticed(t)
}

// The same at endpoints: a GCS emulator and an S3 server.
func TestExportAndImportAtEndpoints(t *testing.T) {
	t.Parallel()
	gcs, s3 := objecttest.GCS(t), objecttest.S3(t)
	dead := deadEndpoint(t)
	s := startServer(t, serverOptions{config: localConfig() + fmt.Sprintf(`buckets:
  at-gcs: {service: gcs, endpoint: "http://%s", bucket: %[2]s, anonymous: true}
  at-s3: {service: s3, endpoint: "http://%[3]s", bucket: %[2]s, credentials_file: %[4]s}
  wrong: {service: s3, endpoint: "http://%[3]s", bucket: %[2]s, credentials_file: %[5]s}
  down: {service: s3, endpoint: "http://%[6]s", credentials_file: %[4]s}
  others: {service: gcs, endpoint: "http://%[1]s", bucket: %[2]s, anonymous: true, projects: [other]}
`, gcs, objecttest.Bucket, s3, objecttest.S3Credentials(t, objecttest.AccessKey, objecttest.SecretKey), objecttest.S3Credentials(t, objecttest.AccessKey, "wrong"), dead)})
	i := s.create("first")
	ca := s.bundle("first")
	for n, uri := range []string{"gs://at-gcs/a/first.rdb", "gs://at-s3/a/first.rdb", "s3://at-s3/b/first.rdb"} {
		s.redis(i, ca, "SET", "key", fmt.Sprint(n))
		s.does(i, "export", uri)
		s.redis(i, ca, "SET", "key", "later")
		s.does(i, "import", uri)
		if got := s.redis(i, ca, "GET", "key"); got != fmt.Sprint(n) {
			t.Errorf("%s: the key is %s; want %d", uri, got, n)
		}
	}
	for _, verb := range []string{"import", "export"} {
		s.doesNot(i, verb, "gs://wrong/first.rdb", "does not take the server's credentials")
		s.doesNot(i, verb, "gs://down/first.rdb", "can't be reached: connection refused")
		s.doesNot(i, verb, "gs://others/first.rdb", "the project local may not use the bucket others")
	}
	s.doesNot(i, "import", "gs://at-gcs/missing.rdb", "there is no such object")
	s.doesNot(i, "import", "gs://at-s3/missing.rdb", "there is no such object")
	if strings.Contains(s.stderr.String(), objecttest.SecretKey) {
		t.Error("a secret in the server's log")
	}
}

// deadEndpoint is an address where nobody listens.
func deadEndpoint(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// kill -9 of the server in the middle of an export or import: clients notice nothing, and the next server ends the operation with the
// instance READY and its data whole.
func TestKilledServerInTheMiddleOfATask(t *testing.T) {
	t.Parallel()
	silent := silentEndpoint(t)
	for _, verb := range []string{"export", "import"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, serverOptions{config: localConfig() + fmt.Sprintf("buckets: {silent: {service: gcs, endpoint: \"http://%s\", anonymous: true}}\n", silent)})
			i := s.create("first")
			ca := s.bundle("first")
			s.redis(i, ca, "SET", "kept", "value")
			client := startStream(t, i, ca, "counter")
			op, refused := s.task(i, verb, "gs://silent/first.rdb")
			if done, failure := s.operation(op); refused != "" || done {
				t.Fatalf("%s, %s; want an operation that takes long", refused, failure)
			}
			s.kill9(s.pid)
			s.waitEnd()
			client.wantProgress(t)
			s.start()
			// What nobody answers is given up by whoever waits for it.
			if r := s.rest("POST", "/v1/"+op+":cancel", "{}"); r.code != 200 {
				t.Errorf("cancel: %d, %s", r.code, r.body)
			}
			eventually(t, 60*time.Second, op+" is done", func() bool { done, _ := s.operation(op); return done })
			if got := s.describe("first"); got.State != "READY" {
				t.Errorf("the instance is %s", got.State)
			}
			if got := s.redis(i, ca, "GET", "kept"); got != "value" {
				t.Errorf("the key is %q", got)
			}
			client.wantUnnoticed(t)
		})
	}
}

// stallingEndpoint is an endpoint whose uploads wait until they are released.
type stallingEndpoint struct {
	address  string
	begun    chan struct{} // one for each upload
	released chan struct{}
}

func stalling(t *testing.T, to string) *stallingEndpoint {
	t.Helper()
	e := &stallingEndpoint{begun: make(chan struct{}, 100), released: make(chan struct{})}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: to})
		r.Out.Host = to
	}, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/upload/") {
			e.begun <- struct{}{}
			select {
			case <-e.released:
			case <-ended: // a server does not notice that a client is gone whose request it has not read
				return
			}
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		close(ended)
		server.Close()
	})
	e.address = strings.TrimPrefix(server.URL, "http://")
	return e
}

// What is killed or given up in the middle of an export's upload costs the export at most: the object is the old one or a whole new one, the
// operation ends, and the instance is READY.
func TestWhatIsKilledWhileAnExportIsUploaded(t *testing.T) {
	t.Parallel()
	gcs := objecttest.GCS(t)
	for name, c := range map[string]struct {
		happens func(s *server, op string)
		failure string // "": the export succeeds
	}{
		"server":  {func(s *server, _ string) { s.kill9(s.pid); s.waitEnd(); s.start() }, ""},
		"gateway": {func(s *server, _ string) { s.kill9(s.node("gateway")) }, ""},
		"engine":  {func(s *server, _ string) { s.kill9(s.nodes("engine")...) }, "export first: "},
		"cancel":  {func(s *server, op string) { s.rest("POST", "/v1/"+op+":cancel", "{}") }, "cancelled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := stalling(t, gcs)
			s := startServer(t, serverOptions{config: localConfig() + fmt.Sprintf(`buckets:
  slow: {service: gcs, endpoint: "http://%s", bucket: %s, anonymous: true}
  direct: {service: gcs, endpoint: "http://%s", bucket: %[2]s, anonymous: true}
`, e.address, objecttest.Bucket, gcs)})
			i := s.create("first")
			ca := s.bundle("first")
			object := name + ".rdb"
			s.redis(i, ca, "SET", "state", "old")
			s.does(i, "export", "gs://direct/"+object)
			s.redis(i, ca, "SET", "state", "new")
			// The engine must still be sending when the upload begins, of which 16 MiB are read ahead.
			for n := range 8 {
				cli := s.program("redis-cli", "--tls", "--cacert", ca, "-h", i.Host, "-p", i.port(), "-x", "SET", fmt.Sprint("large", n))
				cli.Stdin = io.LimitReader(rand.NewChaCha8([32]byte{byte(n)}), 5<<20)
				s.mustRun(cli)
			}
			op, refused := s.task(i, "export", "gs://slow/"+object)
			if refused != "" {
				t.Fatal(refused)
			}
			<-e.begun
			c.happens(s, op)
			if c.failure == "" {
				close(e.released)
			}
			var failure string
			eventually(t, 60*time.Second, op+" is done", func() (done bool) {
				done, failure = s.operation(op)
				return done
			})
			if (failure == "") != (c.failure == "") || !strings.Contains(failure, c.failure) {
				t.Errorf("the operation ended with %q; want %q", failure, c.failure)
			}
			eventually(t, 20*time.Second, "the instance is READY", func() bool { return s.describe("first").State == "READY" })
			s.does(i, "import", "gs://direct/"+object)
			if got, want := s.redis(i, ca, "GET", "state"), map[bool]string{true: "new", false: "old"}[c.failure == ""]; got != want {
				t.Errorf("the object has the %s state; want the %s one", got, want)
			}
		})
	}
}

// silentEndpoint takes connections and says nothing.
func silentEndpoint(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		var open []net.Conn // as long as the listener
		for {
			c, err := l.Accept()
			if err != nil {
				for _, c := range open {
					c.Close()
				}
				return
			}
			open = append(open, c)
		}
	}()
	return l.Addr().String()
}
