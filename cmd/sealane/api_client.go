package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"cloud.google.com/go/redis/apiv1/redispb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/access"
	"github.com/sealane/sealane/internal/api"
	"github.com/sealane/sealane/internal/authz"
	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/sidecarconfig"
)

// apiClient calls the REST API, as any other client would.
type apiClient struct {
	headers map[string]string // further headers of each request
	base    string
	token   string
	http    http.Client

	// date is the server's clock by its last answer, and dateHere this machine's clock when that answer came. Both are zero before.
	date, dateHere time.Time
}

// newAPIClient finds the server and the token: environment first, then what this machine's server left in its
// state folder.
func newAPIClient(e *env) (*apiClient, error) {
	c := &apiClient{base: os.Getenv("SEALANE_API"), token: os.Getenv("SEALANE_TOKEN")}
	c.http.Timeout = time.Minute
	if c.base == "" {
		c.base = "http://127.0.0.1:7378"
		if info, err := e.state().ReadServerInfo(); err == nil {
			c.base = info.HTTP
		}
	}
	if u, err := url.Parse(c.base); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("SEALANE_API %q: want http://HOST:PORT or https://HOST:PORT", c.base)
	}
	c.base = strings.TrimSuffix(c.base, "/")
	if c.token == "" {
		text, err := os.ReadFile(e.state().AdminToken())
		if err != nil {
			return nil, withHint(fmt.Errorf("no token: SEALANE_TOKEN is not set, and the one in the state folder can't be read: %w", err),
				"start the server with `sealane serve`, name its folder with --state, or set SEALANE_TOKEN")
		}
		c.token = strings.TrimSpace(string(text))
	}
	return c, nil
}

// apiError is an answer of the API that is an error.
type apiError struct {
	Code    int               `json:"code"`
	Status  string            `json:"status"`
	Message string            `json:"message"`
	Details []json.RawMessage `json:"details"`
}

func (e *apiError) Error() string { return e.Message }

// errorInfo is the error's google.rpc.ErrorInfo, by which the API says for programs why it refused something; empty if there
// is none, as from a server that is older.
func (e *apiError) errorInfo() (info struct {
	Reason   instance.Reason   `json:"reason"`
	Metadata map[string]string `json:"metadata"`
}) {
	for _, raw := range e.Details {
		var detail struct {
			Type   string `json:"@type"`
			Domain string `json:"domain"`
		}
		if json.Unmarshal(raw, &detail) == nil && detail.Type == "type.googleapis.com/google.rpc.ErrorInfo" &&
			(detail.Domain == api.ErrorDomain || detail.Domain == access.Service) &&
			json.Unmarshal(raw, &info) == nil {
			return info
		}
	}
	return info
}

func (e *apiError) Hint() string {
	switch e.errorInfo().Reason {
	case instance.DiskFull:
		return "`df` of the server's state folder shows how full its disk is; the server's log has the details"
	case instance.StateNotWritable:
		return "`findmnt -T` and `ls -ld` of the server's state folder show why it can't be written; the server's log has the details"
	}
	switch e.Status {
	case "UNAUTHENTICATED":
		if reason := string(e.errorInfo().Reason); reason == authz.TokenExpired || reason == authz.TokenRevoked {
			return "set SEALANE_TOKEN to a token that is in force; whoever administers the server makes one with `sealane tokens create`"
		}
		return "run as the user who runs `sealane serve`, or set SEALANE_TOKEN to a token that `sealane tokens create` has made"
	case "PERMISSION_DENIED":
		return deniedHint(access.Permission(e.errorInfo().Metadata["permission"]))
	case "NOT_FOUND":
		return "`sealane instances list --region -` shows what there is; --project and --region say where to look"
	case "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL":
		return "the server's log has the details"
	case "ALREADY_EXISTS":
		return "choose another name, or delete the old one with `sealane instances delete`"
	}
	return ""
}

// deniedHint says which roles would do.
func deniedHint(p access.Permission) string {
	var roles []string
	for _, r := range access.RolesWith(p) {
		roles = append(roles, string(r))
	}
	if len(roles) == 0 {
		return "check the names of project, region and instance, and which token SEALANE_TOKEN holds"
	}
	return fmt.Sprintf("check the names of project, region and instance; if they are right, the token's roles are too few or are for somewhere else: %s %s it",
		strings.Join(roles, ", "), map[bool]string{true: "has", false: "have"}[len(roles) == 1])
}

