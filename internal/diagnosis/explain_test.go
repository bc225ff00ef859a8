package diagnosis_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/sealane/sealane/internal/diagnosis"
)

// alert is the error that crypto/tls returns for an alert that it received.
func alert(n tls.AlertError) error { return &net.OpError{Op: "remote error", Err: n} }

func TestAnErrorOfTheNetworkHasItsKind(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		err  error
		want diagnosis.Kind
	}{
		{"refused", os.NewSyscallError("connect", syscall.ECONNREFUSED), diagnosis.PortClosed},
		{"no answer", fmt.Errorf("dial: %w", context.DeadlineExceeded), diagnosis.PortSilent},
		{"no answer, as the kernel says it", os.NewSyscallError("connect", syscall.ETIMEDOUT), diagnosis.PortSilent},
		{"no route", os.NewSyscallError("connect", syscall.ENETUNREACH), diagnosis.Unreachable},
	} {
		if got, d := diagnosis.Connect("10.0.0.5", &net.OpError{Op: "dial", Err: tc.err}); got != tc.want || d.Address != "10.0.0.5" || d.Why == "" {
			t.Errorf("%s: got %s with %+v, want %s", tc.name, got, d, tc.want)
		}
	}
	for _, tc := range []struct {
		name string
		err  error
		want diagnosis.Kind
	}{
		{"no such name", &net.DNSError{Err: "no such host", IsNotFound: true}, diagnosis.NameUnknown},
		{"the name server fails", &net.DNSError{Err: "server misbehaving"}, diagnosis.DNSDown},
		{"the name server is silent", &net.DNSError{Err: "i/o timeout", IsTimeout: true}, diagnosis.DNSDown},
		{"something else", errors.New("dial"), diagnosis.DNSDown},
	} {
		if got, d := diagnosis.Lookup(tc.err); got != tc.want || d.Why == "" {
			t.Errorf("%s: got %s with %+v, want %s", tc.name, got, d, tc.want)
		}
	}
	for err, want := range map[error]diagnosis.Kind{
		syscall.EMFILE: diagnosis.NoDescriptors, syscall.ENFILE: diagnosis.NoDescriptorsOnMachine, syscall.ECONNREFUSED: "",
	} {
		if got, ok := diagnosis.Descriptors(os.NewSyscallError("socket", err)); got != want || ok != (want != "") {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}

func TestAHandshakeThatFailedHasItsKind(t *testing.T) {
	t.Parallel()
	const record = "\x16\x03\x03\x00\x7a"
	reset := os.NewSyscallError("read", syscall.ECONNRESET)
	for _, tc := range []struct {
		name string
		h    diagnosis.Handshake
		want diagnosis.Kind
	}{
		{"a Redis", diagnosis.Handshake{Err: tls.RecordHeaderError{}, First: []byte("-ERR unknown command")}, diagnosis.PlaintextRedis},
		{"a web server", diagnosis.Handshake{Err: tls.RecordHeaderError{}, First: []byte("HTTP/1.1 400 Bad Request\r\n")}, diagnosis.HTTP},
		{"something else", diagnosis.Handshake{Err: tls.RecordHeaderError{}, First: []byte("SSH-2.0")}, diagnosis.OtherProtocol},
		{"silence", diagnosis.Handshake{Err: context.DeadlineExceeded}, diagnosis.Silent},
		{"closed", diagnosis.Handshake{Err: io.EOF}, diagnosis.ClosedAtOnce},
		{"reset", diagnosis.Handshake{Err: reset}, diagnosis.ClosedAtOnce},
		{"silence in the middle", diagnosis.Handshake{Err: context.DeadlineExceeded, First: []byte(record)}, diagnosis.HandshakeFailed},
		{"a name that it does not serve", diagnosis.Handshake{Err: alert(112), First: []byte(record)}, diagnosis.SNIRefused},
		{"another alert", diagnosis.Handshake{Err: alert(80), First: []byte(record)}, diagnosis.HandshakeFailed},

		{"no client certificate, TLS 1.3", diagnosis.Handshake{Err: alert(116), First: []byte(record), CertAsked: true}, diagnosis.ClientCertRequired},
		{"no client certificate, TLS 1.2", diagnosis.Handshake{Err: alert(40), First: []byte(record), CertAsked: true}, diagnosis.ClientCertRequired},
		{"no client certificate, and a reset", diagnosis.Handshake{Err: reset, First: []byte(record), CertAsked: true}, diagnosis.ClientCertRequired},
		{"an unknown CA of the client's", diagnosis.Handshake{Err: alert(48), First: []byte(record), CertAsked: true, CertShown: true}, diagnosis.ClientCertRefused},
		{"an expired client certificate", diagnosis.Handshake{Err: alert(45), First: []byte(record), CertAsked: true, CertShown: true}, diagnosis.ClientCertRefused},
		{"the same alerts without a question", diagnosis.Handshake{Err: alert(48), First: []byte(record)}, diagnosis.HandshakeFailed},
		{"a general alert after a client certificate", diagnosis.Handshake{Err: alert(40), First: []byte(record), CertAsked: true, CertShown: true}, diagnosis.HandshakeFailed},
	} {
		if got, _ := tc.h.Explain(); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestAReplyHasItsKind(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		words  string
		toAuth bool
		want   diagnosis.Kind
	}{
		{"ERR max number of clients reached", false, diagnosis.MaxClients},
		{"ERR max number of clients reached", true, diagnosis.MaxClients},
		{"ERR the engine behind this port is not answering, it is being restarted: retry with backoff", true, diagnosis.EngineAway},
		{"DENIED Redis is running in protected mode", true, diagnosis.ProtectedMode},
		{"LOADING Redis is loading the dataset in memory", false, diagnosis.Loading},
		{"BUSY Redis is busy running a script", false, diagnosis.Busy},
		{"MASTERDOWN Link with MASTER is down", false, diagnosis.MasterDown},
		{"WRONGPASS invalid username-password pair or user is disabled.", true, diagnosis.AuthWrong},
		{"ERR unknown command 'AUTH'", true, diagnosis.AuthWrong},
		{"NOAUTH Authentication required.", false, diagnosis.AuthMissing},
		{"NOPERM User app has no permissions to run the 'ping' command", false, diagnosis.NoPermission},
		{"MISCONF Redis is configured to save RDB snapshots", false, diagnosis.NoWrites},
		{"NEWCODE something of tomorrow", false, diagnosis.PingRefused},
		{"", false, diagnosis.PingRefused},
	} {
		if got, d := diagnosis.Reply(tc.words, tc.toAuth); got != tc.want || d.Said != tc.words || d.Command == "" {
			t.Errorf("%q: got %s with %+v, want %s", tc.words, got, d, tc.want)
		}
	}
	if got, _ := diagnosis.Unanswered("PING", context.DeadlineExceeded); got != diagnosis.NoReply {
		t.Errorf("no answer: got %s", got)
	}
	if got, _ := diagnosis.Unanswered("PING", io.EOF); got != diagnosis.ClosedAfterHandshake {
		t.Errorf("closed: got %s", got)
	}
}

// An error that is not about a certificate is no matter of the chain's.
func TestAChainExplainsOnlyCertificates(t *testing.T) {
	t.Parallel()
	c := diagnosis.Chain{Served: []*x509.Certificate{{}}, Now: now}
	for _, err := range []error{io.EOF, alert(48), context.DeadlineExceeded} {
		if got, _ := c.Explain(err); got != "" {
			t.Errorf("%v: got %s", err, got)
		}
	}
}
