package sidecarconfig

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/diagnosis"
	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/sidecar"
)

// SidecarLinks makes what the sidecar runs. get asks the server about links' instances.
func (c *Config) SidecarLinks(get sidecar.APIGet) ([]sidecar.Link, error) {
	if c.Cache != "" {
		if err := os.MkdirAll(c.Cache, 0o700); err != nil {
			return nil, hint.Wrap(fmt.Errorf("cache: %w", err), "name a folder that this user may write")
		}
	}
	var all []sidecar.Link
	for i := range c.Links {
		l := &c.Links[i]
		out := sidecar.Link{Name: l.Name, Listen: l.listen, Warm: *l.Warm, Local: l.local()}
		if l.Instance != "" {
			if c.Cache != "" {
				out.Cache = filepath.Join(c.Cache, strings.Join([]string{l.Project, l.Region, l.Instance}, "_")+".json")
			}
			out.TrustName, out.DoctorCommand = "the bundle of instance "+l.Instance, "sealane doctor "+l.Instance+diagnosis.ParentFlags(l.Project, l.Region)+l.certFlags()
			out.Source = sidecar.FromAPI(get, sidecar.Instance{Project: l.Project, Region: l.Region, ID: l.Instance, WithPassword: l.Auth == "auto"})
		} else {
			out.Every = 3 * time.Second
			out.TrustName, out.DoctorCommand = l.CA, "sealane doctor "+l.Address+" --ca "+diagnosis.ShellWord(l.CA)+l.certFlags()
			out.Source = l.fromFiles()
		}
		if !l.verifiesName() {
			out.Warnings = append(out.Warnings, "the name in the server's certificate is not checked (verify_name: false): whoever has a certificate of the same CAs is believed")
		}
		if !l.listen.IsLoopback() {
			out.Warnings = append(out.Warnings, "clients from other machines are let in, in the clear (allow_non_loopback)")
		}
		all = append(all, out)
	}
	return all, nil
}

func (l *Link) verifiesName() bool { return l.VerifyName == nil || *l.VerifyName }

// password is what file: and env: lead to.
func (l *Link) password() (string, error) {
	kind, value, _ := strings.Cut(l.Auth, ":")
	if kind == "env" {
		return os.Getenv(value), nil
	}
	return sidecar.Password(value)
}

func (l *Link) fromFiles() sidecar.Source {
	return sidecar.Files(sidecar.Server{Address: l.Address, Identity: l.ServerIdentity, Name: l.ServerName}, l.CA)
}

// local adds what only this machine knows, also to what the cache has: the configuration may be another since.
func (l *Link) local() func(*sidecar.Server) error {
	return func(s *sidecar.Server) (err error) {
		s.ClientsLogIn, s.AnyName = l.Auth == "none", !l.verifiesName()
		if l.Auth != "none" && l.Auth != "auto" {
			s.User = l.User
			if s.Password, err = l.password(); err != nil {
				return err
			}
		}
		if l.Cert != "" {
			s.Certificate, s.Key, err = sidecar.ClientCertificate(l.Cert, l.Key)
		}
		return err
	}
}

// certFlags are those of `sealane doctor` for the client certificate.
func (l *Link) certFlags() string {
	if l.Cert == "" {
		return ""
	}
	return " --cert " + diagnosis.ShellWord(l.Cert) + " --key " + diagnosis.ShellWord(l.Key)
}
