package objects_test

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/sealane/sealane/internal/objects"
	"github.com/sealane/sealane/internal/objecttest"
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
	return &endpoint{objecttest.GCS(t), objects.Bucket{Service: objects.GCS, Bucket: objecttest.Bucket, Anonymous: true}}
}

func startS3(t *testing.T) *endpoint {
	return &endpoint{objecttest.S3(t), objects.Bucket{Service: objects.S3, Bucket: objecttest.Bucket, CredentialsFile: awsFile(t, accessKey, secretKey)}}
}

const accessKey, secretKey = objecttest.AccessKey, objecttest.SecretKey

func awsFile(t *testing.T, key, secret string) string {
	return objecttest.S3Credentials(t, key, secret)
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

// freeAddress is one where nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// unfinished are the uploads that a server at S3 keeps the parts of.
func (e *endpoint) unfinished(t *testing.T) (uploads []string) {
	t.Helper()
	c, err := minio.New(e.address, &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	for u := range c.ListIncompleteUploads(context.Background(), objecttest.Bucket, "", true) {
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
