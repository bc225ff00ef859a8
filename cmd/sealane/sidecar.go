package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealane/sealane/internal/sidecarconfig"
)

func newSidecar(e *env) *cobra.Command {
	var f sidecarFlags
	c := &cobra.Command{
		Use:   "sidecar",
		Short: "Give clients without TLS a plaintext port on this machine, and do the TLS for them",
		Long: `Listen on this machine without TLS, and carry what clients say to a Redis with TLS: an instance of Sealane's, whose
address, CA bundle and AUTH string come from the server, or any other. The server is always verified. What is trusted
is kept new, and a change of certificates, CAs, AUTH or address moves clients to fresh connections without their
noticing. Clients that connect for one request pay no handshake.

The flags describe one link. --config FILE may have several, and has fields for everything else; each of them is also an
environment variable: SEALANE_SIDECAR_ and the field's name, as in SEALANE_SIDECAR_DRAIN=20s. A flag counts more than the
environment, and that more than the file.

It prints "ready" when requests are served. SIGTERM and Ctrl-C let clients finish, after the time of drain if that is set; a second
one ends it at once.

docs/sidecar.md lists every field, says what survives what, and lists everything that the sidecar may say.`,
		Example: "  sealane sidecar --instance first\n  sealane sidecar --address redis.example.com:6378 --ca ca.pem --auth file:/run/secrets/redis\n" +
			"  SEALANE_SIDECAR_LISTEN_MODE=0660 sealane sidecar --instance first --listen unix:/run/redis.sock\n" +
			"  sealane sidecar --config sidecar.yaml\n  sealane sidecar --from-stunnel /etc/stunnel/redis.conf > sidecar.yaml",
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if f.fromStunnel != "" {
				if n := givenBeside(c, "from-stunnel"); n != "" {
					return usage(c, "--%s does not go with --from-stunnel, which only prints a configuration", n)
				}
				return printStunnel(e, f.fromStunnel)
			}
			cfg, err := f.read(c, os.Environ())
			if err != nil {
				return err
			}
			return runSidecar(c.Context(), e, cfg)
		},
	}
	f.add(c)
	c.AddCommand(newSidecarWait(e), newSidecarQuit(e))
	return c
}

type sidecarFlags struct{ file, fromStunnel string }

func (f *sidecarFlags) add(c *cobra.Command) {
	sidecarconfig.AddFlags(c.Flags())
	c.Flags().StringVar(&f.file, "config", "", "configuration `FILE` (YAML) with one or more links, and everything that has no flag")
	c.Flags().StringVar(&f.fromStunnel, "from-stunnel", "", "print the configuration that does what this stunnel configuration `FILE` does, and end")
}

// givenBeside is a flag that was given beside another one, "" for none. --state goes with every command.
func givenBeside(c *cobra.Command, other string) string {
	name := ""
	c.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != other && f.Name != "state" {
			name = f.Name
		}
	})
	return name
}

// read returns what flags, environment and file say.
func (f *sidecarFlags) read(c *cobra.Command, environ []string) (*sidecarconfig.Config, error) {
	if problem, fix := sidecarconfig.GoneFlags(c.Flags()); problem != "" {
		return nil, &usageError{withHint(errors.New(problem), "%s", fix)}
	}
	cfg, err := sidecarconfig.Read(sidecarconfig.Sources{File: f.file, Environ: environ, Flags: sidecarconfig.Given(c.Flags())})
	wrong, isWrong := errors.AsType[*sidecarconfig.Error](err)
	switch {
	case err == nil:
		return cfg, nil
	case isWrong && f.file == "":
		return nil, usage(c, "%w", wrong)
	case isWrong:
		return nil, withHint(fmt.Errorf("--config %s: %w", f.file, wrong), "docs/sidecar.md lists every field")
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission):
		return nil, withHint(fmt.Errorf("--config: %w", err), "name a file that is there, or say what you want by flags")
	}
	return nil, withHint(fmt.Errorf("--config %s: %w", f.file, err), "docs/sidecar.md lists every field")
}
