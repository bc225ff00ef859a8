package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/redis/apiv1/redispb"
	"github.com/spf13/cobra"

	sealanepb "github.com/sealane/sealane/gen/sealane/v1"
	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/doctor"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/sidecar"
)

// maxAuthFile is longer than any password.
const maxAuthFile = 64 << 10

func newDoctor(e *env) *cobra.Command {
	var d doctorFlags
	c := &cobra.Command{
		Use:   "doctor NAME|HOST:PORT",
		Short: "Say what is wrong with a connection",
		Long: `Connect as a client does, step by step, and say what is wrong and what to do about it. NAME is an instance, whose
address, CA bundle and AUTH string come from the server; HOST:PORT is any Redis with TLS, which needs no server.

The password comes from --auth-file or the environment variable SEALANE_AUTH, is sent over verified connections only,
and is never shown. The exit code is 1 when something is wrong, and 0 when all is well or there is a warning only.

docs/doctor.md lists everything that can be wrong.`,
		Example: "  sealane doctor first\n  sealane doctor 10.0.0.5:6378 --ca ca.pem\n" +
			"  SEALANE_AUTH=\"$(cat auth.txt)\" sealane doctor redis.example.com:6378 --ca ca.pem --format json",
		Args: exactly("NAME|HOST:PORT"),
		RunE: func(c *cobra.Command, args []string) error {
			return d.run(c, e, args[0])
		},
	}
	d.parent.add(c)
	d.format.add(c)
	c.Flags().Lookup("format").Usage = "table, json or yaml"
	c.Flags().StringVar(&d.ca, "ca", "", "PEM `FILE` that the client trusts (default: of NAME, what the server gives out; else what this machine trusts)")
	c.Flags().StringVar(&d.authFile, "auth-file", "", "`FILE` that holds the password")
	c.Flags().StringVar(&d.cert, "cert", "", "PEM `FILE` of a certificate for servers that want one from their clients, or env:NAME")
	c.Flags().StringVar(&d.key, "key", "", "PEM `FILE` of its key, or env:NAME (default: the file of --cert)")
	c.Flags().DurationVar(&d.timeout, "timeout", 5*time.Second, "how long each step may take")
	return c
}

type doctorFlags struct {
	parent       parentFlags
	format       formatFlag
	ca, authFile string
	cert, key    string
	timeout      time.Duration
}

// clientCertificate is the certificate for servers that ask for one, nil if there is none.
func (d *doctorFlags) clientCertificate() (*tls.Certificate, error) {
	cert, key, err := sidecar.ClientCertificate(d.cert, cmp.Or(d.key, d.cert))
	if f, ok := errors.AsType[*diagnosis.Fault](err); ok {
		return nil, withHint(errors.New(f.Sentence), "%s", f.Fix)
	}
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	return &pair, err
}

func (d *doctorFlags) run(c *cobra.Command, e *env, target string) error {
	if d.timeout <= 0 {
		return usage(c, "--timeout %s: want more than 0", d.timeout)
	}
	if c.Flags().Changed("ca") && d.ca == "" {
		return usage(c, "--ca %q: want the name of a file", d.ca)
	}
	if d.key != "" && d.cert == "" {
		return usage(c, "--key %q: goes with --cert", d.key)
	}
	cfg := doctor.Config{CAFile: d.ca, Timeout: d.timeout}
	var err error
	if d.cert != "" {
		if cfg.ClientCertificate, err = d.clientCertificate(); err != nil {
			return err
		}
	}
	if cfg.Password, err = d.password(); err != nil {
		return err
	}
	switch {
	case strings.ContainsAny(target, "/@"): // not shown: URLs hold passwords
		return usage(c, "want NAME or HOST:PORT, not a URL; a password belongs into --auth-file or SEALANE_AUTH")
	case strings.Contains(target, ":"):
		host, port, err := net.SplitHostPort(target)
		if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n == 0 || host == "" {
			return usage(c, "%q: want NAME or HOST:PORT, such as 10.0.0.5:6378 or [2001:db8::5]:6378", target)
		}
		for _, flag := range []string{"project", "region"} {
			if c.Flags().Changed(flag) {
				return usage(c, "--%s goes with NAME, and %s is HOST:PORT", flag, target)
			}
		}
		cfg.Host, cfg.Port = host, port
	default:
		if err := d.ask(c.Context(), e, target, &cfg); err != nil {
			return err
		}
	}
	return d.show(e, doctor.Diagnose(c.Context(), cfg))
}

