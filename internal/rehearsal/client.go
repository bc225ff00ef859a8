package rehearsal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// run is one run of the client, from start to exit. It doesn't change any more after it was sent over the channel.
type run struct {
	begin, end time.Time
	err        error // nil: exit status 0
	output     tail
	before     handshakes // the failed handshakes before it began
	refused    string     // how it refused a certificate, in words; "": it did not

	cancel context.CancelFunc
	done   chan struct{}
}

// killDelay is the time between SIGTERM and SIGKILL for the client.
const killDelay = 2 * time.Second

// start runs the client in a process group of its own, all of which is killed when the run has ended.
func start(command string, environment []string, before handshakes, ended chan<- *run) (*run, error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &run{begin: time.Now(), before: before, cancel: cancel, done: make(chan struct{})}
	c := exec.CommandContext(ctx, "sh", "-c", command)
	c.Env = append(clientEnvironment(os.Environ()), environment...)
	c.Stdout, c.Stderr = &r.output, &r.output
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGTERM) }
	c.WaitDelay = killDelay
	if err := c.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start the client: %w", err)
	}
	go func() {
		r.err = c.Wait()
		r.end = time.Now()
		syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // ends what the client left behind, which mostly is nothing
		if errors.Is(r.err, exec.ErrWaitDelay) {
			r.err = nil // the client ended well, but a process that it started still held its output open
		}
		cancel()
		close(r.done)
		ended <- r
	}()
	return r, nil
}

// stop ends the run and waits for its end. A nil run has ended already.
func (r *run) stop() {
	if r == nil {
		return
	}
	r.cancel()
	<-r.done
}

// status says how the run ended.
func (r *run) status() string {
	if r.err == nil {
		return "exit status 0"
	}
	return r.err.Error()
}

// clientEnvironment is our environment without Sealane's variables, so that the client gets no token and no master key.
func clientEnvironment(all []string) []string {
	var out []string
	for _, e := range all {
		if name, _, _ := strings.Cut(e, "="); !strings.HasPrefix(name, "SEALANE_") && name != "REDIS_URL" && name != "REDISCLI_AUTH" {
			out = append(out, e)
		}
	}
	return out
}

const (
	maxTail     = 8 << 10
	tailLines   = 6
	maxLineText = 300
)

// tail keeps the end of what is written to it. It needs no lock: os/exec writes from one goroutine, and Wait waits for that.
type tail struct{ text []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if extra := len(t.text) - maxTail; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
	return len(p), nil
}

// lines returns the last lines in a form that can be shown.
func (t *tail) lines() []string {
	var out []string
	for line := range strings.SplitSeq(redact(string(t.text), os.Environ()), "\n") {
		line = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return -1 // no character may move a terminal's cursor
			}
			return r
		}, line)
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if runes := []rune(line); len(runes) > maxLineText {
			line = string(runes[:maxLineText]) + "…"
		}
		out = append(out, line)
	}
	return out[max(0, len(out)-tailLines):]
}

const hidden = "[hidden]"

var (
	secretName = regexp.MustCompile(`(?i)(passw|secret|token|auth|key|credential)`)
	urlSecret  = regexp.MustCompile(`(://[^\s/@:]*:)[^\s/@]+@`)
	privateKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)`)
	keyEnd     = regexp.MustCompile(`(?s)^.*-----END [A-Z ]*PRIVATE KEY-----`) // for a key whose beginning is no longer in the tail
)

// redact hides private keys, passwords in URLs, and the values of environment variables with names like secrets.
func redact(text string, environment []string) string {
	text = privateKey.ReplaceAllString(text, hidden)
	text = keyEnd.ReplaceAllString(text, hidden)
	text = urlSecret.ReplaceAllString(text, "${1}"+hidden+"@")
	for _, e := range environment {
		name, value, _ := strings.Cut(e, "=")
		if len(value) >= 6 && secretName.MatchString(name) {
			text = strings.ReplaceAll(text, value, hidden)
		}
	}
	return text
}
