package objects_test

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/objects"
)

// random is content of a size that is the same each time.
func random(size int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), size) }

// sumOf reads all of it.
func sumOf(t *testing.T, r io.Reader) (sum uint32, size int64) {
	t.Helper()
	h := crc32.NewIEEE()
	size, err := io.Copy(h, r)
	if err != nil {
		t.Fatal(err)
	}
	return h.Sum32(), size
}

func wantSame(t *testing.T, s *objects.Store, size int64) {
	t.Helper()
	o, err := s.Open(t.Context(), request("gs://bucket/a/cache 1.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if o.Size != size {
		t.Errorf("size %d; want %d", o.Size, size)
	}
	got, read := sumOf(t, o)
	want, _ := sumOf(t, random(size))
	if got != want || read != size {
		t.Errorf("%d bytes with checksum %x; want %d, %x", read, got, size, want)
	}
}

func TestObjectsAtEndpoints(t *testing.T) {
	t.Parallel()
	eachEndpoint(t, func(t *testing.T, e *endpoint) {
		s := e.store(t, e.address)
		r := request("gs://bucket/a/cache 1.rdb")
		_, err := s.Open(t.Context(), r)
		wantKind(t, err, objects.NotFound, "there is no such object")
		if err := s.PrepareExport(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		for _, size := range []int64{20 << 20, 0, 1, 16 << 20, 1<<20 + 1} { // in parts, and at once
			var last int64
			r.Progress = func(done, total int64) {
				if last = done; total != size {
					t.Errorf("total %d; want %d", total, size)
				}
			}
			if err := s.Put(t.Context(), r, random(size), size); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			if last != size {
				t.Errorf("progress of %d bytes ends at %d", size, last)
			}
			wantSame(t, s, size)
			if err := s.Put(t.Context(), request(r.URI), random(size), -1); err != nil {
				t.Fatalf("%d bytes, which nobody knew before: %v", size, err)
			}
			wantSame(t, s, size)
		}
	})
}

func TestA200MBObjectGoesThroughLittleMemory(t *testing.T) {
	t.Parallel()
	const size = 200 << 20
	eachEndpoint(t, func(t *testing.T, e *endpoint) {
		s := e.store(t, e.address)
		if err := s.Put(t.Context(), request("gs://bucket/a/cache 1.rdb"), random(size), size); err != nil {
			t.Fatal(err)
		}
		wantSame(t, s, size)
	})
	t.Run("folder", func(t *testing.T) {
		t.Parallel()
		s, _ := newStore(t)
		if err := s.Put(t.Context(), request("gs://bucket/a/cache 1.rdb"), random(size), size); err != nil {
			t.Fatal(err)
		}
		wantSame(t, s, size)
	})
}

func TestAFailedPutAtAnEndpointLeavesWhatWasThere(t *testing.T) {
	t.Parallel()
	eachEndpoint(t, func(t *testing.T, e *endpoint) {
		s := e.store(t, e.address)
		const uri = "gs://bucket/cache.rdb"
		if err := put(s, uri, "old"); err != nil {
			t.Fatal(err)
		}
		broken := errors.New("broken")
		for _, size := range []int64{100, 20 << 20} {
			cancelled, cancel := context.WithCancel(t.Context())
			for name, c := range map[string]struct {
				ctx  context.Context
				from io.Reader
				size int64
				want error
			}{
				"content fails":                 {t.Context(), io.MultiReader(random(size-1), iotest.ErrReader(broken)), size, broken},
				"content is short":              {t.Context(), random(size - 1), size, io.ErrUnexpectedEOF},
				"content of unknown size fails": {t.Context(), io.MultiReader(random(size-1), iotest.ErrReader(broken)), -1, broken},
				// Of its own accord minio-go takes this error for the end.
				"content of unknown size breaks off": {t.Context(), io.MultiReader(random(size-1), iotest.ErrReader(io.ErrUnexpectedEOF)), -1, io.ErrUnexpectedEOF},
				"cancelled": {cancelled, io.MultiReader(random(size-1), readerFunc(func([]byte) (int, error) {
					cancel()
					return 0, nil
				}), random(1)), size, context.Canceled},
			} {
				if err := s.Put(c.ctx, request(uri), c.from, c.size); !errors.Is(err, c.want) {
					t.Errorf("%d bytes, %s: %v; want %v", size, name, err, c.want)
				}
				if got, err := get(s, uri); got != "old" || err != nil {
					t.Errorf("%d bytes, %s: %d bytes, %v; want the old object", size, name, len(got), err)
				}
			}
		}
		if e.bucket.Service == objects.S3 {
			if left := e.unfinished(t); len(left) > 0 {
				t.Errorf("parts are left of %v", left)
			}
		}
	})
}

func TestAnEndpointThatIsDown(t *testing.T) {
	t.Parallel()
	eachEndpoint(t, func(t *testing.T, e *endpoint) {
		address := freeAddress(t)
		s := e.store(t, address)
		for name, try := range map[string]func() error{
			"open":    func() error { _, err := s.Open(t.Context(), request("gs://bucket/cache.rdb")); return err },
			"put":     func() error { return put(s, "gs://bucket/cache.rdb", "x") },
			"prepare": func() error { return s.PrepareExport(t.Context(), request("gs://bucket/cache.rdb")) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				begin := time.Now()
				wantKind(t, try(), objects.Unreachable, "its endpoint, "+address+", can't be reached: connection refused")
				if took := time.Since(begin); took > 40*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		}
	})
}

func TestABrokenConnectionIsResumed(t *testing.T) {
	t.Parallel()
	eachEndpoint(t, func(t *testing.T, e *endpoint) {
		const size = 20 << 20
		direct := e.store(t, e.address)
		if err := direct.Put(t.Context(), request("gs://bucket/a/cache 1.rdb"), random(size), size); err != nil {
			t.Fatal(err)
		}
		p := breakingProxy(t, e.address, 3<<20, nil)
		wantSame(t, e.store(t, p.address), size)
		if n := p.conns.Load(); n < 6 {
			t.Errorf("%d connections; want at least 6", n)
		}
		p.cutAt.Store(1) // from here on none gets a byte of an answer
		_, err := e.store(t, p.address).Open(t.Context(), request("gs://bucket/a/cache 1.rdb"))
		wantKind(t, err, objects.Unreachable, "can't be reached")
	})
}

func TestAnObjectThatIsReplacedBetweenTwoConnectionsIsNoMixture(t *testing.T) {
	t.Parallel()
	eachEndpoint(t, func(t *testing.T, e *endpoint) {
		const size = 20 << 20
		direct := e.store(t, e.address)
		r := request("gs://bucket/a/cache 1.rdb")
		if err := direct.Put(t.Context(), r, random(size), size); err != nil {
			t.Fatal(err)
		}
		p := breakingProxy(t, e.address, 3<<20, func() {
			if err := direct.Put(context.Background(), r, bytes.NewReader(make([]byte, size)), size); err != nil {
				t.Error(err)
			}
		})
		o, err := e.store(t, p.address).Open(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		_, err = io.Copy(io.Discard, o)
		wantKind(t, err, objects.Changed, "changed while it was read")
	})
}

func TestAnUploadGoesOnAfterABrokenConnection(t *testing.T) {
	t.Parallel()
	eachEndpoint(t, func(t *testing.T, e *endpoint) {
		const size = 20 << 20
		var cut atomic.Bool
		forward := forwardTo(t, e.address)
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ContentLength > 1<<20 && cut.CompareAndSwap(false, true) {
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
				panic(http.ErrAbortHandler)
			}
			forward.ServeHTTP(w, r)
		}))
		defer proxy.Close()
		s := e.store(t, strings.TrimPrefix(proxy.URL, "http://"))
		if err := s.Put(t.Context(), request("gs://bucket/a/cache 1.rdb"), random(size), size); err != nil {
			t.Fatal(err)
		}
		if !cut.Load() {
			t.Error("nothing was cut")
		}
		wantSame(t, e.store(t, e.address), size)
	})
}

func TestWrongBucketsAndCredentials(t *testing.T) {
	t.Parallel()
	eachEndpoint(t, func(t *testing.T, e *endpoint) {
		elsewhere := e.store(t, e.address, func(b *objects.Bucket) { b.Bucket = "nowhere" })
		_, err := elsewhere.Open(t.Context(), request("gs://bucket/cache.rdb"))
		wantKind(t, err, objects.NotFound, "there is no such")
		wantKind(t, put(elsewhere, "gs://bucket/cache.rdb", "x"), objects.NotFound, "there is no such")
		wantKind(t, elsewhere.PrepareExport(t.Context(), request("gs://bucket/cache.rdb")), objects.NotFound, "there is no such")
		for name, c := range map[string]struct {
			change func(*objects.Bucket)
			want   objects.Kind
		}{
			"unknown key":  {func(b *objects.Bucket) { b.CredentialsFile = awsFile(t, "AKIAOTHER", secretKey) }, objects.CredentialsRejected},
			"wrong secret": {func(b *objects.Bucket) { b.CredentialsFile = awsFile(t, accessKey, "wrong") }, objects.CredentialsRejected},
			"none":         {func(b *objects.Bucket) { b.CredentialsFile, b.Anonymous = "", true }, objects.PermissionDenied},
			"no file":      {func(b *objects.Bucket) { b.CredentialsFile = "/nowhere/credentials" }, objects.CredentialsRejected},
			"empty file":   {func(b *objects.Bucket) { b.CredentialsFile = os.DevNull }, objects.CredentialsRejected},
		} {
			if e.bucket.Service == objects.GCS {
				continue // the emulator takes any
			}
			s := e.store(t, e.address, c.change)
			_, err := s.Open(t.Context(), request("gs://bucket/cache.rdb"))
			wantKind(t, err, c.want, "")
			putErr := put(s, "gs://bucket/cache.rdb", "x")
			wantKind(t, putErr, c.want, "")
			for _, err := range []error{err, putErr} {
				if text := fmt.Sprintf("%v %+v %s", err, errors.Unwrap(err), hint.Of(err)); strings.Contains(text, secretKey) {
					t.Errorf("%s: a secret in %s", name, text)
				}
			}
		}
	})
}

// The emulator takes any credentials, so those that answer otherwise are stood in for. The file and the exchange of its key for a token are
// the library's.
func TestCredentialsOfAServiceAccount(t *testing.T) {
	t.Parallel()
	key := string(certtest.KeyPEM(t, rsaKey(t)))
	var tokenStatus, apiStatus atomic.Int32
	var asked atomic.Pointer[string]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/token" {
			w.WriteHeader(int(tokenStatus.Load()))
			fmt.Fprint(w, `{"access_token": "a-token", "token_type": "Bearer", "expires_in": 3600, "error": "invalid_grant", "error_description": "Invalid JWT Signature."}`)
			return
		}
		by := r.Header.Get("Authorization")
		asked.Store(&by)
		w.WriteHeader(int(apiStatus.Load()))
		fmt.Fprintf(w, `{"error": {"code": %d, "message": "exporter@example.iam.gserviceaccount.com does not have storage.objects.get access."}}`, apiStatus.Load())
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "account.json")
	text := fmt.Sprintf(`{"type": "service_account", "project_id": "p", "private_key_id": "1", "private_key": %q, "client_email": "exporter@example.iam.gserviceaccount.com", "token_uri": %q}`,
		key, server.URL+"/token")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := storeOf(t, objects.Config{Buckets: map[string]objects.Bucket{"bucket": {Service: objects.GCS, Endpoint: server.URL, CredentialsFile: file}}})
	open := func() error { _, err := s.Open(t.Context(), request("gs://bucket/cache.rdb")); return err }

	tokenStatus.Store(http.StatusBadRequest)
	wantKind(t, open(), objects.CredentialsRejected, "no token is given for the server's credentials")
	wantKind(t, put(s, "gs://bucket/cache.rdb", "x"), objects.CredentialsRejected, "no token is given")
	tokenStatus.Store(http.StatusOK)
	apiStatus.Store(http.StatusForbidden)
	wantKind(t, open(), objects.PermissionDenied, "its endpoint answers 403 (exporter@example.iam.gserviceaccount.com does not have storage.objects.get access.)")
	wantKind(t, put(s, "gs://bucket/cache.rdb", "x"), objects.PermissionDenied, "403")
	if err := s.PrepareExport(t.Context(), request("gs://bucket/cache.rdb")); err != nil {
		t.Errorf("who may only write may not list: %v", err)
	}
	apiStatus.Store(http.StatusUnauthorized)
	wantKind(t, open(), objects.CredentialsRejected, "it does not take the server's credentials")
	apiStatus.Store(http.StatusServiceUnavailable)
	wantKind(t, open(), objects.Unreachable, "its endpoint answers 503")
	if by := asked.Load(); by == nil || *by != "Bearer a-token" {
		t.Errorf("asked with %v", by)
	}
	for _, wrong := range []string{"", "{}", "not JSON " + key, `{"type": "service_account", "private_key": 5}`, `{"type": "` + key[30:60]} {
		if err := os.WriteFile(file, []byte(wrong), 0o600); err != nil {
			t.Fatal(err)
		}
		err := open()
		wantKind(t, err, objects.CredentialsRejected, "")
		if text := fmt.Sprintf("%v %v", err, errors.Unwrap(err)); strings.Contains(text, key[30:60]) {
			t.Errorf("the key in %s", text)
		}
	}
}

