// Package objecttest gives tests object stores to import from and export to: real servers, processes of their own, which
// scripts/object-servers.sh builds. Only tests import it.
//
// Guaranteed: each has an empty bucket, listens on a free port of loopback, and ends with its test. A test for which a server is not there is
// skipped, and says so.
package objecttest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Bucket is the name of the bucket that each server has.
const Bucket = "there"

// The credentials that an S3 server takes.
const (
	AccessKey = "AKIATESTKEY"
	SecretKey = "a-secret-that-nobody-shows"
)

// GCS starts fake-gcs-server, an emulator of Google Cloud Storage that takes any credentials and none, and returns its address.
func GCS(t testing.TB) string {
	t.Helper()
	program := find(t, "fake-gcs-server")
	address := freeAddress(t)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	start(t, address, exec.Command(program, "-scheme", "http", "-host", host, "-port", port, "-backend", "filesystem",
		"-filesystem-root", tempDir(t), "-public-host", address, "-log-level", "error"))
	res, err := http.Post("http://"+address+"/storage/v1/b?project=p", "application/json", strings.NewReader(`{"name": "`+Bucket+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("make the bucket: %d, %v, %s", res.StatusCode, err, text)
	}
	return address
}

// S3 starts versitygw, which speaks Amazon S3, and returns its address. It takes AccessKey and SecretKey.
func S3(t testing.TB) string {
	t.Helper()
	program, dir := find(t, "versitygw"), tempDir(t)
	buckets, meta := filepath.Join(dir, "buckets"), filepath.Join(dir, "meta")
	for _, folder := range []string{filepath.Join(buckets, Bucket), meta} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	address := freeAddress(t)
	c := exec.Command(program, "--port", address, "--quiet", "posix", "--sidecar", meta, buckets)
	c.Env = []string{"ROOT_ACCESS_KEY_ID=" + AccessKey, "ROOT_SECRET_ACCESS_KEY=" + SecretKey}
	start(t, address, c)
	return address
}

// S3Credentials writes a file in the form of ~/.aws/credentials.
func S3Credentials(t testing.TB, key, secret string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", key, secret), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// folder has the servers that scripts/object-servers.sh has built. It is read here because some tests clear Sealane's variables.
var folder = os.Getenv("SEALANE_OBJECT_SERVERS")

func find(t testing.TB, name string) string {
	t.Helper()
	in := folder
	if cache, err := os.UserCacheDir(); in == "" && err == nil {
		in = filepath.Join(cache, "sealane", "object-servers")
	}
	found, err := filepath.Glob(filepath.Join(in, name+"-v*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Skipf("NOT TESTED WITH %s: scripts/object-servers.sh builds it", name)
	}
	return slices.Max(found)
}

// start starts a server and waits until it listens.
func start(t testing.TB, address string, c *exec.Cmd) {
	t.Helper()
	c.Env = append(c.Env, "PATH="+os.Getenv("PATH"), "HOME="+tempDir(t))
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
			t.Fatalf("%s: %v\n%s", c.Path, err, text)
		}
	}
}

// tempDir is not t.TempDir, which fails when a server still writes into it while it is removed.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "slo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
