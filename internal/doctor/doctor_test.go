package doctor_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/certtest"
	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/doctor"
)

// scenario is a set-up that is really broken, and the fault that must be named first.
type scenario struct {
	code  string
	setup string // in words, for docs/doctor.md
	make  func(b *bench) doctor.Config
}

var scenarios = []scenario{
	// The client's trust.
	{"ca-file-missing", "the CA file is not there", func(b *bench) doctor.Config {
		c := b.client(b.redis(b.ca.leaf(nil)), b.ca.pem())
		os.Remove(c.CAFile)
		return c
	}},
	{"ca-file-unreadable", "the CA file is a folder", func(b *bench) doctor.Config {
		c := b.client(b.redis(b.ca.leaf(nil)), nil)
		os.Remove(c.CAFile)
		os.Mkdir(c.CAFile, 0o700)
		return c
	}},
	{"ca-file-empty", "the command that should write the CA file failed", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(nil)), nil)
	}},
	{"ca-file-not-pem", "the CA file holds an error page", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(nil)), []byte("<html><h1>404 Not Found</h1></html>"))
	}},
	{"ca-file-not-pem", "the CA file holds a private key", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(nil)), certtest.KeyPEM(b, b.ca.Key))
	}},
	{"ca-file-encoding", "the CA file has a byte order mark", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(nil)), append([]byte("\ufeff"), b.ca.pem()...))
	}},
	{"ca-file-encoding", "the CA file was written by Windows PowerShell", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(nil)), []byte("\xff\xfe"+strings.Join(strings.Split(string(b.ca.pem()), ""), "\x00")+"\x00"))
	}},
	{"ca-file-der", "the CA file is in DER", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(nil)), b.ca.Cert.Raw)
	}},
	{"ca-file-damaged", "the CA file is cut off", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(nil)), append(b.ca.pem(), b.ca.pem()[:300]...))
	}},
	{"ca-file-damaged", "the CA file has a wrong byte", func(b *bench) doctor.Config {
		bad := bytes.Clone(b.ca.Cert.Raw)
		bad[5] ^= 0xff
		return b.client(b.redis(b.ca.leaf(nil)), certtest.PEM(bad))
	}},
	{"ca-file-no-ca", "the CA file holds the server's own certificate", func(b *bench) doctor.Config {
		cert := b.ca.leaf(nil)
		return b.client(b.redis(cert), certtest.PEM(cert.Certificate[0]))
	}},
	{"ca-expired", "the CA is expired", func(b *bench) doctor.Config {
		old := b.authority("Redis CA", func(c *x509.Certificate) { c.NotAfter = b.now.Add(-day) })
		return b.client(b.redis(old.leaf(nil)), old.pem())
	}},
	{"ca-expired", "the CA that signed is expired, another in the file is not", func(b *bench) doctor.Config {
		old := b.authority("Redis CA", func(c *x509.Certificate) { c.NotAfter = b.now.Add(-day) })
		return b.client(b.redis(old.leaf(nil)), append(old.pem(), b.ca.pem()...))
	}},
	{"ca-next-missing", "the client's file lacks the next CA of the instance", func(b *bench) doctor.Config {
		c := b.instance(b.redis(b.ca.leaf(identity(first))))
		c.Instance.Bundle = append(c.Instance.Bundle, b.authority("Redis CA 2").pem()...)
		c.CAFile = b.file("ca.pem", b.ca.pem())
		return c
	}},
	{"ca-next-missing", "the next CA signs, and the client's file leads to it by its cross-certificate only", func(b *bench) doctor.Config {
		next := b.authority("Redis CA 2")
		cert := next.leaf(identity(first), b.ca.cross(next, "Redis CA 2"))
		return b.client(b.redis(cert), b.ca.pem())
	}},

	{"next-chain-refused", "the next CA is to sign, and the client's file lacks it", func(b *bench) doctor.Config {
		next := b.authority("Redis CA 2")
		return b.client(b.rotating(b.ca.leaf(identity(first)), next.leaf(identity(first)), b.ca.cross(next, "Redis CA 2")), b.ca.pem())
	}},
	{"name-constraints", "a CA with name constraints", func(b *bench) doctor.Config {
		_, network, _ := net.ParseCIDR(b.ip + "/32")
		bound := b.authority("Redis CA", func(c *x509.Certificate) {
			c.PermittedDNSDomainsCritical, c.PermittedDNSDomains, c.PermittedURIDomains = true, []string{"cache.internal"}, []string{"sealane"}
			c.PermittedIPRanges = []*net.IPNet{network}
		})
		return b.client(b.redis(bound.leaf(identity(first))), bound.pem())
	}},

	// The way there.
	{"name-trailing-dot", "a name with a dot at its end", func(b *bench) doctor.Config {
		return b.named("cache.internal.", b.redis(b.ca.leaf(nil)), b.nameServer(0, b.ip))
	}},
	{"name-unknown", "a name that does not exist", func(b *bench) doctor.Config {
		return b.named("chache.internal", b.redis(b.ca.leaf(nil)), b.nameServer(3))
	}},
	{"dns-down", "the name server fails", func(b *bench) doctor.Config {
		return b.named("cache.internal", b.redis(b.ca.leaf(nil)), b.nameServer(2))
	}},
	{"dns-down", "the name server is silent", func(b *bench) doctor.Config {
		c := b.named("cache.internal", b.redis(b.ca.leaf(nil)), b.nameServer(-1))
		c.Timeout = 300 * time.Millisecond
		return c
	}},
	{"unreachable", "a machine without a network", func(b *bench) doctor.Config {
		return b.client(nowhere+":6378", b.ca.pem())
	}},
	{"port-closed", "nothing listens on the port", func(b *bench) doctor.Config { return b.client(b.closed(), b.ca.pem()) }},
	{"port-closed", "the instance's gateway does not run", func(b *bench) doctor.Config { return b.instance(b.closed()) }},
	{"port-silent", "SYNs are swallowed", func(b *bench) doctor.Config {
		c := b.client(b.full(), b.ca.pem())
		c.Timeout = 300 * time.Millisecond
		return c
	}},
	{"port-partly", "the server listens on one of two addresses of its name", func(b *bench) doctor.Config {
		return b.named("cache.internal", b.redis(b.ca.leaf(nil)), b.nameServer(0, "127.0.0.9", b.ip))
	}},

	// What answers.
	{"plaintext-redis", "a redis-server without TLS", func(b *bench) doctor.Config {
		b.realTime()
		return b.client(b.startRedis("--port"), b.ca.pem())
	}},
	{"plaintext-redis", "a redis-server without TLS and with a password", func(b *bench) doctor.Config {
		b.realTime()
		return b.client(b.startRedis("--port", "--requirepass", password), b.ca.pem())
	}},
	{"plaintext-redis", "a Sealane port with encryption disabled", func(b *bench) doctor.Config {
		return b.client(b.sealane(b.engine(), false, 0), b.ca.pem())
	}},
	{"http", "a web server", func(b *bench) doctor.Config {
		return b.client(b.web(nil), b.ca.pem())
	}},
	{"http-over-tls", "a web server with TLS", func(b *bench) doctor.Config {
		return b.client(b.web(&tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}}), b.ca.pem())
	}},
	{"silent", "a server that accepts and says nothing", func(b *bench) doctor.Config {
		c := b.client(b.serve(hold), b.ca.pem())
		c.Timeout = time.Second
		return c
	}},
	{"closed-at-once", "a server that closes each connection", func(b *bench) doctor.Config {
		return b.client(b.serve(func(net.Conn) {}), b.ca.pem())
	}},
	{"closed-at-once", "a redis-server with TLS that has reached maxclients", func(b *bench) doctor.Config {
		b.realTime()
		addr := b.realRedis("--maxclients", "1")
		b.occupy(addr)
		return b.client(addr, b.ca.pem())
	}},
	{"other-protocol", "an SSH server", func(b *bench) doctor.Config {
		return b.client(b.serve(says("SSH-2.0-OpenSSH_9.2\r\n")), b.ca.pem())
	}},
	{"wants-tls", "an instance without encryption, and a Sealane port with TLS in its place", func(b *bench) doctor.Config {
		c := b.instance(b.sealane(b.engine(), true, 0))
		c.Instance.Encrypted = false
		return c
	}},

	// The handshake.
	{"tls-too-old", "a server with TLS 1.1 at most", func(b *bench) doctor.Config {
		config := &tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		return b.client(b.serveTLS(config, b.speakRedis), b.ca.pem())
	}},
	{"tls-too-old", "openssl s_server -tls1_1", func(b *bench) doctor.Config {
		return b.client(b.openssl("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), b.ca.pem())
	}},
	{"no-shared-cipher", "a server with cipher suites of the past only", func(b *bench) doctor.Config {
		config := &tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}, MaxVersion: tls.VersionTLS12,
			CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256}}
		return b.client(b.serveTLS(config, b.speakRedis), b.ca.pem())
	}},
	{"no-shared-cipher", "openssl s_server with a cipher suite that nobody else has", func(b *bench) doctor.Config {
		return b.client(b.openssl("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256"), b.ca.pem())
	}},
	{"client-cert-required", "redis-server as it is by default: tls-auth-clients yes", func(b *bench) doctor.Config {
		b.realTime()
		return b.client(b.realRedis("--tls-auth-clients", "yes"), b.ca.pem())
	}},
	{"client-cert-required", "the same in TLS 1.2", func(b *bench) doctor.Config {
		config := &tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}, MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert}
		return b.client(b.serveTLS(config, b.speakRedis), b.ca.pem())
	}},
	{"client-cert-required", "the same in TLS 1.3, with a reset in place of the alert", func(b *bench) doctor.Config {
		config := &tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}, ClientAuth: tls.RequestClientCert, Time: func() time.Time { return b.now }}
		return b.client(b.serve(func(c net.Conn) {
			if tls.Server(c, config).Handshake() == nil {
				c.(*net.TCPConn).SetLinger(0)
			}
		}), b.ca.pem())
	}},
	{"client-cert-refused", "redis-server, and a client certificate of a CA that it does not know", func(b *bench) doctor.Config {
		b.realTime()
		c := b.client(b.realRedis("--tls-auth-clients", "yes"), b.ca.pem())
		c.ClientCertificate = b.clientCertificate(b.authority("other CA"))
		return c
	}},
	{"hello-too-big", "a firewall that lets only ClientHellos of one packet through", func(b *bench) doctor.Config {
		return b.client(b.smallHellosOnly(&tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}}), b.ca.pem())
	}},
	{"sni-refused", "openssl s_server that serves another name", func(b *bench) doctor.Config {
		addr := b.openssl("-servername", "other.internal", "-servername_fatal", "-cert2", filepath.Join(b.dir, "server.pem"), "-key2", filepath.Join(b.dir, "server.key"))
		return b.named("cache.internal", addr, b.nameServer(0, b.ip))
	}},
	{"handshake-failed", "a server without a certificate", func(b *bench) doctor.Config {
		config := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, os.ErrNotExist }}
		return b.client(b.serveTLS(config, b.speakRedis), b.ca.pem())
	}},

	// The certificate.
	{"ca-unknown", "the CA file is of another CA", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(nil)), b.authority("Another CA").pem())
	}},
	{"ca-unknown", "no CA file", func(b *bench) doctor.Config {
		c := b.client(b.redis(b.ca.leaf(identity(first))), nil)
		c.CAFile = ""
		return c
	}},
	{"ca-unknown", "the next CA signs, and neither the file nor what is served leads to it", func(b *bench) doctor.Config {
		next := b.authority("Redis CA 2")
		c := b.instance(b.redis(next.leaf(identity(first))))
		c.Instance.Bundle = append(c.Instance.Bundle, next.pem()...)
		c.CAFile = b.file("ca.pem", b.ca.pem())
		return c
	}},
	{"ca-replaced", "the CA was made anew under the same name", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(nil)), b.authority("Redis CA").pem())
	}},
	{"intermediate-missing", "the server sends no intermediate CA", func(b *bench) doctor.Config {
		root := b.authority("Example Root", organisation)
		issuing := root.below("Example Issuing CA 3", organisation)
		return b.client(b.redis(issuing.leaf(nil)), root.pem())
	}},
	{"intermediate-missing", "the same, and only the certificate hints at it", func(b *bench) doctor.Config {
		root := b.authority("Example Root")
		cert := root.below("Example Issuing CA 3").leaf(func(c *x509.Certificate) {
			c.IssuingCertificateURL = []string{"http://ca.example/issuing3.crt"}
		})
		return b.client(b.redis(cert), root.pem())
	}},
	{"self-signed", "a self-signed certificate", func(b *bench) doctor.Config {
		own := b.authority("cache", func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage, c.IPAddresses = false, x509.KeyUsageDigitalSignature, []net.IP{net.ParseIP(b.ip)}
		})
		return b.client(b.redis(tls.Certificate{Certificate: [][]byte{own.Cert.Raw}, PrivateKey: own.Key}), b.ca.pem())
	}},
	{"wrong-server", "the address of the instance leads to another one", func(b *bench) doctor.Config {
		other := b.authority("Another CA")
		return b.instance(b.redis(other.leaf(identity("spiffe://sealane/web/europe-west1/other"))))
	}},
	{"wrong-server", "the address of the instance leads to a stranger", func(b *bench) doctor.Config {
		return b.instance(b.redis(b.authority("Another CA").leaf(nil)))
	}},
	{"wrong-server", "the right CA, and the certificate names another instance", func(b *bench) doctor.Config {
		return b.instance(b.redis(b.ca.leaf(identity("spiffe://sealane/local/local/other"))))
	}},
	{"certificate-unfit", "a certificate that is for clients only", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })), b.ca.pem())
	}},
	{"certificate-unfit", "the intermediate CA is expired", func(b *bench) doctor.Config {
		issuing := b.ca.below("Issuing CA", func(c *x509.Certificate) { c.NotAfter = b.now.Add(-day) })
		return b.client(b.redis(issuing.leaf(nil, issuing)), b.ca.pem())
	}},
	{"certificate-unfit", "a CA that is limited to other names", func(b *bench) doctor.Config {
		limited := b.authority("Redis CA", func(c *x509.Certificate) {
			c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"example.com"}
		})
		return b.client(b.redis(limited.leaf(nil)), limited.pem())
	}},
	{"name-mismatch", "the dialled name is not in the certificate", func(b *bench) doctor.Config {
		return b.named("redis.example.com", b.redis(b.ca.leaf(nil)), b.nameServer(0, b.ip))
	}},
	{"name-mismatch", "a tunnel: the dialled address is not in the certificate", func(b *bench) doctor.Config {
		cert := b.ca.leaf(func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 5)} })
		return b.client(b.redis(cert), b.ca.pem())
	}},
	{"no-names", "the name is only in the common name", func(b *bench) doctor.Config {
		cert := b.ca.leaf(func(c *x509.Certificate) { c.DNSNames, c.IPAddresses, c.Subject.CommonName = nil, nil, b.ip })
		return b.client(b.redis(cert), b.ca.pem())
	}},
	{"expired", "an expired certificate", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(func(c *x509.Certificate) { c.NotAfter = b.now.Add(-3 * day) })), b.ca.pem())
	}},
	{"expired", "an instance whose server has not run for a long time", func(b *bench) doctor.Config {
		return b.instance(b.redis(b.ca.leaf(func(c *x509.Certificate) {
			identity(first)(c)
			c.NotAfter = b.now.Add(-3 * day)
		})))
	}},
	{"not-yet-valid", "the certificate begins later", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(func(c *x509.Certificate) { c.NotBefore = b.now.Add(2 * time.Hour) })), b.ca.pem())
	}},
	{"clock-wrong", "the client's clock is behind, as the engine's TIME shows", func(b *bench) doctor.Config {
		cert := b.ca.leaf(func(c *x509.Certificate) { c.NotBefore = b.now.Add(-time.Hour) })
		c := b.client(b.redis(cert), b.ca.pem())
		wrong := b.now.Add(-5 * time.Hour)
		c.Now = func() time.Time { return wrong }
		return c
	}},
	{"clock-wrong", "the client's clock is ahead, as the API shows", func(b *bench) doctor.Config {
		c := b.instance(b.redis(b.ca.leaf(identity(first))))
		wrong := b.now.Add(400 * day)
		c.Now = func() time.Time { return wrong }
		c.Instance.Date, c.Instance.Here = b.now, wrong
		return c
	}},
	{"expires-soon", "the certificate ends in 12 days", func(b *bench) doctor.Config {
		return b.client(b.redis(b.ca.leaf(func(c *x509.Certificate) { c.NotAfter = b.now.Add(12 * day) })), b.ca.pem())
	}},
	{"expires-soon", "the CA ends in 12 days", func(b *bench) doctor.Config {
		ca := b.authority("Redis CA", func(c *x509.Certificate) { c.NotAfter = b.now.Add(12 * day) })
		return b.client(b.redis(ca.leaf(nil)), ca.pem())
	}},
	{"expired-extra", "an expired cross-certificate is sent along", func(b *bench) doctor.Config {
		old := b.authority("Old CA")
		cross := old.cross(b.ca, "Redis CA", func(c *x509.Certificate) { c.NotAfter = b.now.Add(-day) })
		return b.client(b.redis(b.ca.leaf(nil, cross)), b.ca.pem())
	}},

	// Redis.
	{"auth-missing", "redis-server wants a password, and none is given", func(b *bench) doctor.Config {
		b.realTime()
		return b.client(b.realRedis("--requirepass", password), b.ca.pem())
	}},
	{"auth-wrong", "redis-server wants another password", func(b *bench) doctor.Config {
		b.realTime()
		c := b.client(b.realRedis("--requirepass", "another"), b.ca.pem())
		c.Password = doctor.NewPassword(password, "from SEALANE_AUTH")
		return c
	}},
	{"auth-unneeded", "redis-server has no password", func(b *bench) doctor.Config {
		b.realTime()
		c := b.client(b.realRedis(), b.ca.pem())
		c.Password = doctor.NewPassword(password, "from SEALANE_AUTH")
		return c
	}},
	{"max-clients", "a Sealane port that serves as many clients as it may", func(b *bench) doctor.Config {
		b.realTime()
		addr := b.sealane(b.engine(), true, 1)
		b.occupy(addr)
		return b.client(addr, b.ca.pem())
	}},
	{"loading", "redis-server loads its data", func(b *bench) doctor.Config {
		b.realTime()
		return b.client(b.loadingRedis(), b.ca.pem())
	}},
	{"engine-away", "a Sealane port whose engine does not run", func(b *bench) doctor.Config {
		b.realTime()
		return b.instance(b.sealane(filepath.Join(b.dir, "nobody"), true, 0))
	}},
	{"ping-refused", "an engine that answers with an error", func(b *bench) doctor.Config {
		config := &tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}}
		return b.client(b.serveTLS(config, func(c net.Conn) {
			b.speak(c, func([]string) string { return "-MASTERDOWN Link with MASTER is down\r\n" })
		}), b.ca.pem())
	}},
	{"not-redis", "a mail server inside TLS", func(b *bench) doctor.Config {
		config := &tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}}
		return b.client(b.serveTLS(config, says("220 mail.example ESMTP\r\n")), b.ca.pem())
	}},
	{"no-reply", "an engine that hangs", func(b *bench) doctor.Config {
		c := b.client(b.serveTLS(&tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}}, hold), b.ca.pem())
		c.Timeout = time.Second
		return c
	}},
	{"closed-after-handshake", "a proxy that has nobody behind it", func(b *bench) doctor.Config {
		return b.client(b.serveTLS(&tls.Config{Certificates: []tls.Certificate{b.ca.leaf(nil)}}, func(net.Conn) {}), b.ca.pem())
	}},
	{"clock-skew", "the client's clock is two minutes behind", func(b *bench) doctor.Config {
		c := b.client(b.redis(b.ca.leaf(nil)), b.ca.pem())
		wrong := b.now.Add(-2 * time.Minute)
		c.Now = func() time.Time { return wrong }
		return c
	}},
	{"instance-not-ready", "the instance is being repaired", func(b *bench) doctor.Config {
		c := b.instance(b.redis(b.ca.leaf(identity(first))))
		c.Instance.State, c.Instance.Problem = "REPAIRING", "the engine ended 3 times in a minute"
		return c
	}},
}

