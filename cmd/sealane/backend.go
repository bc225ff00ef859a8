package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/backend"
)

// backendFlags are about a Redis that runs already. A create and an update have them.
type backendFlags struct {
	address, caFile, serverName, user, passwordFile string
	tls, plaintext                                  bool
}

// maxFile is more than any CA bundle or password has.
const maxFile = 1 << 20

func (f *backendFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.address, "backend", "", "a Redis that runs already: unix:/PATH, HOST:PORT, redis://HOST:PORT, or rediss://HOST:PORT with TLS")
	fl.BoolVar(&f.tls, "backend-tls", false, "connect to it with TLS, and verify its certificate")
	fl.StringVar(&f.caFile, "backend-ca-file", "", "the CA that signed its certificate, in PEM; '' for the CAs of the server's machine")
	fl.StringVar(&f.serverName, "backend-server-name", "", "the name in its certificate, where that is not the host of --backend")
	fl.BoolVar(&f.plaintext, "backend-plaintext", false, "connect without TLS although it may not be on the server's machine: what is sent can be read and changed on the way")
	fl.StringVar(&f.user, "backend-user", "", "the ACL user to log in as (Redis 6.0 or newer)")
	fl.StringVar(&f.passwordFile, "backend-password-file", "", "a file with its password, or - for standard input; '' for none")
}

// changed names the fields whose flags were given.
func (f *backendFlags) changed(c *cobra.Command) []string {
	return changedFields(c, map[string]string{
		"backend": "address", "backend-tls": "tls", "backend-ca-file": "ca", "backend-server-name": "serverName", "backend-plaintext": "plaintext",
		"backend-user": "user", "backend-password-file": "password",
	})
}

// backend reads the flags. What is certainly wrong with the address is said before anything is sent.
func (f *backendFlags) backend(e *env) (*sealanepb.Backend, error) {
	out := &sealanepb.Backend{Address: f.address, Tls: f.tls, ServerName: f.serverName, Plaintext: f.plaintext, User: f.user}
	if f.address != "" {
		if _, err := backend.Parse(f.address); errors.Is(err, backend.ErrPasswordInURL) {
			return nil, withHint(fmt.Errorf("--backend: %w", err), "leave it out of the address, and give it by --backend-password-file FILE (or - for standard input)")
		} else if err != nil {
			return nil, fmt.Errorf("--backend: %w", err)
		}
	}
	if f.caFile != "" {
		ca, err := readFile(f.caFile, nil)
		if err != nil {
			return nil, fmt.Errorf("--backend-ca-file: %w", err)
		}
		out.Ca = ca
	}
	if f.passwordFile != "" {
		text, err := readFile(f.passwordFile, e.in)
		if err != nil {
			return nil, fmt.Errorf("--backend-password-file: %w", err)
		}
		out.Password = strings.TrimRight(text, "\r\n")
	}
	return out, nil
}

// readFile reads a small file, or stdin for "-" where there is one.
func readFile(path string, stdin io.Reader) (string, error) {
	r := stdin
	if path != "-" || stdin == nil {
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer file.Close()
		r = file
	}
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return string(data), err
}

// checkFlags says what is wrong with the flags together.
func (f *backendFlags) checkFlags(c *cobra.Command) error {
	if given := f.changed(c); len(given) > 0 && !slices.Contains(given, "address") {
		return errors.New("the flags --backend-… are for an instance with a backend: give --backend ADDRESS too")
	}
	return nil
}

// backend shows an instance's backend; nil: it has none.
func (c *apiClient) backend(ctx context.Context, name string) (*sealanepb.Backend, []byte, error) {
	b := &sealanepb.Backend{}
	raw, err := c.call(ctx, http.MethodGet, "/v1/"+name+"/backend", nil, nil, b)
	if failed, ok := errors.AsType[*apiError](err); ok && failed.Code == http.StatusNotFound {
		return nil, nil, nil
	}
	return b, raw, err
}

// updateBackend changes how an instance's backend is reached, and returns once the gateway does so.
func (c *apiClient) updateBackend(ctx context.Context, name string, mask []string, in *sealanepb.Backend, force bool) error {
	query := url.Values{"updateMask": {strings.Join(mask, ",")}, "force": {strconv.FormatBool(force)}}
	_, err := c.call(ctx, http.MethodPatch, "/v1/"+name+"/backend", query, in, &sealanepb.Backend{})
	return err
}

// describeBackend writes a backend for people.
func describeBackend(w io.Writer, b *sealanepb.Backend) {
	way := "a Unix socket"
	switch {
	case b.GetTls() && b.GetCa() != "":
		way = "TLS, its own CA"
	case b.GetTls():
		way = "TLS, the machine's CAs"
	case b.GetPlaintext():
		way = "plaintext over the network"
	case !strings.HasPrefix(b.GetAddress(), "unix:"):
		way = "plaintext on this machine"
	}
	login := "no password"
	switch {
	case b.GetHasPassword() && b.GetUser() != "":
		login = "user " + b.GetUser()
	case b.GetHasPassword():
		login = "password"
	case b.GetClientsLogIn():
		login = "clients log in themselves"
	}
	row(w, "backend:", fmt.Sprintf("%s (%s; %s)", b.GetAddress(), way, login))
	if b.GetEngine() != "" {
		row(w, "backend is:", fmt.Sprintf("%s, %.1f MiB of data", b.GetEngine(), float64(b.GetUsedMemoryBytes())/(1<<20)))
	}
	for _, warning := range b.GetWarnings() {
		row(w, "warning:", warning)
	}
}
