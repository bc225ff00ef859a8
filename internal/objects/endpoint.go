package objects

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The bounds of one request. A transfer as a whole has none: it may take hours.
const (
	connectTimeout = 10 * time.Second
	answerTimeout  = 2 * time.Minute // from the end of the request to the head of the answer; S3 joins the parts of an object meanwhile
	// sendTimeout is how long what was sent may stay unacknowledged.
	sendTimeout = time.Minute
	// chunkSize is how much of an object is sent at a time, and again after an error.
	chunkSize = 16 << 20
)

// transport is for one operation: it reads the CAs anew, and its connections end with it.
func (b Bucket) transport() (*http.Transport, error) {
	d := &net.Dialer{Timeout: connectTimeout, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(sendTimeout.Milliseconds()))
		})
	}}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: d.DialContext, TLSHandshakeTimeout: connectTimeout, ResponseHeaderTimeout: answerTimeout,
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		DisableCompression: true, // a size and an offset are those of the object as it is stored
	}
	if b.CAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(b.CAFile)
	if err != nil {
		return nil, newError(Failed, "", "the CA file of its endpoint can't be read", "see ca_file of the bucket in the server's configuration").because(err)
	}
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, newError(Failed, "", "the CA file of its endpoint has no certificate", "ca_file of the bucket in the server's configuration wants PEM").
			because(fmt.Errorf("no certificate in %s", b.CAFile))
	}
	return t, nil
}

// closing closes the connections of an operation along with the body.
type closing struct {
	io.ReadCloser
	t *http.Transport
}

func (c closing) Close() error {
	err := c.ReadCloser.Close()
	c.t.CloseIdleConnections()
	return err
}

// transient is whether a request may succeed when it is sent again.
func transient(status int, err error) bool {
	switch {
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status >= 500 && status != http.StatusNotImplemented && status != http.StatusInsufficientStorage:
		return true
	case err == nil || errors.Is(err, context.Canceled) || untrusted(err):
		return false
	}
	var network *net.OpError
	var transport *url.Error
	return errors.As(err, &network) || errors.As(err, &transport) || errors.Is(err, io.ErrUnexpectedEOF)
}

func untrusted(err error) bool {
	var verification *tls.CertificateVerificationError
	return errors.As(err, &verification)
}

// statusError classes an endpoint's answer.
func statusError(status int, says string, err error) error {
	answer := fmt.Sprintf("its endpoint answers %d", status)
	if says != "" {
		answer += " (" + says + ")"
	}
	switch {
	case status == http.StatusUnauthorized:
		return newError(CredentialsRejected, "", answer+": it does not take the server's credentials", "%s", hintCredentials).because(err)
	case status == http.StatusForbidden:
		return newError(PermissionDenied, "", answer+": the server's credentials do not allow it", "let them read and write the bucket's objects").because(err)
	case status == http.StatusNotFound:
		return newError(NotFound, "", "there is no such object or bucket", "check the bucket's and the object's name; a bucket has to be there before").because(err)
	case status == http.StatusPreconditionFailed, status == http.StatusRequestedRangeNotSatisfiable:
		return errChanged().because(err)
	case status == http.StatusInsufficientStorage:
		return newError(DiskFull, "", answer+": it has no room", "free space there and try again; nothing was replaced").because(err)
	case transient(status, nil):
		return newError(Unreachable, "", answer, "try again").because(err)
	}
	return newError(Failed, "", answer, "the server's log has the whole answer").because(err)
}

const hintCredentials = "check credentials_file of the bucket in the configuration of `sealane serve`, or the environment of its process (docs/import-export.md)"

// networkError classes what kept a request from being answered. Its text has no more than the host.
func (b Bucket) networkError(err error) error {
	host := b.Endpoint
	if host == "" {
		host = "the service"
	}
	host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
	var dns *net.DNSError
	reason := "no answer"
	switch {
	case untrusted(err):
		return newError(Unreachable, "", host+" shows a certificate that is not trusted", "set ca_file of the bucket in the server's configuration to the CA's certificate").because(err)
	case errors.As(err, &dns):
		reason = "there is no address for the name"
	case errors.Is(err, syscall.ECONNREFUSED):
		reason = "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		reason = "the connection broke"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		reason = "no answer in time"
	}
	return newError(Unreachable, "", "its endpoint, "+host+", can't be reached: "+reason, "check that it is up, endpoint in the server's configuration, and the network").because(err)
}

// asSent is a body that the caller has classed already.
func asSent(err error) bool {
	var e *Error
	var c *contentError
	return errors.As(err, &e) || errors.As(err, &c)
}