// named dials addr by a name.
func (b *bench) named(name, addr string, resolver *net.Resolver) doctor.Config {
	c := b.client(addr, b.ca.pem())
	c.Host, c.Resolver = name, resolver
	return c
}

// instance dials the instance first, of which the API says that it is at addr.
func (b *bench) instance(addr string) doctor.Config {
	c := b.client(addr, nil)
	c.CAFile = ""
	c.Instance = &doctor.Instance{ID: "first", State: "READY", Encrypted: true, Identity: first, Bundle: b.ca.pem()}
	return c
}

// occupy takes one client's place. A server may still count a connection that has just ended.
func (b *bench) occupy(addr string) {
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			b.Cleanup(func() { c.Close() })
			c.SetDeadline(until)
			_, _ = io.WriteString(c, "PING\r\n")
			answer := make([]byte, 5)
			if _, err = io.ReadFull(c, answer); string(answer) == "+PONG" {
				return
			}
		}
		if time.Now().After(until) {
			b.Fatalf("no place is free: %v", err)
		}
	}
}

func organisation(c *x509.Certificate) {
	c.Subject = pkix.Name{Organization: []string{"Example"}, CommonName: c.Subject.CommonName}
}

// TestDoctorNamesTheRightFault also holds docs/doctor.md against what was said; with -update it writes that page anew.
func TestDoctorNamesTheRightFault(t *testing.T) {
	t.Parallel()
	reports := make([]doctor.Report, len(scenarios))
	benches := make([]*bench, len(scenarios))
	t.Run("set-up", func(t *testing.T) {
		for i, s := range scenarios {
			t.Run(s.code+"/"+s.setup, func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				r := examine(b, s.make(b))
				check(t, r)
				if r.Fault == nil || r.Fault.Code != s.code {
					t.Fatalf("got %+v, want %s\n%s", r.Fault, s.code, text(r))
				}
				t.Logf("%s", text(r))
				reports[i], benches[i] = r, b
			})
		}
	})
	checkPage(t, reports, benches)
}

