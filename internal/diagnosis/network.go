package diagnosis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"
)

// Lookup says why the address of a name can't be found. Details: Why.
func Lookup(err error) (Kind, Details) {
	d, isDNS := errors.AsType[*net.DNSError](err)
	switch {
	case isDNS && d.IsNotFound:
		return NameUnknown, Details{Why: "no such name"}
	case isTimeout(err):
		return DNSDown, Details{Why: "no answer"}
	case isDNS:
		return DNSDown, Details{Why: d.Err}
	}
	return DNSDown, Details{Why: err.Error()}
}

// Connect says why there is no TCP connection to an address. Details: Address, Why.
func Connect(address string, err error) (Kind, Details) {
	d := Details{Address: address, Why: Reason(err)}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return PortClosed, d
	case isTimeout(err):
		return PortSilent, d
	}
	return Unreachable, d
}

// Descriptors says whether err is the want of a free file descriptor, of this process or of the machine.
func Descriptors(err error) (Kind, bool) {
	switch {
	case errors.Is(err, syscall.EMFILE):
		return NoDescriptors, true
	case errors.Is(err, syscall.ENFILE):
		return NoDescriptorsOnMachine, true
	}
	return "", false
}

func isTimeout(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// IsTimeout says that err is a deadline that passed.
func IsTimeout(err error) bool { return isTimeout(err) }

// isEnd says that the server closed or reset the connection.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Reason is the last part of a network error: what the system said.
func Reason(err error) string {
	if isTimeout(err) {
		return "no answer"
	}
	if _, text := AlertOf(err); text != "" {
		return "the server ends it with the alert " + Quote(text)
	}
	if errors.Is(err, io.EOF) {
		return "the server closes the connection"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return Printable(strings.TrimPrefix(err.Error(), "tls: "))
}

// Alerts of RFC 8446, section 6, and RFC 7301.
const (
	AlertHandshakeFailure      = 40
	alertBadCertificate        = 42 // up to alertCertificateUnknown: unsupported, revoked and expired certificates
	alertCertificateUnknown    = 46
	alertUnknownCA             = 48
	alertAccessDenied          = 49
	AlertProtocolVersion       = 70
	alertUnrecognizedName      = 112
	alertCertificateRequired   = 116
	AlertNoApplicationProtocol = 120
)

// AlertOf is the alert with which the server ended a connection: 0 and "" if it sent none. crypto/tls keeps the type of a received
// alert to itself, but wraps it in an operation of its own.
func AlertOf(err error) (number uint64, text string) {
	e, ok := errors.AsType[*net.OpError](err)
	if !ok || e.Op != "remote error" {
		return 0, ""
	}
	if v := reflect.ValueOf(e.Err); v.Kind() == reflect.Uint8 {
		number = v.Uint()
	}
	return number, strings.TrimPrefix(fmt.Sprint(e.Err), "tls: ")
}

// IsAboutClientCertificate says that a server may send this alert because of the client's certificate, or its absence.
func IsAboutClientCertificate(alert uint64) bool {
	return alert >= alertBadCertificate && alert <= alertCertificateUnknown ||
		alert == alertUnknownCA || alert == alertAccessDenied || alert == alertCertificateRequired
}
