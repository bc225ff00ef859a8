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

// run is one life of the client. Once it is handed over by the channel it doesn't change.
type run struct {
	begin, end time.Time
	err        error // nil: exit status 0
	output     tail
	before     handshakes // when it began
	refused    string     // how it refused a certificate, in words; "": it didn't

	cancel context.CancelFunc
	done   chan struct{}
}

// killDelay is from the signal that asks the client to end to the one that ends it.
const killDelay = 2 * time.Second

// start runs the client in a process group of its own, which is gone when the run has ended.
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
		syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // what it left behind; most often nobody
		if errors.Is(r.err, exec.ErrWaitDelay) {
			r.err = nil // it ended well, but something that it started held on to its output
		}
		cancel()
		close(r.done)
		ended <- r
	}()
	return r, nil
}

// stop ends a run, if any, and waits for it.
func (r *run) stop() {
	if r == nil {
		return
	}
	r.cancel()
	<-r.done
}

// status says how it ended.
func (r *run) status() string {
	if r.err == nil {
		return "exit status 0"
	}
	return r.err.Error()
}

// clientEnvironment is ours without what is Sealane's: a client gets no token and no master key.
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

// tail keeps the end of what is written to it. os/exec has one goroutine write, and Wait wait for it.
type tail struct{ text []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if extra := len(t.text) - maxTail; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
	return len(p), nil
}

// lines are the last ones, fit to be shown.
func (t *tail) lines() []string {
	var out []string
	for line := range strings.SplitSeq(redact(string(t.text), os.Environ()), "\n") {
		line = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return -1 // nothing that moves a terminal's cursor
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
	keyEnd     = regexp.MustCompile(`(?s)^.*-----END [A-Z ]*PRIVATE KEY-----`) // its beginning is no longer in the tail
)

// redact hides private keys, passwords in URLs, and the values of variables that are named like secrets.
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
