package gateway_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// client is a TLS stack. Of each trial it says what came of it: "ok", or "no" and why.
type client struct {
	name string
	// by is what it compares with the certificate. Not every stack can compare an address.
	by string
	// version prints it.
	version func(*testing.T, *workbench) string
	probe   func(*testing.T, *workbench, []trial) []string
}

const (
	byAddress = "the address"
	byName    = "a DNS name"
	byNothing = "nothing"
)

// clients are all that are asked. But for NSS's and Botan's, where it is the end of the handshake, "ok" is an answered PING.
var clients = []client{
	{"Go crypto/tls", byAddress, func(*testing.T, *workbench) string { return runtime.Version() }, probeGo},
	{"OpenSSL s_client", byAddress, prints("openssl", "version"), each(func(t *testing.T, c trial) *exec.Cmd {
		return sClient(program(t, "openssl"), c)
	}, "+PONG")},
	{"OpenSSL 3.5 s_client, X25519MLKEM768", byAddress, newOpenSSLVersion, each(func(t *testing.T, c trial) *exec.Cmd {
		return sClient(newOpenSSL(t), c, "-groups", "X25519MLKEM768")
	}, "Negotiated TLS1.3 group: X25519MLKEM768", "+PONG")},
	{"redis-cli", byNothing, prints("redis-cli", "--version"), each(func(t *testing.T, c trial) *exec.Cmd {
		return exec.Command("redis-cli", "-h", c.host, "-p", c.port, "--tls", "--cacert", c.file, "PING")
	}, "PONG")},
	{"GnuTLS gnutls-cli", byAddress, prints("gnutls-cli", "--version"), each(func(t *testing.T, c trial) *exec.Cmd {
		return exec.Command("gnutls-cli", "--x509cafile", c.file, "--port", c.port, c.host)
	}, "+PONG")},
	{"NSS tstclnt", byAddress, packaged("tstclnt", "libnss3-tools"), each(nss)},
	{"Java", byAddress, prints("java", "--version"), script("java", "Handshakes.java")},
	{"Node.js", byAddress, prints("node", "--version"), script("node", "handshakes.mjs")},
	{"Python ssl", byAddress, prints("python3", "--version"), script("python3", "handshakes.py")},
	{"Perl IO::Socket::SSL", byAddress, prints("perl", "-MIO::Socket::SSL", "-e", "print $IO::Socket::SSL::VERSION"), script("perl", "handshakes.pl")},
	{"Ruby openssl", byAddress, prints("ruby", "-ropenssl", "-e", `print "Ruby #{RUBY_VERSION}, openssl #{OpenSSL::VERSION}"`), script("ruby", "handshakes.rb")},
	{"PHP streams", byAddress, prints("php", "--version"), script("php", "handshakes.php")},
	{"Erlang/OTP ssl", byAddress, prints("erl", "-noshell", "-eval",
		`ok = application:load(ssl), {ok, V} = application:get_key(ssl, vsn), io:format("OTP ~s, ssl ~s", [erlang:system_info(otp_release), V]), halt().`),
		script("escript", "handshakes.escript")},
	{"Deno (rustls)", byAddress, fromNPM("deno", denoProgram), batch(func(t *testing.T, b *workbench) *exec.Cmd {
		c := exec.Command(filepath.Join(b.npm(t), denoProgram), "run", "--quiet", "--no-config", "--allow-net", "--allow-read", "handshakes.deno.mjs")
		c.Dir = b.npm(t)
		c.Env = append(os.Environ(), "DENO_DIR="+filepath.Join(b.dir, "deno"), "DENO_NO_UPDATE_CHECK=1")
		return c
	})},
	{"valkey-glide (rustls)", byAddress, fromNPM("@valkey/valkey-glide", ""), batch(func(t *testing.T, b *workbench) *exec.Cmd {
		c := exec.Command(program(t, "node"), "handshakes.glide.mjs")
		c.Dir = b.npm(t)
		return c
	})},
	{"Bun RedisClient (BoringSSL)", byAddress, fromNPM("bun", bunProgram), batch(bun("handshakes.bun.mjs"))},
	{"Bun node:tls (BoringSSL)", byAddress, fromNPM("bun", bunProgram), batch(bun("handshakes.mjs"))},
	{"wolfSSL", byAddress, wolfssl.version, wolfssl.probe()},
	{"wolfSSL 5.7", byAddress, wolfssl.debian13("libwolfssl-dev").version, wolfssl.debian13("libwolfssl-dev").probe()},
	{"mbedTLS", byName, mbedtls.version, mbedtls.probe()},
	{"mbedTLS 3.6", byAddress, mbedtls.debian13("libmbedtls-dev").version, mbedtls.debian13("libmbedtls-dev").probe()},
	{"BearSSL", byName, packaged("gcc", "libbearssl-dev"), bearssl.probe()},
	// It goes on after a failed verification, and only says so.
	{"Botan tls_client", byNothing, prints("botan", "version"), each(func(t *testing.T, c trial) *exec.Cmd {
		return exec.Command("botan", "tls_client", c.host, "--port="+c.port, "--trusted-cas="+c.file, "--skip-system-cert-store")
	}, "Certificate validation status: Verified")},
	{"HAProxy", byName, haproxy.version, haproxy.probe},
	{"nginx", byName, nginx.version, nginx.probe},
	{"stunnel", byAddress, stunnel.version, stunnel.probe},
}

