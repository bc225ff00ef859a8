package gateway

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// What a gateway keeps in its folder, all of it readable by its owner only (0600):
//
//	snapshot.json      the last good snapshot, private keys included, from which alone the gateway can start
//	snapshot.reserve   takes up room on the disk, for a snapshot that comes when there is no other
//	sampling.json      which sources were presented the next certificate and failed, so that none is tested twice (sampler.go)
//	gateway.sock       the admin socket (admin.go)
//	gateway.lock       locked while a gateway runs in the folder
//
// Others keep files of the same gateway beside these: the command its log, gateway.log, and the controller what it needs to start
// and find the process.

// Socket is the path of the admin socket of the gateway in dir.
func Socket(dir string) string { return filepath.Join(dir, "gateway.sock") }

func lockFile(dir string) string     { return filepath.Join(dir, "gateway.lock") }
func snapshotFile(dir string) string { return filepath.Join(dir, "snapshot.json") }
func reserveFile(dir string) string  { return filepath.Join(dir, "snapshot.reserve") }
func samplingFile(dir string) string { return filepath.Join(dir, "sampling.json") }

// lockFolder makes sure that there is one gateway per folder. The kernel frees the lock with the process, however it ends, so
// a socket file found afterwards is stale.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(lockFile(dir), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock folder %s: %w", dir, ErrRunning)
		}
		return nil, fmt.Errorf("lock folder %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

const (
	// reserveSize is many times what a snapshot has: a few certificates.
	reserveSize = 256 << 10
	reservePace = 10 * time.Second
)

// saveSnapshot makes s the last good snapshot. When it returns nil, s survives a crash of the machine. A failover is a snapshot, and must be
// possible while the disk is full, which may be why there is one. So it has a reserve.
func (x *snapshots) saveSnapshot(s Snapshot) error {
	data, err := encodeSnapshot(s)
	if err != nil {
		return err
	}
	used, err := x.reserve.WriteFile(snapshotFile(x.g.cfg.Dir), data, 0o600)
	if used {
		x.g.cfg.Log.Warn("the disk is full, a snapshot was written with the room that was kept for it", "hint", "free space in the server's state folder")
	}
	return err
}

// keepReserve makes the room for a snapshot whenever it was used and there is room again.
func (x *snapshots) keepReserve() {
	tick := time.NewTicker(reservePace)
	defer tick.Stop()
	for said := false; ; {
		err := x.reserve.Fill()
		if err != nil && !said {
			x.g.cfg.Log.Warn("no room on the disk can be kept for a snapshot: a failover could fail", "error", err)
		}
		said = err != nil
		select {
		case <-tick.C:
		case <-x.g.lifetime.accepting.Done():
			return
		}
	}
}

// LastGood is the last good snapshot of the gateway in dir, which need not run. The error is fs.ErrNotExist where there is none.
func LastGood(dir string) (Snapshot, error) {
	last, err := loadSnapshot(dir)
	if err != nil {
		return Snapshot{}, err
	}
	return last.snapshot, nil
}

// loadSnapshot reads the last good snapshot and checks it. The error is fs.ErrNotExist where there is none.
func loadSnapshot(dir string) (*serving, error) {
	f, err := os.Open(snapshotFile(dir))
	if err != nil {
		return nil, fmt.Errorf("read last good snapshot: %w", err)
	}
	defer f.Close()
	s, err := decodeSnapshot(io.LimitReader(f, maxSnapshotBytes))
	if err != nil {
		return nil, fmt.Errorf("read last good snapshot %s: %w", f.Name(), err)
	}
	v, err := newServing(s, nil)
	if err != nil {
		return nil, fmt.Errorf("read last good snapshot %s: %w", f.Name(), err)
	}
	return v, nil
}
