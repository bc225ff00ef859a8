package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/ops"
)

// maxReply bounds what a Client reads: a Status, a full ledger, or an error that lists every problem of a snapshot.
const maxReply = 16 << 20

// listenAdmin is called with the folder locked, so a socket that is there belongs to nobody.
func listenAdmin(dir string) (net.Listener, error) {
	path := Socket(dir)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("open admin socket %s: the path has %d bytes, %d are possible: choose a shorter folder", path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace admin socket: %w", err)
	}
	// Linux gives the file the mode of the unbound socket, less the umask: it is 0600 from the start.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, failed)
	}}
	ln, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	return ln, nil
}

func (g *gateway) adminServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /snapshot", func(w http.ResponseWriter, r *http.Request) {
		s, err := decodeSnapshot(http.MaxBytesReader(w, r.Body, maxSnapshotBytes))
		if err != nil {
			reply(w, nil, fmt.Errorf("%w: %w", ErrInvalid, err))
			return
		}
		if err := g.snapshots.apply(s); err != nil {
			reply(w, nil, err)
			return
		}
		reply(w, g.status(), nil)
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { reply(w, g.status(), nil) })
	mux.HandleFunc("GET /ledger", func(w http.ResponseWriter, _ *http.Request) { reply(w, g.ledger(), nil) })
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, r *http.Request) {
		// Draining may take longer than a request may take to arrive. Without this, ReadTimeout would cut off whoever waits for it.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		g.lifetime.requestStop()
		select {
		case <-g.lifetime.drained:
			reply(w, struct{}{}, nil)
		case <-r.Context().Done():
		}
	})
	s := ops.NewServer(mux)
	// One request per connection: at the end of Run none is left waiting.
	s.SetKeepAlivesEnabled(false)
	return s
}

// refusals maps what apply refuses to HTTP and back.
var refusals = []struct {
	err  error
	code int
}{
	{ErrInvalid, http.StatusBadRequest},
	{ErrStale, http.StatusConflict},
	{ErrStopping, http.StatusServiceUnavailable},
}

type failureBody struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, body any, err error) {
	code := http.StatusOK
	if err != nil {
		code, body = http.StatusInternalServerError, failureBody{err.Error()}
		for _, r := range refusals {
			if errors.Is(err, r.err) {
				code = r.code
			}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // a caller who has gone needs no answer
}

func encodeSnapshot(s Snapshot) ([]byte, error) {
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	return append(data, '\n'), nil
}

// Client talks to a running gateway. It may be used from several goroutines, does not retry, and keeps no connection.
type Client struct{ http http.Client }

// NewClient returns a Client of the gateway in dir, which need not run yet.
func NewClient(dir string) *Client {
	return &Client{http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", Socket(dir))
		},
	}}}
}

// Apply hands a snapshot over. When it returns nil the snapshot is on disk and serves; otherwise the one before does, and
// the error, which is ErrInvalid, ErrStale or ErrStopping where it is one of them, says why. (Where ctx ended or the
// gateway died meanwhile, ask Status.) Applying what serves already is no error.
func (c *Client) Apply(ctx context.Context, s Snapshot) (Status, error) {
	data, err := encodeSnapshot(s)
	if err != nil {
		return Status{}, err
	}
	var st Status
	if err := c.do(ctx, http.MethodPut, "/snapshot", data, &st); err != nil {
		return Status{}, fmt.Errorf("apply snapshot %d: %w", s.Generation, err)
	}
	return st, nil
}

// Status asks how the gateway is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var st Status
	if err := c.do(ctx, http.MethodGet, "/status", nil, &st); err != nil {
		return Status{}, fmt.Errorf("gateway status: %w", err)
	}
	return st, nil
}

// Ledger asks what is known of clients.
func (c *Client) Ledger(ctx context.Context) (ledger.Ledger, error) {
	var l ledger.Ledger
	if err := c.do(ctx, http.MethodGet, "/ledger", nil, &l); err != nil {
		return ledger.Ledger{}, fmt.Errorf("gateway's ledger: %w", err)
	}
	return l, nil
}

// Stop returns when the gateway has drained; its process ends right after. If ctx ends first, the gateway stops all the same.
func (c *Client) Stop(ctx context.Context) error {
	if err := c.do(ctx, http.MethodPost, "/stop", nil, &struct{}{}); err != nil {
		return fmt.Errorf("stop gateway: %w", err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://gateway"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxReply))
	if err != nil {
		return err
	}
	if res.StatusCode == http.StatusOK {
		return json.Unmarshal(data, into)
	}
	var f failureBody
	if err := json.Unmarshal(data, &f); err != nil || f.Error == "" {
		return fmt.Errorf("%s %s: %s", method, path, res.Status)
	}
	for _, r := range refusals {
		if res.StatusCode == r.code {
			return refused{r.err, f.Error}
		}
	}
	return errors.New(f.Error)
}

// refused is the gateway's own text, which says what it is already, and the sentinel behind it.
type refused struct {
	is   error
	text string
}

func (r refused) Error() string { return r.text }
func (r refused) Unwrap() error { return r.is }
