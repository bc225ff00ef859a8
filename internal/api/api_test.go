package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/api"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/plaintext"
	"github.com/sealane/sealane/internal/store"
)

// nodes is a Runtime whose nodes are nothing but their names.
type nodes struct {
	mu      sync.Mutex
	running map[string]bool
	hold    bool // Ensure waits until its context ends
	panics  bool // Engines does, which every create calls
	refuses bool // Ensure fails for the multiplexed path
	paths   map[instance.Name]gateway.DataPath
	status  gateway.Status // of every gateway
	ledger  ledger.Ledger  // likewise
	// plaintext are the clients without TLS of every gateway.
	plaintext plaintext.Account
	given     gateway.Snapshot // the last one
	exits     chan instance.Exit
	replicas
}

func (n *nodes) Engines() []instance.EngineBuild {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.panics {
		panic("a bug")
	}
	return []instance.EngineBuild{{Version: "REDIS_7_0", Patch: "7.0.15", TLS: true}, {Version: "REDIS_6_X", Patch: "6.2.13"}}
}

func (n *nodes) Ensure(ctx context.Context, node instance.Node, progress func(string)) error {
	progress("starting the engine")
	n.mu.Lock()
	n.given = node.Gateway
	hold, refuses := n.hold, n.refuses && node.Gateway.DataPath == gateway.Multiplexed
	n.running[node.ID] = !hold
	if !hold && !refuses {
		n.paths[node.Instance] = node.Gateway.DataPath
	}
	n.mu.Unlock()
	if refuses {
		return errors.New("gateway: invalid snapshot")
	}
	if hold {
		<-ctx.Done()
		return errors.New("interrupted")
	}
	return nil
}

func (n *nodes) Stop(context.Context, instance.Node, instance.StopOptions) error { return nil }

func (n *nodes) Remove(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.running, id)
	return nil
}

func (n *nodes) GatewayStatus(context.Context, string) (gateway.Status, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status, nil
}

func (n *nodes) Ledger(_ context.Context, id string) (ledger.Ledger, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !strings.HasSuffix(id, "-0") {
		return ledger.Ledger{Clients: n.readers}, nil
	}
	return n.ledger, nil
}

// path is the data path that an instance's gateway was last given.
func (n *nodes) PlaintextClients(_ context.Context, id string) (plaintext.Account, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !strings.HasSuffix(id, "-0") {
		return plaintext.Account{Since: n.plaintext.Since, Connected: n.plainReaders}, nil
	}
	return n.plaintext, nil
}

func (n *nodes) path(id string) gateway.DataPath {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.paths[instance.Name{Project: "p1", Location: "local", ID: id}]
}

func (n *nodes) Exits() <-chan instance.Exit { return n.exits }

func (n *nodes) set(change func(*nodes)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

const (
	token    = "sealane_the-right-token"
	patience = 30 * time.Second
)

// server is the API over both transports, with a real store.
type server struct {
	t       testing.TB
	manager *instance.Manager
	nodes   *nodes
	log     *lockedBuffer
	rest    *httptest.Server
	grpc    *grpc.ClientConn
	api     *api.Server
	tokens  *access.Tokens
	calls   calls
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var pools atomic.Uint32

// answerAtOnce is for tests whose operations don't end.
func answerAtOnce(cfg *api.Config) { cfg.Hold = time.Nanosecond }

func newServer(t testing.TB, options ...func(*api.Config)) *server {
	t.Helper()
	s := &server{t: t, log: &lockedBuffer{}, nodes: &nodes{
		running: make(map[string]bool), paths: make(map[instance.Name]gateway.DataPath), exits: make(chan instance.Exit),
		replicas: replicas{primaries: make(map[string]bool), served: make(map[string]instance.EngineRef)},
	}}
	key, err := pki.ParseMasterKey(pki.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	recordsKey, err := key.RecordsKey()
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"), recordsKey)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	log := slog.New(slog.NewTextHandler(s.log, nil))
	n := pools.Add(1)
	pool := netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(100 + os.Getpid()%30), byte(n), 0}), 24)
	s.manager, err = instance.New(instance.Config{
		Store: st, Runtime: s.nodes, Key: key, Addresses: instance.Addresses{Pool: pool}, Now: time.Now, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.manager.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.manager.Close)
	if s.tokens, err = access.Open(st, token, time.Now, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.tokens.Close)
	cfg := api.Config{Manager: s.manager, Tokens: s.tokens, Calls: &s.calls, Log: log}
	for _, option := range options {
		option(&cfg)
	}
	if s.api, err = api.New(cfg); err != nil {
		t.Fatal(err)
	}
	s.listen()
	return s
}

func (s *server) listen() {
	s.rest = httptest.NewServer(s.api.REST)
	s.t.Cleanup(s.rest.Close)
	l := bufconn.Listen(1 << 20)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.api.GRPC.Serve(l); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(func() {
		s.api.GRPC.Stop()
		serving.Wait()
	})
	var err error
	s.grpc, err = grpc.NewClient("passthrough:bufconn",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.grpc.Close() })
}