// examine runs one examination, in a process without a network where the set-up is one.
func examine(b *bench, c doctor.Config) doctor.Report {
	if c.Host == nowhere {
		return b.examineOffline(c)
	}
	return doctor.Diagnose(context.Background(), c)
}

// check is what must be true of every report.
func check(t *testing.T, r doctor.Report) {
	t.Helper()
	all := text(r)
	if strings.Contains(all, password) {
		t.Errorf("the password is in the report:\n%s", all)
	}
	for _, needed := range []string{"trust", "protocol", "chain", "names", "expiry", "verification"} {
		if got := stepOf(r, "auth").Result; stepOf(r, needed).Result == doctor.Fail && got != doctor.Skipped {
			t.Errorf("%s failed and auth is %s", needed, got)
		}
	}
	worst := doctor.OK
	for _, s := range r.Steps {
		if s.Detail == "" {
			t.Errorf("step %s gives no reason", s.Name)
		}
		if (s.Fault != nil) != (s.Result == doctor.Fail || s.Result == doctor.Warn) {
			t.Errorf("step %s is %s and has the fault %v", s.Name, s.Result, s.Fault)
		}
		if s.Result == doctor.Fail || s.Result == doctor.Warn && worst == doctor.OK {
			worst = s.Result
		}
		for _, said := range []string{s.Detail, r.Target} {
			if said != diagnosis.Printable(said) && len(said) < 160 {
				t.Errorf("step %s is not printable: %q", s.Name, said)
			}
		}
	}
	if r.Result != worst || (r.Fault != nil) != (worst != doctor.OK) {
		t.Errorf("the report is %s, its worst step %s, its fault %v", r.Result, worst, r.Fault)
	}
}

// text is a report as a person sees it.
func text(r doctor.Report) string {
	var b strings.Builder
	for _, s := range r.Steps {
		b.WriteString(strings.Join([]string{s.Name, string(s.Result), s.Detail}, "\t") + "\n")
	}
	if r.Fault != nil {
		b.WriteString(r.Fault.Sentence + "\n  " + r.Fault.Fix + "\n")
	}
	return b.String()
}
