package sidecar

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
)

// ClientCertificate reads a certificate for servers that want one from their clients, and its key, which may be in the same file.
// Each is the name of a file, file:PATH or env:NAME. The two must go together, and the key must be nobody else's. An error is a *diagnosis.Fault.
func ClientCertificate(cert, key string) (certPEM, keyPEM string, err error) {
	var exposed *diagnosis.Fault
	if certPEM, _, err = readPair("the client certificate", cert); err != nil {
		return "", "", err
	}
	if keyPEM, exposed, err = readPair("the client key", key); err != nil {
		return "", "", err
	}
	if f := checkPair(cert, certPEM, key, keyPEM); f != nil {
		return "", "", f
	}
	if exposed != nil {
		return "", "", exposed
	}
	return certPEM, keyPEM, nil
}

func clientPairFault(sentence, fix string) *diagnosis.Fault {
	return &diagnosis.Fault{Code: codeClientPair, Sentence: sentence, Fix: fix}
}

// readPair reads one of the two. exposed is not nil for a file that other users can read, which matters if it holds the key.
func readPair(what, from string) (text string, exposed *diagnosis.Fault, err error) {
	if name, ok := strings.CutPrefix(from, "env:"); ok {
		if v := os.Getenv(name); v != "" {
			return v, nil, nil
		}
		return "", nil, clientPairFault(fmt.Sprintf("%s: the environment variable %s is not set, or empty", what, name), "put the PEM text into it, and start again")
	}
	f, err := os.Open(strings.TrimPrefix(from, "file:"))
	if err != nil {
		return "", nil, pairFault(unreadable(what, strings.TrimPrefix(from, "file:"), err, "name the right file, readable for this user; it is read again by itself"))
	}
	defer f.Close()
	raw, err := readOpen(what, f, maxPair)
	if err != nil {
		fault, _ := errors.AsType[*diagnosis.Fault](err)
		return "", nil, pairFault(fault)
	}
	return diagnosis.WithoutMarks(raw), othersMay(what, f), nil
}

// pairFault is a fault of reading as one of the client certificate.
func pairFault(f *diagnosis.Fault) *diagnosis.Fault {
	if f.Code == codeSource {
		f.Code = codeClientPair
	}
	return f
}

// othersMay says that other users of the machine can read a file. A group may: that is how Kubernetes gives a Secret to a user who
// is not root, and how distributions share keys.
func othersMay(what string, f *os.File) *diagnosis.Fault {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o027 == 0 {
		return nil
	}
	return clientPairFault(fmt.Sprintf("%s %s has mode %04o: other users can read or change it", what, f.Name(), info.Mode().Perm()),
		fmt.Sprintf("chmod 0600 %s (in Kubernetes: defaultMode 0440 and fsGroup); if somebody may have read it, take a new key", f.Name()))
}

// checkPair names what is wrong with the two.
func checkPair(certFrom, cert, keyFrom, key string) *diagnosis.Fault {
	certs, keys := pemTypes(cert), pemTypes(key)
	problem, fix := "", ""
	switch {
	case certs["CERTIFICATE"] == 0 && certs.keys() > 0 && keys["CERTIFICATE"] > 0:
		problem, fix = fmt.Sprintf("%s holds the key and %s the certificate", certFrom, keyFrom), "name them the other way round: cert is for the certificate, key for the key"
	case diagnosis.IsUTF16([]byte(cert)), diagnosis.IsUTF16([]byte(key)):
		problem, fix = "it is in UTF-16", "save certificate and key as plain text, in UTF-8"
	case certs["CERTIFICATE"] == 0:
		problem, fix = certFrom+" holds no certificate in PEM", "name the file that begins with -----BEGIN CERTIFICATE-----"
	case strings.Contains(key, "ENCRYPTED"):
		problem, fix = "the key in "+keyFrom+" has a passphrase, and nobody is there to type it", "write it without: `openssl pkey -in KEY -out FILE`, with mode 0600"
	case keys.keys() == 0:
		problem, fix = keyFrom+" holds no private key in PEM", "name the file that begins with -----BEGIN PRIVATE KEY-----"
	default:
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err == nil {
			return unfitForClients(certFrom, pair.Leaf)
		}
		problem, fix = fmt.Sprintf("the certificate in %s and the key in %s: %s", certFrom, keyFrom, strings.TrimPrefix(err.Error(), "tls: ")),
			"write the two that were made for each other; they are read again by themselves"
	}
	return clientPairFault("the client certificate can't be used: "+problem, fix)
}

func unfitForClients(from string, leaf *x509.Certificate) *diagnosis.Fault {
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 {
		return nil
	}
	for _, u := range leaf.ExtKeyUsage {
		if u == x509.ExtKeyUsageClientAuth || u == x509.ExtKeyUsageAny {
			return nil
		}
	}
	return clientPairFault("the client certificate can't be used: the one in "+from+" is not for clients (extended key usage)", "take one that has clientAuth there")
}

// blocks counts the blocks of a PEM file by their types.
type blocks map[string]int

func pemTypes(text string) blocks {
	all := make(blocks)
	for b, rest := pem.Decode([]byte(text)); b != nil; b, rest = pem.Decode(rest) {
		all[b.Type]++
	}
	return all
}

func (b blocks) keys() (n int) {
	for kind, count := range b {
		if strings.HasSuffix(kind, "PRIVATE KEY") {
			n += count
		}
	}
	return n
}

// clientCertificate is what a server is shown that asks: one without a certificate in it if there is none. Whether it fits what the
// server asks for is the server's to say, whose reason is then known.
func (t *trust) clientCertificate() *tls.Certificate {
	if t.shows == nil {
		return &tls.Certificate{}
	}
	return t.shows
}

// soonExpired is how long before its end a client certificate is shown in /readyz.
const soonExpired = 7 * 24 * time.Hour

// clientCertificateNote is what should be known of it before the server refuses it, "" for nothing.
func (t *trust) clientCertificateNote() string {
	if t == nil || t.shows == nil || t.now().Add(soonExpired).Before(t.shows.Leaf.NotAfter) {
		return ""
	}
	return fmt.Sprintf("the client certificate of %s expires on %s: renew it; the files are read again by themselves",
		diagnosis.Quote(t.shows.Leaf.Subject.CommonName), diagnosis.Date(t.shows.Leaf.NotAfter))
}
