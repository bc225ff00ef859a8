package audit_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/audit"
)

// fullDisk has no room for another file while it is full.
type fullDisk struct {
	audit.Disk
	full *bool
}

func (d fullDisk) WriteHead(b []byte) error {
	if *d.full {
		return fmt.Errorf("write audit.head: %w", syscall.ENOSPC)
	}
	return d.Disk.WriteHead(b)
}

// A crash left the head one entry behind, and now the disk is full: a server must start all the same, or nobody sees to its
// gateways and engines. Nothing is appended before the head is right again.
func TestALogWhoseHeadIsBehindOpensOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir, full := t.TempDir(), false
	open := func() *audit.Log {
		t.Helper()
		l, err := audit.OpenOn(dir, slog.New(slog.DiscardHandler), func(d audit.Disk) audit.Disk { return fullDisk{d, &full} })
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	entry := func(reason string) audit.Entry {
		return audit.Entry{Time: time.Unix(1, 0), Action: audit.Begin, Reason: reason}
	}
	l := open()
	if err := l.Append(entry("first")); err != nil {
		t.Fatal(err)
	}
	behind, err := os.ReadFile(audit.HeadPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(entry("second")); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.WriteFile(audit.HeadPath(dir), behind, 0o600); err != nil {
		t.Fatal(err)
	}
	full = true
	l = open()
	if got := l.Head().Seq; got != 2 {
		t.Errorf("the head is entry %d, want 2", got)
	}
	if err := l.Append(entry("third")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("append on a full disk: got %v, want ENOSPC", err)
	}
	l.Close()
	l = open()
	full = false
	if err := l.Append(entry("third")); err != nil {
		t.Error(err)
	}
	l.Close()
	found, err := audit.Verify(dir, func(audit.Entry) {})
	if err != nil || found.Head.Seq != 3 {
		t.Errorf("verify: %+v, %v, want 3 entries", found, err)
	}
}
