// Command storm shows what a storm of reconnecting clients does to connected clients. It offers a gateway several times the
// handshakes that it can do, while 50 live clients go on with paced GETs. Each client of the storm gives up after a second.
//
// Gateway and engine share one core, and the load has another, so that the load's CPU is not mistaken for the gateway's. All
// processes listen on loopback and are stopped at the end. Only the ratios carry over to another machine.
package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	patience    = time.Second // after which a client of the storm gives up
	liveClients = 50
	livePace    = 20 * time.Millisecond
)

type options struct {
	sealane  string
	rsa      int
	times    float64
	duration time.Duration
	live, ca string
}

func main() {
	var o options
	flag.StringVar(&o.sealane, "sealane", "../bin/sealane", "the binary to measure")
	flag.IntVar(&o.rsa, "rsa", 0, "bits of an RSA key instead of ECDSA P-256; with 3072, signing is dear enough for one core of load to make ten times the capacity")
	flag.Float64Var(&o.times, "times", 10, "handshakes offered, of those that can be done")
	flag.DurationVar(&o.duration, "for", 30*time.Second, "how long the storm lasts")
	flag.StringVar(&o.live, "live", "", "for the program itself: be the live clients of this address")
	flag.StringVar(&o.ca, "ca", "", "for the program itself: their CA")
	flag.Parse()
	do := run
	if o.live != "" {
		do = func(o options) error { return runLive(o.live, o.ca) }
	}
	if err := do(o); err != nil {
		fmt.Fprintf(os.Stderr, "storm: error: %v\n", err)
		os.Exit(1)
	}
}

// lab is a gateway with its engine.
type lab struct {
	dir, addr, socket string
	cfg               *tls.Config
	gateway           int // pid
	stops             []func()
}

func run(o options) error {
	l := &lab{}
	defer func() {
		for _, stop := range slices.Backward(l.stops) {
			stop()
		}
	}()
	cert, err := l.start(o)
	if err != nil {
		return err
	}
	live, err := l.newLive(cert)
	if err != nil {
		return err
	}
	if err := stayOnSecondCore(); err != nil {
		return err
	}
	if err := beNice(); err != nil {
		return err
	}
	return l.measure(o, live)
}

func (l *lab) measure(o options, live *live) error {
	time.Sleep(2 * time.Second)
	_, err := live.take()
	time.Sleep(5 * time.Second)
	quiet, failed := live.take()
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	fmt.Printf("quiet:    live p50 %v, p99 %v, %d operations; gateway %d KiB\n", quiet.p50, quiet.p99, quiet.n, l.resident())
	capacity := l.capacity(5 * time.Second)
	busy, err := live.take()
	if err != nil {
		return err
	}
	fmt.Printf("capacity: %.0f handshakes per second, for clients that wait; live p50 %v, p99 %v\n", capacity, busy.p50, busy.p99)
	good, offered, peak := l.storm(capacity*o.times, o.duration)
	during, err := live.take()
	if err != nil {
		return err
	}
	seconds := o.duration.Seconds()
	fmt.Printf("storm:    %.0f offered per second, %.1f times the capacity; %.0f done within %v, %.2f of the capacity\n",
		float64(offered)/seconds, float64(offered)/seconds/capacity, float64(good)/seconds, patience, float64(good)/seconds/capacity)
	fmt.Printf("          live p50 %v, p99 %v, %.2f times the quiet one, %d operations; gateway at most %d KiB\n",
		during.p50, during.p99, float64(during.p99)/float64(quiet.p99), during.n, peak)
	time.Sleep(15 * time.Second)
	after, err := live.take()
	status, failed := l.status()
	fmt.Printf("after:    live p99 %v; gateway %d KiB; status %s\n", after.p99, l.resident(), status)
	return errors.Join(err, failed)
}

