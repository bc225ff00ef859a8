package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A worker is this program again, in a process of its own. So its CPU is not counted as a server's, and it has its own limit of
// open files and its own priority. It reads requests and writes one response for each, as JSON.
type worker struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	out    *json.Decoder
	stderr *strings.Builder
}

// workerCommand is the argument that makes this program a worker.
const workerCommand = "worker"

// request is what a worker is asked to do. The connections that "connect" opens stay open for later requests.
type request struct {
	Do      string        `json:"do"`             // connect, burst, live, visits, storm, neighbour, first-reply
	Addr    string        `json:"addr,omitempty"` // empty in requests that only use open connections
	CAFile  string        `json:"ca_file,omitempty"`
	Clients int           `json:"clients,omitempty"`
	Bytes   int           `json:"bytes,omitempty"` // length of a value
	Rate    float64       `json:"rate,omitempty"`  // per second
	For     time.Duration `json:"for,omitempty"`
	Whole   float64       `json:"whole,omitempty"` // in a storm, the part of the rate that completes the handshake
	Nice    int           `json:"nice,omitempty"`  // niceness of the whole clients in a storm
	Timeout time.Duration `json:"timeout,omitempty"`
	Group   uint16        `json:"group,omitempty"` // of the key exchange
	Resume  bool          `json:"resume,omitempty"`
	Kind    string        `json:"kind,omitempty"` // of neighbour
	Replies int           `json:"replies,omitempty"`
	Prepare bool          `json:"prepare,omitempty"`
}

type response struct {
	Error       string        `json:"error,omitempty"`
	NotOffered  bool          `json:"not_offered,omitempty"` // the target does not offer this kind of handshake
	Elapsed     time.Duration `json:"elapsed,omitempty"`
	Sent        int           `json:"sent,omitempty"`
	Done        int           `json:"done,omitempty"`
	Answered    int           `json:"answered,omitempty"` // how many decoys got the target's flight
	Resumed     int           `json:"resumed,omitempty"`
	Failed      int           `json:"failed,omitempty"`
	WhyFailed   string        `json:"why_failed,omitempty"` // the first of them
	Latency     *histogram    `json:"latency,omitempty"`    // since an operation was due
	SendingLate *histogram    `json:"sending_late,omitempty"`
	FirstMs     []float64     `json:"first_ms,omitempty"` // of each connection
}

// startWorker starts a worker. It must be called from the main goroutine: see Pdeathsig.
func startWorker(ctx context.Context, nice int) (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &worker{cmd: exec.CommandContext(ctx, self, workerCommand), stderr: &strings.Builder{}}
	w.cmd.Env = append(os.Environ(), "GOGC=400") // garbage collection would take CPU from the servers
	w.cmd.Stderr = w.stderr
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = json.NewDecoder(stdout)
	if err := startNice(w.cmd, nice); err != nil {
		return nil, fmt.Errorf("start a load generator: %w", err)
	}
	return w, nil
}

// startNice starts a program in a process group of its own, and with lower priority if nice is above 0.
func startNice(cmd *exec.Cmd, nice int) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	if nice > 0 {
		// The priority is set for the whole group, because by the id of a process it would reach only one thread. It is no error if
		// the program has already ended, or runs with the usual priority.
		_ = syscall.Setpriority(syscall.PRIO_PGRP, cmd.Process.Pid, nice)
	}
	return nil
}

func (w *worker) call(r request) (response, error) {
	var answer response
	err := json.NewEncoder(w.stdin).Encode(r)
	if err == nil {
		err = w.out.Decode(&answer)
	}
	if err != nil {
		return answer, fmt.Errorf("load generator, %s: %w %s", r.Do, err, w.stderr)
	}
	if answer.NotOffered {
		return answer, &skipped{"not offered"}
	}
	if answer.Error != "" {
		return answer, fmt.Errorf("load generator, %s: %s", r.Do, answer.Error)
	}
	return answer, nil
}

// close ends the worker and with it its connections.
func (w *worker) close() {
	w.stdin.Close()
	ended := time.AfterFunc(5*time.Second, func() { w.cmd.Process.Kill() })
	w.cmd.Wait()
	ended.Stop()
}

// work is the main loop of a worker.
func work(ctx context.Context, in io.Reader, out io.Writer) error {
	var g generator
	requests, responses := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var r request
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		answer, err := g.do(ctx, r)
		if err != nil {
			answer.Error, answer.NotOffered = err.Error(), refused(err)
		}
		if err := responses.Encode(answer); err != nil {
			return err
		}
	}
}