// authorized is the context of a gRPC call with the right token.
func authorized(t testing.TB) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
}

// object is a JSON object.
type object = map[string]any

// do calls REST with a path below the server and returns the HTTP status and the answer.
func (s *server) do(method, path, body string) (int, object) {
	s.t.Helper()
	return s.doAs("Bearer "+token, method, path, body)
}

func (s *server) doAs(authorization, method, path, body string) (int, object) {
	s.t.Helper()
	header := http.Header{}
	if authorization != "" {
		header.Set("Authorization", authorization)
	}
	return s.doWith(header, method, path, body)
}

func (s *server) doWith(header http.Header, method, path, body string) (int, object) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.rest.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header = header
	resp, err := s.rest.Client().Do(r)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var v object
	if err := json.Unmarshal(raw, &v); err != nil {
		s.t.Fatalf("%s %s: %d, not a JSON object: %q", method, path, resp.StatusCode, raw)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/json; charset=UTF-8" {
		s.t.Errorf("%s %s: content type %q", method, path, got)
	}
	return resp.StatusCode, v
}

// ok is do for what must succeed.
func (s *server) ok(method, path, body string) object {
	s.t.Helper()
	code, v := s.do(method, path, body)
	if code != http.StatusOK {
		s.t.Fatalf("%s %s: %d, %v", method, path, code, v)
	}
	return v
}

// refused checks the whole envelope of an error.
func (s *server) refused(code int, status string, v object, got int, words ...string) {
	s.t.Helper()
	e, _ := v["error"].(object)
	if got != code || e["code"] != float64(code) || e["status"] != status || len(v) != 1 {
		s.t.Errorf("answer %d, %v; want %d %s", got, v, code, status)
		return
	}
	message, _ := e["message"].(string)
	for _, w := range words {
		if !strings.Contains(message, w) {
			s.t.Errorf("message %q does not say %q", message, w)
		}
	}
}

// done waits for an operation and returns it.
func (s *server) done(op object) object {
	s.t.Helper()
	version := "v1"
	if op["metadata"].(object)["apiVersion"] == "v1beta1" {
		version = "v1beta1"
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if op = s.ok("GET", fmt.Sprintf("/%s/%s", version, op["name"]), ""); op["done"] == true {
			return op
		}
	}
	s.t.Fatalf("operation %v is not done", op)
	return nil
}

const (
	instances = "/v1/projects/p1/locations/local/instances"
	first     = instances + "/first"
	basic     = `{"tier":"BASIC","memorySizeGb":1}`
)

// create makes an instance and waits until it is ready.
func (s *server) create(id, body string) object {
	s.t.Helper()
	return s.done(s.ok("POST", instances+"?instanceId="+id, body))
}

// text is an object as JSON.
func text(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(raw)
}
