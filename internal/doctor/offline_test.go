package doctor_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/doctor"
)

const (
	// nowhere is an address for documentation (RFC 5737).
	nowhere    = "192.0.2.5"
	offlineVar = "SEALANE_DOCTOR_OFFLINE"
)

// examineOffline examines in a network namespace of its own, which has not even loopback.
func (b *bench) examineOffline(c doctor.Config) doctor.Report {
	cmd := exec.Command(os.Args[0], "-test.run=^TestOffline$")
	cmd.Env = append(os.Environ(), offlineVar+"="+c.CAFile)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Skipf("this machine makes no network namespace: %v", err)
	}
	defer cmd.Wait()
	var r doctor.Report
	if err := json.NewDecoder(out).Decode(&r); err != nil {
		b.Fatal(err)
	}
	return r
}

// TestOffline is the process that examineOffline starts.
func TestOffline(t *testing.T) {
	file := os.Getenv(offlineVar)
	if file == "" {
		t.Skip("runs in a process of its own")
	}
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	c := doctor.Config{Host: nowhere, Port: "6378", CAFile: file, Now: func() time.Time { return now }}
	json.NewEncoder(os.Stdout).Encode(doctor.Diagnose(context.Background(), c))
	os.Stdout.Close()
}
