package gateway

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/durable"
)

// What a gateway keeps in its folder, all of it readable by its owner only (0600):
//
//	snapshot.json   the last good snapshot, private keys included, from which alone the gateway can start
//	sampling.json   which sources were presented the next certificate and failed, so that none is tested twice (sampler.go)
//	gateway.sock    the admin socket (admin.go)
//	gateway.lock    locked while a gateway runs in the folder
//
// Others keep files of the same gateway beside these: the command its log, gateway.log, and the controller what it needs to start
// and find the process.

// Socket is the path of the admin socket of the gateway in dir.
func Socket(dir string) string { return filepath.Join(dir, "gateway.sock") }

func lockFile(dir string) string     { return filepath.Join(dir, "gateway.lock") }
func snapshotFile(dir string) string { return filepath.Join(dir, "snapshot.json") }
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

// saveSnapshot makes s the last good snapshot. When it returns nil, s survives a crash of the machine.
func saveSnapshot(dir string, s Snapshot) error {
	data, err := encodeSnapshot(s)
	if err != nil {
		return err
	}
	return durable.WriteFile(snapshotFile(dir), data, 0o600)
}

// ServedEngine is the path of the engine's socket in the last good snapshot of the gateway in dir, which need not run. The error is
// fs.ErrNotExist where there is no snapshot.
func ServedEngine(dir string) (string, error) {
	last, err := loadSnapshot(dir)
	if err != nil {
		return "", err
	}
	return last.snapshot.Engine, nil
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
