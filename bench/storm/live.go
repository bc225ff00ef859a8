package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// live is the traffic of clients that were connected before the storm. It runs in a process of its own with a higher priority than
// the storm: a client that gets no CPU would look like a server that does not answer.
type live struct {
	asks  io.Writer
	lines *bufio.Scanner
}

// figures are what happened since the previous figures.
type figures struct {
	p50, p99 time.Duration
	n        int
}

func (l *lab) newLive(certPEM []byte) (*live, error) {
	ca := filepath.Join(l.dir, "ca.pem")
	if err := os.WriteFile(ca, certPEM, 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := exec.Command("taskset", "-c", "1", self, "-live", l.addr, "-ca", ca)
	c.Stderr = os.Stderr
	asks, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	lines, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	l.stops = append(l.stops, func() { asks.Close(); c.Wait() })
	return &live{asks, bufio.NewScanner(lines)}, nil
}

func (v *live) take() (f figures, err error) {
	if _, err := io.WriteString(v.asks, "figures\n"); err != nil {
		return f, err
	}
	if !v.lines.Scan() {
		return f, errors.New("the live clients have ended")
	}
	_, err = fmt.Sscan(v.lines.Text(), (*int64)(&f.p50), (*int64)(&f.p99), &f.n)
	return f, err
}

// beNice lowers the priority of this process, the storm's, so that the live clients go first.
func beNice() error {
	tasks, err := filepath.Glob("/proc/self/task/*")
	for _, task := range tasks {
		id, _ := strconv.Atoi(filepath.Base(task))
		err = errors.Join(err, syscall.Setpriority(syscall.PRIO_PROCESS, id, 19))
	}
	return err
}

// stayOnSecondCore leaves the first core to the gateway and its engine.
func stayOnSecondCore() error {
	return output(exec.Command("taskset", "-a", "-c", "-p", "1", strconv.Itoa(os.Getpid())))
}

func output(c *exec.Cmd) error {
	text, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%v: %w: %s", c.Args, err, text)
	}
	return nil
}

// runLive is the main function of the live clients' process. It returns when its standard input ends.
func runLive(addr, caFile string) error {
	text, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	var mu sync.Mutex // guards times and failed
	var times []time.Duration
	var failed error
	for range liveClients {
		c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, ServerName: "storm"})
		if err != nil {
			return err
		}
		go func() {
			reply := make([]byte, len("$-1\r\n"))
			for next := time.Now(); ; next = next.Add(livePace) {
				time.Sleep(time.Until(next))
				// Latency counts from the time at which the request was due. Otherwise a stall would hide behind less load.
				_, err := io.WriteString(c, "GET live\r\n")
				if err == nil {
					_, err = io.ReadFull(c, reply)
				}
				mu.Lock()
				times, failed = append(times, time.Since(next)), errors.Join(failed, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		}()
	}
	for asked := bufio.NewScanner(os.Stdin); asked.Scan(); {
		mu.Lock()
		now, err := times, failed
		times = nil
		mu.Unlock()
		if err != nil || len(now) == 0 {
			return fmt.Errorf("live clients: %w", errors.Join(err, errors.New("they were cut")))
		}
		slices.Sort(now)
		fmt.Println(int64(now[len(now)/2]), int64(now[len(now)*99/100]), len(now))
	}
	return nil
}