func (l *lab) start(o options) (cert []byte, err error) {
	if l.dir, err = os.MkdirTemp("", "storm"); err != nil {
		return nil, err
	}
	l.stops = append(l.stops, func() { os.RemoveAll(l.dir) })
	var key []byte
	if cert, key, err = l.identity(o.rsa); err != nil {
		return nil, err
	}
	engine := filepath.Join(l.dir, "e")
	if _, err = l.spawn("redis-server", "--port", "0", "--unixsocket", engine, "--save", "", "--maxclients", "15000", "--tcp-backlog", "4096", "--dir", l.dir); err != nil {
		return nil, err
	}
	if l.gateway, err = l.spawn(o.sealane, "gateway", "--dir", l.dir); err != nil {
		return nil, err
	}
	l.addr, l.socket = fmt.Sprintf("127.79.%d.1:6378", os.Getpid()%250), filepath.Join(l.dir, "gateway.sock")
	body, err := json.Marshal(map[string]any{"generation": 1, "engine": engine, "certificate": cert, "private_key": key, "connect": "x",
		"listeners": []any{map[string]any{"address": l.addr, "tls": true}}})
	if err != nil {
		return nil, err
	}
	for range 200 {
		time.Sleep(20 * time.Millisecond)
		if _, failed := os.Stat(engine); failed != nil {
			err = failed
		} else if _, err = l.ask(http.MethodPut, "/snapshot", body); err == nil {
			return cert, nil
		}
	}
	return nil, err
}

// identity makes a certificate; the load trusts it.
func (l *lab) identity(bits int) (certPEM, keyPEM []byte, err error) {
	var key crypto.Signer
	if bits > 0 {
		key, err = rsa.GenerateKey(rand.Reader, bits)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "storm"}, DNSNames: []string{"storm"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	l.cfg = &tls.Config{RootCAs: roots, ServerName: "storm", CurvePreferences: []tls.CurveID{tls.X25519}}
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// spawn starts a program on the first core.
func (l *lab) spawn(args ...string) (pid int, err error) {
	c := exec.Command("taskset", append([]string{"-c", "0"}, args...)...)
	if err := c.Start(); err != nil {
		return 0, err
	}
	l.stops = append(l.stops, func() { c.Process.Kill(); c.Wait() })
	return c.Process.Pid, nil
}

func (l *lab) ask(method, path string, body []byte) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", l.socket)
	}}}
	req, err := http.NewRequest(method, "http://gateway"+path, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	return string(text), err
}

func (l *lab) status() (string, error) { return l.ask(http.MethodGet, "/status", nil) }

// resident is the gateway's resident memory in KiB.
func (l *lab) resident() int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", l.gateway))
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(fields[1])
	return pages * os.Getpagesize() / 1024
}

// connect is the life of one client of the storm.
func (l *lab) connect() error {
	deadline := time.Now().Add(patience)
	raw, err := (&net.Dialer{Deadline: deadline}).Dial("tcp", l.addr)
	if err != nil {
		return err
	}
	defer raw.Close()
	raw.SetDeadline(deadline)
	c := tls.Client(raw, l.cfg)
	if _, err := io.WriteString(c, "PING\r\n"); err != nil {
		return err
	}
	reply := make([]byte, 7)
	if _, err := io.ReadFull(c, reply); err != nil {
		return err
	}
	if string(reply) != "+PONG\r\n" {
		return errors.New("no PONG")
	}
	return nil
}

// capacity is how many handshakes per second the gateway does for clients that connect in a closed loop.
func (l *lab) capacity(d time.Duration) float64 {
	var done atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range 16 {
		wg.Go(func() {
			for time.Since(start) < d {
				if l.connect() == nil {
					done.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return float64(done.Load()) / time.Since(start).Seconds()
}

// storm starts this many handshakes per second, whatever the state of the earlier ones.
func (l *lab) storm(rate float64, d time.Duration) (good, offered int64, peakKiB int) {
	var done atomic.Int64
	var wg sync.WaitGroup
	runtime.GOMAXPROCS(1)
	start, looked := time.Now(), time.Now()
	for time.Since(start) < d {
		for due := int64(time.Since(start).Seconds() * rate); offered < due; offered++ {
			wg.Go(func() {
				if l.connect() == nil {
					done.Add(1)
				}
			})
		}
		if time.Since(looked) > 100*time.Millisecond {
			looked, peakKiB = time.Now(), max(peakKiB, l.resident())
		}
		time.Sleep(time.Millisecond)
	}
	wg.Wait()
	return done.Load(), offered, peakKiB
}
