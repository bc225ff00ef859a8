package objects_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/sealane/sealane/internal/objects"
)

// The endpoints are real servers, which scripts/object-servers.sh builds: processes of their own. The folders have what the bucket "there" has.

const (
	accessKey = "AKIATESTKEY"
	secretKey = "a-secret-that-nobody-shows"
)

// endpoint is a running server with a bucket.
type endpoint struct {
	address string
	bucket  objects.Bucket // its configuration, without Endpoint
}

// eachEndpoint runs a test on each service.
func eachEndpoint(t *testing.T, test func(t *testing.T, e *endpoint)) {
	t.Helper()
	for name, start := range map[string]func(*testing.T) *endpoint{"gcs": startGCS, "s3": startS3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start(t))
		})
	}
}

// store is a store whose bucket "bucket" is at the endpoint, by way of an address.
func (e *endpoint) store(t *testing.T, address string, change ...func(*objects.Bucket)) *objects.Store {
	t.Helper()
	b := e.bucket
	b.Endpoint = "http://" + address
	for _, c := range change {
		c(&b)
	}
	return storeOf(t, objects.Config{Buckets: map[string]objects.Bucket{"bucket": b}})
}

func startGCS(t *testing.T) *endpoint {
	dir := tempDir(t)
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	host, _, _ := net.SplitHostPort(address)
	startServer(t, address, "fake-gcs-server", nil, "-scheme", "http", "-host", host, "-port", port, "-backend", "filesystem",
		"-filesystem-root", dir, "-public-host", address, "-log-level", "error")
	res, err := http.Post("http://"+address+"/storage/v1/b?project=p", "application/json", strings.NewReader(`{"name": "there"}`))
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("make the bucket: %v, %v", res, err)
	}
	res.Body.Close()
	return &endpoint{address, objects.Bucket{Service: objects.GCS, Bucket: "there", Anonymous: true}}
}

func startS3(t *testing.T) *endpoint {
	dir := tempDir(t)
	for _, folder := range []string{"buckets/there", "meta"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	address := freeAddress(t)
	startServer(t, address, "versitygw", []string{"ROOT_ACCESS_KEY_ID=" + accessKey, "ROOT_SECRET_ACCESS_KEY=" + secretKey},
		"--port", address, "--quiet", "posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "buckets"))
	return &endpoint{address, objects.Bucket{Service: objects.S3, Bucket: "there", CredentialsFile: awsFile(t, accessKey, secretKey)}}
}

func awsFile(t *testing.T, key, secret string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", key, secret), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "slo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startServer starts a server of scripts/object-servers.sh, or skips the test.
func startServer(t *testing.T, address, name string, env []string, args ...string) {
	t.Helper()
	folder := os.Getenv("SEALANE_OBJECT_SERVERS")
	if cache, err := os.UserCacheDir(); folder == "" && err == nil {
		folder = filepath.Join(cache, "sealane", "object-servers")
	}
	found, _ := filepath.Glob(filepath.Join(folder, name+"-v*"))
	if len(found) == 0 {
		t.Skipf("NOT TESTED WITH %s: scripts/object-servers.sh builds it", name)
	}
	c := exec.Command(slices.Max(found), args...)
	c.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + tempDir(t), "TMPDIR=" + os.TempDir()}, env...)
	output, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	c.Stdout, c.Stderr = output, output
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return
		} else if time.Now().After(until) {
			text, _ := os.ReadFile(output.Name())
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
	}
}

// unfinished are the uploads that a server at S3 keeps the parts of.
func (e *endpoint) unfinished(t *testing.T) (uploads []string) {
	t.Helper()
	c, err := minio.New(e.address, &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	for u := range c.ListIncompleteUploads(context.Background(), "there", "", true) {
		if u.Err != nil {
			t.Fatal(u.Err)
		}
		uploads = append(uploads, u.Key)
	}
	return uploads
}

// breaking is a TCP proxy that cuts a connection once so many bytes have gone to the client, as a network does.
type breaking struct {
	address string
	conns   atomic.Int32
	cutAt   atomic.Int64 // of each connection; 0: never
	onCut   func()
}

func breakingProxy(t *testing.T, to string, cutAt int64, onCut func()) *breaking {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &breaking{address: l.Addr().String(), onCut: onCut}
	p.cutAt.Store(cutAt)
	var all sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.conns.Add(1)
			all.Go(func() { p.serve(client, to) })
		}
	})
	return p
}

func (p *breaking) serve(client net.Conn, to string) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	var from io.Reader = server
	if n := p.cutAt.Load(); n > 0 {
		from = io.LimitReader(server, n)
	}
	_, _ = io.Copy(client, from)
	if p.cutAt.Load() > 0 && p.onCut != nil {
		p.onCut()
	}
	client.Close()
	server.Close()
	<-done
}
