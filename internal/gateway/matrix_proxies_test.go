package gateway_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// proxy is a program that takes plaintext in and is a TLS client of the gateway. There is one of it, with a Unix socket for
// each trial.
type proxy struct {
	// program is in PATH or in a package that scripts/debian.sh has unpacked.
	program string
	flags   []string // of its version
	// config is all of its configuration, which it gets for a folder.
	config func(t *testing.T, dir string, trials []trial) string
	args   func(file string) []string
}

var haproxy = proxy{
	program: "haproxy", flags: []string{"-v"},
	args: func(file string) []string { return []string{"-db", "-f", file} },
	config: func(_ *testing.T, dir string, trials []trial) string {
		var b strings.Builder
		b.WriteString("defaults\n mode tcp\n retries 0\n timeout connect 30s\n timeout client 30s\n timeout server 30s\n")
		for i, c := range trials {
			fmt.Fprintf(&b, "listen t%d\n bind unix@%s\n server s %s:%s ssl verify required ca-file %s verifyhost %s\n",
				i, plainSocket(dir, i), c.host, c.port, c.file, c.name)
		}
		return b.String()
	},
}

var nginx = proxy{
	program: "nginx", flags: []string{"-v"},
	args: func(file string) []string { return []string{"-e", "stderr", "-c", file} },
	config: func(t *testing.T, dir string, trials []trial) string {
		var b strings.Builder
		if module := filepath.Join(unpacked(t), "libnginx-mod-stream/root/usr/lib/nginx/modules/ngx_stream_module.so"); exists(module) {
			fmt.Fprintf(&b, "load_module %s;\n", module)
		}
		fmt.Fprintf(&b, "daemon off;\nmaster_process off;\npid %s;\nerror_log stderr;\nevents {}\nstream {\n", filepath.Join(dir, "pid"))
		for i, c := range trials {
			// Servers with the same upstream share its TLS sessions, whatever they trust.
			fmt.Fprintf(&b, `server {
				listen unix:%s; proxy_pass %s:%s; proxy_ssl on; proxy_ssl_verify on; proxy_ssl_trusted_certificate %s;
				proxy_ssl_server_name on; proxy_ssl_name %s; proxy_ssl_session_reuse off;
			}
			`, plainSocket(dir, i), c.host, c.port, c.file, c.name)
		}
		return b.String() + "}\n"
	},
}

var stunnel = proxy{
	program: "stunnel4", flags: []string{"-version"},
	args: func(file string) []string { return []string{file} },
	config: func(_ *testing.T, dir string, trials []trial) string {
		var b strings.Builder
		fmt.Fprintf(&b, "foreground = yes\npid =\nclient = yes\n")
		for i, c := range trials {
			fmt.Fprintf(&b, "[t%d]\naccept = %s\nconnect = %s:%s\nCAfile = %s\nverifyChain = yes\ncheckIP = %s\n",
				i, plainSocket(dir, i), c.host, c.port, c.file, c.host)
		}
		return b.String()
	},
}

var threeNumbers = regexp.MustCompile(`\d+\.\d+\.?\d*`)

func plainSocket(dir string, i int) string { return filepath.Join(dir, fmt.Sprint("t", i)) }

func (p proxy) path(t *testing.T) string {
	t.Helper()
	if path := filepath.Join(unpacked(t), p.program, p.program); exists(path) {
		return path
	}
	return program(t, p.program)
}

func (p proxy) version(t *testing.T, _ *workbench) string {
	out, err := exec.Command(p.path(t), p.flags...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return threeNumbers.FindString(string(out))
}

func (p proxy) probe(t *testing.T, _ *workbench, trials []trial) []string {
	dir := tempDir(t)
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, []byte(p.config(t, dir, trials)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(p.path(t), p.args(file)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s said: %s", p.program, &said)
		}
	})
	eventually(t, p.program+" listens", func() bool {
		c, err := net.Dial("unix", plainSocket(dir, len(trials)-1))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	var got []string
	for i := range trials {
		got = append(got, pingPlain(t, plainSocket(dir, i)))
	}
	return got
}

// pingPlain says what comes of a PING without TLS.
func pingPlain(t *testing.T, path string) string {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = c.Write([]byte("PING\r\n")) // it may be closed already
	answer, err := bufio.NewReader(c).ReadString('\n')
	if answer == "+PONG\r\n" {
		return "ok"
	}
	return fmt.Sprintf("no %q, %v", answer, err)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
