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
	"time"

	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/plaintext"
)

// maxReply bounds what a Client reads: a Status, a full ledger, or an error that lists every problem of a snapshot.
const maxReply = 16 << 20

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
//
// A snapshot with another Engine moves all clients there (see Hold). When Apply returns nobody uses the engine before any more. It
// works without a Hold too, where that engine is gone: then a client that waits for a reply is disconnected, the others stay.
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

// Hold makes the gateway keep clients' requests from the engine, which comes before a snapshot with another engine. It returns when
// nothing is in flight any more: every request that the engine has been given is answered. Clients that wait in a blocking command
// (BLPOP), subscribers and monitors don't count, because the engine does nothing for them while nobody else asks for anything. The engine
// must go on answering until the snapshot is applied.
//
// A transaction may go on for a quarter of a second; one that takes longer fails at EXEC if the engine changes. What is still in
// flight after a few seconds, or half of limit if that is less, is named in the error, which is ErrBusy then: the hold goes on, and
// the caller may call Hold again, Release, or apply the snapshot, which ends the connections of those clients.
//
// A hold ends when a snapshot with another engine has been applied and its clients are there, by Release, when the gateway ends, and after
// limit in any case: then clients go on with the engine that there is, so a caller has to be sure that its hold is still on when it
// promotes another one (Status.Hold.Until). During a hold, Hold sets a new limit, counted from now.
func (c *Client) Hold(ctx context.Context, limit time.Duration) (Status, error) {
	data, err := json.Marshal(holdBody{limit})
	if err != nil {
		return Status{}, err
	}
	var st Status
	if err := c.do(ctx, http.MethodPost, "/hold", data, &st); err != nil {
		return Status{}, fmt.Errorf("hold clients' requests: %w", err)
	}
	return st, nil
}

// Release ends a hold. It is no error if there is none.
func (c *Client) Release(ctx context.Context) (Status, error) {
	var st Status
	if err := c.do(ctx, http.MethodPost, "/release", nil, &st); err != nil {
		return Status{}, fmt.Errorf("release clients' requests: %w", err)
	}
	return st, nil
}

// Plaintext asks what is known of the clients without TLS.
func (c *Client) Plaintext(ctx context.Context) (plaintext.Account, error) {
	var a plaintext.Account
	if err := c.do(ctx, http.MethodGet, "/plaintext", nil, &a); err != nil {
		return plaintext.Account{}, fmt.Errorf("gateway's clients without TLS: %w", err)
	}
	return a, nil
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
			return refusal{r.err, f.Error}
		}
	}
	return errors.New(f.Error)
}

// refusal is an error of apply or hold as it has come over the admin socket. text is the gateway's own and already names the kind of error, so
// that Error does not repeat it.
type refusal struct {
	kind error // one of refusals
	text string
}

func (r refusal) Error() string { return r.text }
func (r refusal) Unwrap() error { return r.kind }