// call sends a request and decodes the answer into out. It returns the answer's own JSON.
func (c *apiClient) call(ctx context.Context, method, path string, query url.Values, in, out proto.Message) ([]byte, error) {
	var body io.Reader
	if in != nil {
		raw, err := protojson.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(raw)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	for name, value := range c.headers {
		req.Header.Set(name, value)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, withHint(fmt.Errorf("cannot reach the server at %s: %w", c.base, errors.Unwrap(err)),
			"start it with `sealane serve`, or set SEALANE_API to where it is")
	}
	defer resp.Body.Close()
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		c.date, c.dateHere = date, time.Now()
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", c.base, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, readAPIError(resp, raw)
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, out); err != nil {
		return nil, fmt.Errorf("the answer of %s is not what was expected: %w", c.base, err)
	}
	return raw, nil
}

func readAPIError(resp *http.Response, raw []byte) error {
	var envelope struct{ Error *apiError }
	if json.Unmarshal(raw, &envelope) == nil && envelope.Error != nil {
		return envelope.Error
	}
	return withHint(fmt.Errorf("%s answers %s, which is not the Sealane API", resp.Request.URL.Host, resp.Status), "check SEALANE_API")
}

// parentFlags are --project and --region.
type parentFlags struct{ project, region string }

func (p parentFlags) parent() string { return "projects/" + p.project + "/locations/" + p.region }
func (p parentFlags) instance(id string) string {
	return p.parent() + "/instances/" + id
}

// flags are the flags by which another command finds the same project and region; none for the default ones.
func (p parentFlags) flags() string { return diagnosis.ParentFlags(p.project, p.region) }

// sidecarEnv has the same as environment variables of a sidecar, in the form that goes before its command.
func (p parentFlags) sidecarEnv() string {
	var text string
	if p.project != "local" {
		text += sidecarconfig.EnvName("project") + "=" + p.project + " "
	}
	if p.region != "local" {
		text += sidecarconfig.EnvName("region") + "=" + p.region + " "
	}
	return text
}

func (c *apiClient) instance(ctx context.Context, name string) (*redispb.Instance, []byte, error) {
	i := &redispb.Instance{}
	raw, err := c.call(ctx, http.MethodGet, "/v1/"+name, nil, nil, i)
	return i, raw, err
}

// dataPlane shows what serves an instance's clients.
func (c *apiClient) dataPlane(ctx context.Context, name string) (*sealanepb.DataPlane, []byte, error) {
	p := &sealanepb.DataPlane{}
	raw, err := c.call(ctx, http.MethodGet, "/v1/"+name+"/dataPlane", nil, nil, p)
	return p, raw, err
}

// updateDataPlane changes how an instance is served, and returns once it is served in the new way.
func (c *apiClient) updateDataPlane(ctx context.Context, name string, mask []string, in *sealanepb.DataPlane) error {
	_, err := c.call(ctx, http.MethodPatch, "/v1/"+name+"/dataPlane", url.Values{"updateMask": {strings.Join(mask, ",")}}, in, &sealanepb.DataPlane{})
	return err
}

// certificates shows an instance's certificates.
func (c *apiClient) certificates(ctx context.Context, name string) (*sealanepb.InstanceCertificates, []byte, error) {
	out := &sealanepb.InstanceCertificates{}
	raw, err := c.call(ctx, http.MethodGet, "/v1/"+name+"/certificates", nil, nil, out)
	return out, raw, err
}

// clients lists an instance's clients, with what they have shown of its CAs.
func (c *apiClient) clients(ctx context.Context, name string) (*sealanepb.ListClientsResponse, []byte, error) {
	out := &sealanepb.ListClientsResponse{}
	raw, err := c.call(ctx, http.MethodGet, "/v1/"+name+"/certificates:clients", nil, nil, out)
	return out, raw, err
}

// changeCertificates changes an instance's certificates, and returns once the new ones are served.
func (c *apiClient) changeCertificates(ctx context.Context, name, verb string, in proto.Message) (*sealanepb.InstanceCertificates, []byte, error) {
	out := &sealanepb.InstanceCertificates{}
	raw, err := c.call(ctx, http.MethodPost, "/v1/"+name+"/certificates:"+verb, nil, in, out)
	return out, raw, err
}

// wait polls an operation until it is done and tells progress what it is doing.
func (c *apiClient) wait(ctx context.Context, op *longrunningpb.Operation, progress func(string)) error {
	delay := 25 * time.Millisecond
	for !op.GetDone() {
		metadata := &redispb.OperationMetadata{}
		if op.GetMetadata().UnmarshalTo(metadata) == nil && metadata.GetStatusDetail() != "" {
			progress(metadata.GetStatusDetail())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
		delay = min(delay*3/2, time.Second)
		next := &longrunningpb.Operation{}
		if _, err := c.call(ctx, http.MethodGet, "/v1/"+op.GetName(), nil, nil, next); err != nil {
			return err
		}
		op = next
	}
	if e := op.GetError(); e != nil {
		return withHint(errors.New(e.GetMessage()), "`sealane operations describe %s` shows it again; mend the cause and try again", lastPart(op.GetName()))
	}
	return nil
}

func lastPart(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
