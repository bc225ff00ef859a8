package objects

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// s3Bucket is a bucket at an endpoint with the API of Amazon S3.
type s3Bucket struct {
	Bucket
	name string
}

const defaultRegion = "us-east-1"

// client is for one operation, each request of which is tried so often.
func (b *s3Bucket) client(tries int) (*minio.Core, *http.Transport, error) {
	t, err := b.transport()
	if err != nil {
		return nil, nil, err
	}
	region := b.Region
	if region == "" {
		region = defaultRegion
	}
	endpoint := b.Endpoint
	if endpoint == "" {
		endpoint = "https://s3." + region + ".amazonaws.com"
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, nil, newError(BucketNotConfigured, "", "its endpoint is no URL", "docs/import-export.md shows one")
	}
	creds, err := b.credentials(t)
	if err != nil {
		return nil, nil, err
	}
	c, err := minio.NewCore(u.Host, &minio.Options{Creds: creds, Secure: u.Scheme == "https", Transport: t, Region: region, MaxRetries: tries})
	if err != nil {
		return nil, nil, newError(Failed, "", "its endpoint can't be asked", "the server's log has the cause").because(err)
	}
	return c, t, nil
}

// credentials are read now, so that their absence is told as such. The library would go on without them.
func (b *s3Bucket) credentials(t *http.Transport) (*credentials.Credentials, error) {
	if b.Anonymous {
		return credentials.NewStatic("", "", "", credentials.SignatureAnonymous), nil
	}
	chain := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{}}
	if b.CredentialsFile != "" {
		if _, err := os.Stat(b.CredentialsFile); err != nil {
			return nil, newError(CredentialsRejected, "", "the credentials of its bucket can't be read", "%s", hintCredentials).because(err)
		}
		chain = []credentials.Provider{&credentials.FileAWSCredentials{Filename: b.CredentialsFile, Profile: "default"}}
	}
	creds := credentials.NewChainCredentials(chain)
	v, err := creds.GetWithContext(&credentials.CredContext{Client: &http.Client{Transport: t, Timeout: connectTimeout}, Endpoint: b.Endpoint})
	if err != nil || v.AccessKeyID == "" || v.SecretAccessKey == "" {
		return nil, newError(CredentialsRejected, "", "the server has no credentials for the S3 endpoint", "%s", hintCredentials).because(err)
	}
	return creds, nil
}

func (b *s3Bucket) open(ctx context.Context, object string, offset int64, version string) (content, error) {
	c, t, err := b.client(1) // resuming tries again
	if err != nil {
		return content{}, err
	}
	var o minio.GetObjectOptions
	if offset > 0 {
		if err := o.SetRange(offset, 0); err != nil {
			return content{}, err
		}
	}
	if version != "" {
		if err := o.SetMatchETag(version); err != nil {
			return content{}, err
		}
	}
	body, info, header, err := c.GetObject(ctx, b.name, object, o)
	if err != nil {
		t.CloseIdleConnections()
		return content{}, b.error(err)
	}
	size := info.Size
	if offset > 0 {
		if header.Get("Content-Range") == "" {
			body.Close()
			t.CloseIdleConnections()
			return content{}, newError(Failed, "", "the connection broke, and its endpoint can't go on in the middle of an object", "try again")
		}
		size += offset
	}
	return content{closing{body, t}, max(size, 0), info.LastModified, info.ETag}, nil
}

// put is an upload in parts, or for a small object a single request. Either way the object appears when all of it is there. The library
// gives up the parts after an error, also when the context has ended.
func (b *s3Bucket) put(ctx context.Context, object string, r io.Reader, size int64) error {
	c, t, err := b.client(attempts)
	if err != nil {
		return err
	}
	defer t.CloseIdleConnections()
	if size >= 0 && size <= chunkSize { // what is sent at once is sent again only if the library can go back in it
		all := make([]byte, size)
		if _, err := io.ReadFull(r, all); err != nil {
			return err
		}
		if n, err := r.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
			return err
		}
		r = bytes.NewReader(all)
	}
	_, err = c.Client.PutObject(ctx, b.name, object, r, size, minio.PutObjectOptions{
		ContentType: "application/octet-stream", PartSize: partSize(size), NumThreads: 1,
	})
	return b.error(err)
}

// unknownPart is the size of the parts where that of the object isn't known: 625 GiB in 10,000 parts.
const unknownPart = 64 << 20

// partSize keeps an object within the 10,000 parts that S3 allows.
func partSize(size int64) uint64 {
	const parts = 10_000
	if size < 0 {
		return unknownPart // one part is in memory at a time
	}
	n := uint64(chunkSize)
	for int64(n)*parts < size {
		n *= 2
	}
	return n
}

// prepare asks for the object that is to be written: whether the endpoint answers, takes the credentials and has the bucket.
func (b *s3Bucket) prepare(ctx context.Context, object string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	c, t, err := b.client(attempts)
	if err != nil {
		return err
	}
	defer t.CloseIdleConnections()
	for o := range c.Client.ListObjects(ctx, b.name, minio.ListObjectsOptions{Prefix: object, MaxKeys: 1}) {
		err = o.Err
		break // cancel ends the rest
	}
	err = b.error(err)
	var e *Error
	if errors.As(err, &e) && e.Kind == PermissionDenied {
		return nil // who may only write may not list
	}
	return err
}

// error classes an error of the library.
func (b *s3Bucket) error(err error) error {
	if err == nil || asSent(err) {
		return err
	}
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) || answer.StatusCode == 0 && answer.Code == "" {
		return b.networkError(err)
	}
	switch answer.Code {
	case "NoSuchBucket":
		return newError(NotFound, "", "there is no such bucket at its endpoint", "make the bucket, or correct its name").because(err)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed", "InvalidAccessKeyID",
		"XAdminUserNotFound": // versitygw's word for an unknown key, with status 404
		return newError(CredentialsRejected, "", "its endpoint does not take the server's credentials ("+answer.Code+")", "%s", hintCredentials).because(err)
	case "XMinioStorageFull", "InsufficientStorage":
		return statusError(http.StatusInsufficientStorage, answer.Code, err)
	}
	return statusError(answer.StatusCode, strings.TrimSpace(shown(answer.Code)), err)
}