// password is what the client would send.
func (d *doctorFlags) password() (doctor.Password, error) {
	var none doctor.Password
	if d.authFile == "" {
		return doctor.NewPassword(os.Getenv("SEALANE_AUTH"), "from SEALANE_AUTH"), nil
	}
	f, err := os.Open(d.authFile)
	if err != nil {
		return none, withHint(fmt.Errorf("--auth-file: %w", err), "name a file that holds the password")
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxAuthFile+1))
	if err != nil {
		return none, withHint(fmt.Errorf("--auth-file: %w", err), "name a file that holds the password")
	}
	auth := strings.TrimRight(string(raw), "\r\n")
	if auth == "" || len(raw) > maxAuthFile {
		return none, withHint(fmt.Errorf("--auth-file %s: has %d bytes, which is no password", d.authFile, len(raw)),
			"`sealane instances get-auth-string NAME > FILE` writes that of an instance")
	}
	return doctor.NewPassword(auth, "from "+d.authFile), nil
}

// ask fills in what the API knows of an instance.
func (d *doctorFlags) ask(ctx context.Context, e *env, id string, cfg *doctor.Config) error {
	api, err := newAPIClient(e)
	if err != nil {
		return err
	}
	i, _, err := api.instance(ctx, d.parent.instance(id))
	if err != nil {
		return err
	}
	if i.GetHost() == "" {
		return withHint(fmt.Errorf("instance %s is %s and has no address", id, i.GetState()), "wait until `sealane instances describe %s` says READY", id)
	}
	cfg.Host, cfg.Port = i.GetHost(), strconv.Itoa(int(i.GetPort()))
	cfg.Instance = &doctor.Instance{
		ID: id, Flags: d.parent.flags(), State: i.GetState().String(), Problem: i.GetStatusMessage(),
		Encrypted: i.GetTransitEncryptionMode() == redispb.Instance_SERVER_AUTHENTICATION,
		Identity:  pki.Identity(d.parent.project, d.parent.region, id),
		Bundle:    bundleOf(i), Date: api.date, Here: api.dateHere,
	}
	mode, _, err := api.transitEncryption(ctx, i.GetName(), nil)
	if err != nil {
		return err
	}
	if mode.GetMode() == sealanepb.TransitEncryption_PREFERRED {
		cfg.Port, cfg.Instance.Encrypted = strconv.Itoa(int(mode.GetTlsPort())), true
		fmt.Fprintf(e.err, "note: clients may still connect without TLS, at %s; `sealane encryption show %s%s` says whether that can be closed\n",
			net.JoinHostPort(cfg.Host, strconv.Itoa(int(mode.GetPlaintextPort()))), id, d.parent.flags())
	}
	if cfg.Instance.State != "READY" && cfg.Instance.Problem == "" {
		plane, _, err := api.dataPlane(ctx, i.GetName())
		if err != nil {
			return err
		}
		cfg.Instance.Problem = plane.GetProblem()
	}
	if cfg.Password.IsSet() || !i.GetAuthEnabled() {
		return nil
	}
	auth := &redispb.InstanceAuthString{}
	if _, err := api.call(ctx, http.MethodGet, "/v1/"+i.GetName()+"/authString", nil, nil, auth); err != nil {
		return err
	}
	cfg.Password = doctor.NewPassword(auth.GetAuthString(), doctor.FromAPI)
	return nil
}

// show prints a report. What is wrong is the command's error, with the fix as its hint.
func (d *doctorFlags) show(e *env, r doctor.Report) error {
	var raw bytes.Buffer
	j := json.NewEncoder(&raw)
	j.SetIndent("", "  ")
	j.SetEscapeHTML(false) // commands to paste are in it
	if err := j.Encode(r); err != nil {
		return err
	}
	err := d.format.print(e.out, raw.Bytes(), func(w io.Writer) {
		row(w, "STEP", "RESULT", "DETAIL")
		for _, s := range r.Steps {
			row(w, s.Name, string(s.Result), s.Detail)
		}
	})
	switch {
	case err != nil:
		return err
	case r.Result == doctor.Fail:
		return withHint(errors.New(r.Fault.Sentence), "%s", r.Fault.Fix)
	case d.format != "table":
		return nil
	case r.Result == doctor.Warn:
		_, err = fmt.Fprintf(e.out, "\nIt works, but %s.\nhint: %s\n", r.Fault.Sentence, r.Fault.Fix)
	default:
		_, err = fmt.Fprintf(e.out, "\nNothing is wrong with the connection to %s.\n", r.Target)
	}
	return err
}
