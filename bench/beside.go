package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// besideGateway starts a gateway and returns its address. The target is the program in front of it, beside the client: the CPU
// and memory of gateway and engine do not count as the target's.
func (s *site) besideGateway(dataPath string) (server string, err error) {
	if err := s.startSealane(dataPath); err != nil {
		return "", err
	}
	return s.standBeside()
}

// standBeside makes the server that was just started the one behind the target, and returns its address.
func (s *site) standBeside() (server string, err error) {
	port, err := freePort()
	if err != nil {
		return "", err
	}
	server = s.target.addr
	s.target.addr, s.target.caFile, s.target.beside = "127.0.0.1:"+port, "", true
	s.target.server, s.target.proxy, s.target.engine = s.target.proxy, nil, nil
	return server, nil
}

// startBeside starts the program beside the client, a sidecar or stunnel.
func (s *site) startBeside(program string, args ...string) error {
	pid, err := s.spawn(syscall.SIGTERM, program, args...)
	if err != nil {
		return err
	}
	s.target.proxy = []int{pid}
	return s.answers("tcp", s.target.addr)
}

func startStunnelSide(s *site) error {
	server, err := s.besideGateway("transparent")
	if err != nil {
		return err
	}
	// stunnel verifies the server, as the sidecar does, and resumes sessions by default.
	conf := fmt.Sprintf(`foreground = yes
pid =
syslog = no
debug = err
[redis]
client = yes
accept = %s
connect = %s
CAfile = %s
verifyChain = yes
checkIP = 127.0.0.1
sslVersionMin = TLSv1.3
`, s.target.addr, server, s.lab.ca)
	file := filepath.Join(s.dir, "stunnel.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return err
	}
	return s.startBeside("stunnel", file)
}

func (s *site) startSidecar(dataPath string) error {
	server, err := s.besideGateway(dataPath)
	if err != nil {
		return err
	}
	return s.sidecarTo(server)
}

func startSidecarNative(s *site) error {
	if err := startNative(s); err != nil {
		return err
	}
	server, err := s.standBeside()
	if err != nil {
		return err
	}
	s.target.server = nil // no gateway
	return s.sidecarTo(server)
}

func (s *site) sidecarTo(server string) error {
	return s.startBeside(s.lab.sealane, "sidecar", "--address", server, "--ca", s.lab.ca, "--listen", s.target.addr, "--ops", "none")
}

// visitors is how many clients connect at a time. They keep the target busy, since a target that mostly waits shows nothing of
// its CPU.
const visitors = 32

// visits is a load of connections that each send one PING, a few at a time, without TLS, as a script or a PHP page does.
func visits(ctx context.Context, b *bench, t *target) (sample, error) {
	if t.caFile != "" {
		return nil, &skipped{"see handshakes"}
	}
	w, err := b.worker(ctx, b.nice)
	if err != nil {
		return nil, err
	}
	defer w.close()
	r := request{Do: "visits", Addr: t.addr, Clients: visitors}
	s, _, err := measureVisits(w, r, b.runFor, t)
	return s, err
}
