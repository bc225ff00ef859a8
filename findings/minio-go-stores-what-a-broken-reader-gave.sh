#!/bin/sh
# minio-go stores the half of a file whose reader fails with io.ErrUnexpectedEOF, and reports success.
#
# Version: github.com/minio/minio-go/v7 v7.4.1 with the S3 server github.com/johannesboyne/gofakes3 v1.2.0, Go 1.26.
# Behaviour: PutObject with size -1 (unknown) reads to the end of its reader. Many readers say by io.ErrUnexpectedEOF that what they read
# broke off: compress/gzip for a cut file, net/http for a body that is shorter than announced. PutObject takes that for the end, completes the
# upload and returns no error, although the reader's error was final. A reader that fails with any other error makes PutObject fail.
# Why: parts are filled by io.ReadFull's rules, by which io.ErrUnexpectedEOF says that the last part is short.
# For whoever streams into S3: give the size, or wrap the reader so that io.ErrUnexpectedEOF becomes another error.
#
# Output seen:
#   a cut gzip file: the reader gives 20968450 bytes and "unexpected EOF"
#   PutObject: 20968450 bytes, <nil>
#   the object is there: true
#   with another error: broken
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >go.mod <<'M'
module finding

go 1.26

require (
	github.com/johannesboyne/gofakes3 v1.2.0
	github.com/minio/minio-go/v7 v7.4.1
)
M
cat >main.go <<'G'
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"strings"
	"testing/iotest"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

func main() {
	server := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
	defer server.Close()
	client, err := minio.New(strings.TrimPrefix(server.URL, "http://"), &minio.Options{Creds: credentials.NewStaticV4("key", "secret", "")})
	if err == nil {
		err = client.MakeBucket(context.Background(), "bucket", minio.MakeBucketOptions{})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	put := func(r io.Reader) (minio.UploadInfo, error) {
		return client.PutObject(context.Background(), "bucket", "object", r, -1, minio.PutObjectOptions{PartSize: 16 << 20})
	}

	var file bytes.Buffer
	w := gzip.NewWriter(&file)
	io.WriteString(w, strings.Repeat("0123456789abcdef", 40<<16))
	w.Close()
	cut := func() io.Reader {
		r, err := gzip.NewReader(bytes.NewReader(file.Bytes()[:file.Len()/2]))
		if err != nil {
			panic(err)
		}
		return r
	}
	given, broke := io.Copy(io.Discard, cut())
	fmt.Printf("a cut gzip file: the reader gives %d bytes and %q\n", given, broke)
	info, err := put(cut())
	fmt.Printf("PutObject: %d bytes, %v\n", info.Size, err)
	stored, statErr := client.StatObject(context.Background(), "bucket", "object", minio.StatObjectOptions{})
	fmt.Println("the object is there:", statErr == nil && stored.Size > 0)
	_, other := put(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("broken"))))
	fmt.Println("with another error:", other)
	if broke == nil || err != nil || info.Size != given || statErr != nil || other == nil {
		fmt.Println("it has changed")
		os.Exit(1)
	}
}
G
go mod tidy >/dev/null 2>&1
go run .
