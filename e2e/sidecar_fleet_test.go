package e2e_test

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The client libraries do everything that they do with TLS also without it, through a sidecar that has the password.
func TestClientLibrariesThroughASidecar(t *testing.T) {
	t.Parallel()
	testdata, err := filepath.Abs(filepath.Join("testdata", "clients"))
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, serverOptions{})
	plain := slices.DeleteFunc(slices.Clone(steps), func(step string) bool { return step == "no connection without the CA" })
	for _, library := range libraries(s, testdata) {
		t.Run(library.name, func(t *testing.T) {
			c := library.command(t)
			name := strings.ToLower(library.name)
			s.create(name, "--enable-auth")
			host, port, _ := strings.Cut(s.startSidecar("--instance", name).address, ":")
			c.Env = append(c.Env, "HOST="+host, "PORT="+port, "CA=", "AUTH=")
			tellStory(t, s, c, plain)
			s.cli("instances", "delete", name, "--quiet")
		})
	}
}

// fleet is a program that runs many clients until it is told to end, and then says how much they did. It ends at once if a client
// sees an error, a wrong reply, or another connection than its first.
type fleet struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	err *output
}

func startFleet(t *testing.T, c *exec.Cmd, address string, n int) *fleet {
	t.Helper()
	host, port, _ := strings.Cut(address, ":")
	c.Env = append(c.Env, "HOST="+host, "PORT="+port, "CA=", "AUTH=", fmt.Sprint("CLIENTS=", n))
	f := &fleet{cmd: c, err: newOutput()}
	c.Stderr = f.err
	var err error
	if f.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill() })
	f.out = bufio.NewScanner(out)
	if !f.out.Scan() || f.out.Text() != "all at work" {
		c.Wait()
		t.Fatalf("%s: %q\n%s", c, f.out.Text(), f.err)
	}
	return f
}

// end ends the program and returns its last output.
func (f *fleet) end(t *testing.T) string {
	t.Helper()
	f.in.Close()
	said := ""
	for f.out.Scan() {
		said = f.out.Text()
	}
	if err := f.cmd.Wait(); err != nil {
		t.Errorf("%s: %v, %s\n%s", f.cmd, err, said, f.err)
	}
	return said
}

// Clients of three libraries that never rest see no error, no reply of another client and no second connection, whatever changes
// behind the sidecar. SEALANE_ROTATIONS=all makes it 200 clients, 20 leaf rotations, 2 CA generations, 5 passwords and 5 gateways.
func TestFleetBehindASidecarNoticesNothing(t *testing.T) {
	t.Parallel()
	testdata, err := filepath.Abs(filepath.Join("testdata", "clients"))
	if err != nil {
		t.Fatal(err)
	}
	clients, leaves, rounds, cas := 48, 4, 2, 1
	if allRotations {
		clients, leaves, rounds, cas = 200, 20, 5, 2
	}
	s := startServer(t, serverOptions{})
	s.create("first", "--enable-auth")
	side := s.startSidecar("--instance", "first")
	third := clients / 3
	fleets := []*fleet{
		startFleet(t, node(t, s, testdata, "fleet.mjs"), side.address, third),
		startFleet(t, python(t, s, "redis", filepath.Join(testdata, "fleet.py")), side.address, third),
	}
	var streams []*stream
	for i := range clients - 2*third {
		streams = append(streams, side.stream(fmt.Sprint("go:", i), nil))
	}
	progress := func() { streams[0].wantProgress(t) }
	start := time.Now()
	for round := range rounds {
		for range leaves / rounds {
			s.cli("certificates", "rotate", "first")
		}
		progress()
		// There is no grace, so new connections can't use the old password any more.
		s.cli("instances", "rotate-auth-string", "first", "--grace", "0s")
		progress()
		s.replaceGateway(syscall.SIGTERM)
		progress()
		if round < cas {
			s.cli("ca", "rotate", "first")
			s.cli("ca", "activate", "first", "--force")
			progress()
			side.wantTrusted(s.bundle("first")) // the sidecar saw another certificate, and so asked for the bundle
			s.cli("ca", "retire", "first", "--force")
			progress()
		}
	}
	for _, st := range streams {
		st.wantUnnoticed(t)
	}
	for _, f := range fleets {
		t.Log(f.end(t))
	}
	t.Logf("%d clients in %v", clients, time.Since(start).Round(time.Second))
	side.wantHealthy()
}
