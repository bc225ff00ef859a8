package doctor

import (
	"fmt"
	"net"

	"github.com/sealane/sealane/internal/diagnosis"
)

// The texts of all faults are in internal/diagnosis. This file tells them what they are about.

// finding is what a step found.
type finding struct {
	result Result
	detail string
	fault  *diagnosis.Fault
}

func ok(format string, args ...any) finding {
	return finding{result: OK, detail: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) finding {
	return finding{result: Skipped, detail: fmt.Sprintf(format, args...)}
}

func (d *diagnoser) failed(k diagnosis.Kind, details diagnosis.Details, format string, args ...any) finding {
	return finding{Fail, fmt.Sprintf(format, args...), d.subject().Fault(k, details)}
}

func (d *diagnoser) warned(k diagnosis.Kind, details diagnosis.Details, format string, args ...any) finding {
	return finding{Warn, fmt.Sprintf(format, args...), d.subject().Fault(k, details)}
}

// subject is what is known of the connection by now.
func (d *diagnoser) subject() diagnosis.Subject {
	c := d.config
	s := diagnosis.Subject{
		Audience: diagnosis.Doctor, At: d.target(), Host: c.Host, Port: c.Port, TrustName: trustName(c), CAFile: c.CAFile,
		InstanceArgs: diagnosis.AnyInstance, DoctorCommand: d.command(c.Host), AuthFrom: c.Password.from, Timeout: c.Timeout, Now: c.Now(),
	}
	if d.handshake.state != nil {
		if i := diagnosis.IdentityOf(d.handshake.served()[0]); i != "" {
			s.InstanceArgs, s.OurServer = diagnosis.ArgumentsFor(i), true
		}
	}
	if i := c.Instance; i != nil {
		s.Instance, s.InstanceArgs, s.Identity, s.OurServer = i.ID, i.ID+i.Flags, i.Identity, true
	}
	if c.ClientCertificate != nil {
		s.ClientCert = c.ClientCertificate.Leaf
	}
	return s
}

// command is the command line that examines the same server by another name.
func (d *diagnoser) command(host string) string {
	ca := ""
	if d.config.CAFile != "" {
		ca = " --ca " + diagnosis.ShellWord(d.config.CAFile)
	}
	return "sealane doctor " + net.JoinHostPort(host, d.config.Port) + ca
}

// trustName is what sentences call what is trusted.
func trustName(c Config) string {
	switch {
	case c.CAFile != "":
		return diagnosis.Printable(c.CAFile)
	case c.Instance != nil:
		return "the bundle of instance " + c.Instance.ID
	}
	return "this machine's trust store"
}