const (
	denoProgram = "node_modules/@deno/linux-x64-glibc/deno"
	bunProgram  = "node_modules/@oven/bun-linux-x64/bin/bun"
)

func prints(name string, args ...string) func(*testing.T, *workbench) string {
	return func(t *testing.T, _ *workbench) string {
		out, err := output(t, name, args...)
		if err != nil {
			t.Skipf("%s does not work here, so %s is not shown: %s", name, t.Name(), out)
		}
		return firstLineOf(out)
	}
}

// packaged is the version of a program that does not say it.
func packaged(name, debian string) func(*testing.T, *workbench) string {
	return func(t *testing.T, _ *workbench) string {
		program(t, name)
		out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", debian).Output()
		if err != nil {
			return "unknown"
		}
		return string(out)
	}
}

// fromNPM is the version of a package, whose program may not be there for every machine.
func fromNPM(name, program string) func(*testing.T, *workbench) string {
	return func(t *testing.T, b *workbench) string {
		dir := b.npm(t)
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			t.Skipf("the package is for other machines, so %s is not shown here: %v", t.Name(), err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "node_modules", name, "package.json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(regexp.MustCompile(`"version": "(.*?)"`).FindSubmatch(text)[1])
	}
}

func probeGo(t *testing.T, _ *workbench, trials []trial) []string {
	var got []string
	for _, c := range trials {
		text, err := os.ReadFile(c.file)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
		conn, err := tls.Dial("tcp", net.JoinHostPort(c.host, c.port), &tls.Config{RootCAs: roots})
		if err != nil {
			got = append(got, "no "+err.Error())
			continue
		}
		send(t, conn, "PING\r\n")
		expect(t, conn, "+PONG\r\n")
		conn.Close()
		got = append(got, "ok")
	}
	return got
}

// sClient verifies as strictly as s_client can, and ends when the server does, which QUIT makes it do.
func sClient(openssl string, c trial, more ...string) *exec.Cmd {
	return exec.Command(openssl, append([]string{"s_client", "-connect", c.host + ":" + c.port, "-CAfile", c.file, "-no-CApath", "-no-CAstore",
		"-verify_return_error", "-verify_ip", c.host, "-brief", "-ign_eof"}, more...)...)
}

// each runs a program for each trial. It is to end well and to print what is wanted, on either stream.
func each(command func(*testing.T, trial) *exec.Cmd, wanted ...string) func(*testing.T, *workbench, []trial) []string {
	in := ""
	if slices.Contains(wanted, "+PONG") {
		in = "PING\r\nQUIT\r\n" // the server closes after it
	}
	return func(t *testing.T, _ *workbench, trials []trial) []string {
		var got []string
		for _, c := range trials {
			out, errs, err := within(t, command(t, c), in)
			answer := "ok"
			if err != nil || slices.ContainsFunc(wanted, func(w string) bool { return !strings.Contains(out+errs, w) }) {
				answer = fmt.Sprintf("no %v %.300s", err, errs+out)
			}
			got = append(got, answer)
		}
		return got
	}
}

// batch gives a program all trials at once: a virtual machine takes a while to start.
func batch(command func(*testing.T, *workbench) *exec.Cmd) func(*testing.T, *workbench, []trial) []string {
	return func(t *testing.T, b *workbench, trials []trial) []string {
		var in strings.Builder
		for _, c := range trials {
			fmt.Fprintln(&in, c.host, c.port, c.name, c.file)
		}
		out, errs, err := within(t, command(t, b), in.String())
		got := strings.Split(strings.TrimSpace(string(out)), "\n")
		if err != nil || len(got) != len(trials) {
			t.Fatalf("%d answers to %d trials, %v: %s%s", len(got), len(trials), err, out, errs)
		}
		return got
	}
}

// script runs one of testdata/clients.
func script(name, file string) func(*testing.T, *workbench, []trial) []string {
	return batch(func(t *testing.T, _ *workbench) *exec.Cmd {
		return exec.Command(program(t, name), filepath.Join("testdata/clients", file))
	})
}

func bun(file string) func(*testing.T, *workbench) *exec.Cmd {
	return func(t *testing.T, b *workbench) *exec.Cmd {
		c := exec.Command(filepath.Join(b.npm(t), bunProgram), "--no-install", file)
		c.Dir = b.npm(t)
		c.Env = append(os.Environ(), "BUN_RUNTIME_TRANSPILER_CACHE_PATH=0")
		return c
	}
}

func within(t *testing.T, cmd *exec.Cmd, in string) (out, errs string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	limited := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	limited.Dir, limited.Env = cmd.Dir, cmd.Env
	limited.Stdin = strings.NewReader(in)
	var o, e strings.Builder
	limited.Stdout, limited.Stderr = &o, &e
	err = limited.Run()
	if ctx.Err() != nil {
		t.Errorf("%q did not end", cmd.Args)
	}
	return o.String(), e.String(), err
}

// nss has its trust in a database.
func nss(t *testing.T, c trial) *exec.Cmd {
	db := filepath.Join(t.TempDir(), "nss")
	if err := os.Mkdir(db, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("certutil", "-N", "-d", db, "--empty-password").CombinedOutput(); err != nil {
		t.Fatalf("certutil: %v: %s", err, out)
	}
	text, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; len(text) > 0; i++ {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		add := exec.Command("certutil", "-A", "-d", db, "-n", fmt.Sprint("ca", i), "-t", "C,,")
		add.Stdin = bytes.NewReader(block.Bytes)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("certutil: %v: %s", err, out)
		}
	}
	return exec.Command("tstclnt", "-h", c.host, "-p", c.port, "-d", db, "-V", "tls1.2:tls1.3", "-Q")
}

// newOpenSSL is one with post-quantum key exchange: the system's, or the one that scripts/debian.sh has unpacked.
func newOpenSSL(t *testing.T) string {
	t.Helper()
	for _, path := range []string{"openssl", filepath.Join(unpacked(t), "openssl", "openssl")} {
		if out, err := exec.Command(path, "list", "-kem-algorithms").Output(); err == nil && bytes.Contains(out, []byte("X25519MLKEM768")) {
			return path
		}
	}
	t.Skipf("no OpenSSL 3.5 or newer, so %s is not shown here; on Debian: scripts/debian.sh trixie openssl", t.Name())
	return ""
}

func newOpenSSLVersion(t *testing.T, _ *workbench) string {
	out, err := exec.Command(newOpenSSL(t), "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	return firstLineOf(string(out))
}