// forwardTo is a proxy that keeps the name by which it was called, which S3 signs.
func forwardTo(t *testing.T, address string) *httputil.ReverseProxy {
	t.Helper()
	upstream, err := url.Parse("http://" + address)
	if err != nil {
		t.Fatal(err)
	}
	return &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(upstream); r.Out.Host = r.In.Host },
		ErrorLog: log.New(io.Discard, "", 0),
	}
}

func TestAnEndpointOfAPrivateCA(t *testing.T) {
	t.Parallel()
	eachEndpoint(t, func(t *testing.T, e *endpoint) {
		ca := certtest.NewAuthority(t, "a private CA")
		proxy := httptest.NewUnstartedServer(forwardTo(t, e.address))
		proxy.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail are what it is about
		proxy.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Leaf(t, certtest.Names("127.0.0.1"))}}
		proxy.StartTLS()
		defer proxy.Close()
		file := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(file, ca.PEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		by := func(caFile string) *objects.Store {
			return e.store(t, e.address, func(b *objects.Bucket) { b.Endpoint, b.CAFile = proxy.URL, caFile })
		}
		if err := put(by(file), "gs://bucket/cache.rdb", "x"); err != nil {
			t.Fatal(err)
		}
		if got, err := get(by(file), "gs://bucket/cache.rdb"); got != "x" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		for _, s := range []*objects.Store{by(""), by(string(os.DevNull)), by("/nowhere/ca.pem")} {
			err := put(s, "gs://bucket/cache.rdb", "y")
			var failed *objects.Error
			if !errors.As(err, &failed) || !strings.Contains(failed.Hint(), "ca_file") {
				t.Errorf("%v (%s)", err, hint.Of(err))
			}
		}
	})
}

// rsaKey is a key of the kind that service accounts have.
func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(cryptorand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Without credentials_file those of the environment count, and their absence is told at once.
func TestCredentialsOfTheEnvironment(t *testing.T) {
	e := startS3(t)
	t.Setenv("HOME", t.TempDir())
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SHARED_CREDENTIALS_FILE", "GOOGLE_APPLICATION_CREDENTIALS"} {
		t.Setenv(name, "")
	}
	s := e.store(t, e.address, func(b *objects.Bucket) { b.CredentialsFile = "" })
	wantKind(t, put(s, "s3://bucket/cache.rdb", "x"), objects.CredentialsRejected, "the server has no credentials for the S3 endpoint")
	google := storeOf(t, objects.Config{Buckets: map[string]objects.Bucket{"bucket": {Service: objects.GCS, Endpoint: "http://" + e.address}}})
	wantKind(t, put(google, "gs://bucket/cache.rdb", "x"), objects.CredentialsRejected, "no credentials for Google Cloud Storage")
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	if err := put(s, "s3://bucket/cache.rdb", "x"); err != nil {
		t.Fatal(err)
	}
	if got, err := get(s, "gs://bucket/cache.rdb"); got != "x" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}
