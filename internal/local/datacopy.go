package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/instance"
	"github.com/sealane/sealane/internal/replication"
)

// How the new engine of a replacement gets its data: from the old one by replication, or from an RDB file.

// emptyStart is how long an engine without data may take to start.
const emptyStart = 30 * time.Second

// copyAndSwitch makes the new engine a replica of the old one, and moves the clients there.
func (r *replacement) copyAndSwitch(ctx context.Context) (held time.Duration, err error) {
	if err := r.checkMemory(ctx); err != nil {
		return 0, err
	}
	r.progress("starting the new engine")
	// A replica writes what it is sent into a file before it loads it. That file is the first snapshot where snapshots are kept; else it
	// would only be in the way.
	load := "on-empty-db"
	if r.to.KeepDump {
		load = "disabled"
	}
	if err := r.start(ctx, map[string]string{"repl-diskless-load": load}, r.startLimit); err != nil {
		return 0, err
	}
	restore, err := r.old.OpenForCopy(ctx, maxMemory(r.from))
	if err != nil {
		return 0, engineFailed(r.old, err)
	}
	defer func() {
		if err != nil { // the old engine goes on
			back, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
			defer cancel()
			_ = restore(back) // an engine that doesn't take this is about to end
		}
	}()
	link, err := replication.Listen(r.old.Connect)
	if err != nil {
		return 0, failed(err, "no port on loopback can be opened for the copy; the server's log says why")
	}
	linkCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	pid := r.new.Identity().PID
	go func() {
		ended <- link.Serve(linkCtx, pid)
		close(ended)
	}()
	host, port := link.Addr()
	if err := r.new.Follow(ctx, host, port); err != nil {
		return 0, r.copyFailed(ctx, err)
	}
	if err := r.tend(ctx, r.from, r.old, func(ctx context.Context) error { return r.awaitCopy(ctx, ended) }); err != nil {
		return 0, err
	}
	if !r.to.KeepDump {
		if err := r.new.RetireDump(); err != nil {
			return 0, diskError(err, "put the copied snapshot aside")
		}
	}
	return r.switchOver(ctx, func(ctx context.Context) error { return r.catchUpAndPromote(ctx, ended) })
}

// awaitCopy waits until the new engine has all data, and has caught up once with what was written meanwhile. Valkey begins to send that
// up to a second after the copy. ended is when the link does, which it must not.
func (r *replacement) awaitCopy(ctx context.Context, ended <-chan error) error {
	goal := int64(-1) // the old engine's offset when the new one had all data; -1: it has not
	answered := time.Now()
	for {
		state, err := r.new.Replication(ctx)
		if err == nil {
			answered = time.Now()
		}
		switch {
		case isClosed(r.new.Done()):
			return r.copyFailed(ctx, errEngineEnded)
		case time.Since(answered) > r.startLimit && ctx.Err() == nil:
			return failed(err, "the new engine does not answer while it copies the data; see whether the server's machine is overloaded, and try again")
		case err == nil && goal >= 0 && state.Offset >= goal:
			return nil
		case err == nil && goal < 0 && state.Linked:
			if source, err := r.old.Replication(ctx); err == nil {
				goal = source.Offset
			}
		case err == nil && goal < 0:
			r.progress("copying the data: " + copied(state.Copied, state.Total))
		}
		select {
		case err := <-ended:
			return r.copyFailed(ctx, errors.Join(errors.New("the link ended"), err))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(replacePoll):
		}
	}
}

// copied says how many bytes are there.
func copied(n, total int64) string {
	const mib = 1 << 20
	if total <= 0 {
		return fmt.Sprintf("%.1f MiB", float64(n)/mib)
	}
	return fmt.Sprintf("%.1f of %.1f MiB (%d %%)", float64(n)/mib, float64(total)/mib, n*100/total)
}

// copyFailed says why the new engine did not get all data.
func (r *replacement) copyFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case <-r.old.Done():
		return engineEnded(r.old, err)
	case <-time.After(replacePoll): // its end may be seen a little later than that of the link
	}
	log := engine.LogTail(r.dirOf(r.to))
	err = fmt.Errorf("%w; the new engine's log ends with:\n%s", err, log)
	switch {
	case strings.Contains(log, "RDB format version"):
		return failed(err, "the engine of %s can't read the data of %s", r.to.Version, r.from.Version)
	case strings.Contains(log, "No space left on device"):
		return diskError(errors.Join(unix.ENOSPC, err), "copy the data")
	case isClosed(r.new.Done()):
		if why := outOfMemory(r.dirOf(r.to), r.bound); why != "" {
			return failed(err, "the new engine needs more memory for the data than it may have (%s); make the instance larger first", instance.SizeText(r.bound.Limit))
		}
		return failed(err, "the new engine ended (%s) while it copied the data; the server's log has its last words", r.new.Exit())
	}
	return failed(err, "the copy of the data broke off; the server's log has the new engine's last words. Where clients write faster than the data can be copied, try again when they write less")
}

// catchUpAndPromote is called while clients are held, so that nothing is answered any more that the new engine doesn't have once it has
// come as far as the old one is now.
func (r *replacement) catchUpAndPromote(ctx context.Context, ended <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	source, err := r.old.Replication(ctx)
	if err != nil {
		return engineFailed(r.old, err)
	}
	for {
		copied, err := r.new.Replication(ctx)
		if err != nil || !copied.Linked {
			return r.copyFailed(ctx, errors.Join(errors.New("the link ended just before the new engine took over"), err))
		}
		if copied.Offset >= source.Offset {
			break
		}
		if err := pause(ctx, catchUpPoll); err != nil {
			return failed(err, "clients write faster than the new engine can follow; try again when they write less")
		}
	}
	if err := r.new.Promote(ctx); err != nil {
		return failed(err, "the new engine refuses to take over; the server's log says why")
	}
	select {
	case err := <-ended: // only a promotion ends it rightly, and that is done
		_ = err
	default:
	}
	return nil
}

// maxMemory is the engine's bound of data, in bytes.
func maxMemory(node instance.Node) int64 {
	n, _ := strconv.ParseInt(node.Directives["maxmemory"], 10, 64)
	return n
}

// checkMemory wants the machine to have as much free memory as the data take: for a moment they are there twice.
func (r *replacement) checkMemory(ctx context.Context) error {
	info, err := r.old.Info(ctx, "memory")
	if err != nil {
		return engineFailed(r.old, err)
	}
	used, _ := strconv.ParseInt(info["used_memory"], 10, 64)
	if free := availableMemory(); free > 0 && free < used {
		return &instance.Error{Code: instance.ResourceExhausted, Message: fmt.Sprintf("the data take %s, and are in memory twice while the engine is replaced; the server's machine has %s left. Free memory there and try again",
			instance.SizeText(used), instance.SizeText(free))}
	}
	return nil
}

// availableMemory is MemAvailable of /proc/meminfo; 0: not known.
func availableMemory() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10
		}
	}
	return 0
}

// load starts the new engine with the data of an RDB file.
func (r *replacement) load(ctx context.Context, data instance.DataSource) error {
	err := r.tend(ctx, r.from, r.old, func(ctx context.Context) error { return r.fetch(ctx, data) })
	if err != nil {
		return err
	}
	r.progress("loading the data")
	// Without a bound of memory nothing is evicted before it was seen whether the data fit.
	err = r.tend(ctx, r.from, r.old, func(ctx context.Context) error {
		return r.start(ctx, map[string]string{"maxmemory": "0"}, startTimeout)
	})
	if err != nil {
		return r.notLoaded(err)
	}
	info, err := r.new.Info(ctx, "memory")
	if err != nil {
		return failed(err, "the new engine does not answer after it has loaded the file; try again")
	}
	used, _ := strconv.ParseInt(info["used_memory"], 10, 64)
	if room := maxMemory(r.to); used > room {
		return tooLarge(used, room)
	}
	if err := r.new.Configure(ctx, r.to.Directives); err != nil {
		return failed(err, "the new engine refuses its configuration; the server's log says why")
	}
	if !r.to.KeepDump {
		os.Remove(engine.LoadedDump(r.dirOf(r.to))) // the file that was imported is where it came from
	}
	return nil
}

func tooLarge(used, room int64) error {
	const gib = 1 << 30
	return &instance.Error{Code: instance.FailedPrecondition, Reason: instance.DataTooLarge, Message: fmt.Sprintf(
		"the data of the file take %s (%d bytes), and the instance has room for %s (%d bytes); make it larger by %d GB at least, and import again",
		instance.SizeText(used), used, instance.SizeText(room), room, (used-room+gib-1)/gib)}
}

// notLoaded says why the new engine did not load the file.
func (r *replacement) notLoaded(err error) error {
	var ended *engine.StartError
	if !errors.As(err, &ended) {
		return err
	}
	log := engine.LogTail(r.dirOf(r.to))
	switch {
	case strings.Contains(log, "RDB format version"):
		return failed(err, "the file is in a newer format than the engine of %s can load; import it into an instance with a newer one", r.to.Version)
	case strings.Contains(strings.ToLower(log), "module"):
		return failed(err, "the file has data of a module, which the engine of %s does not have", r.to.Version)
	case strings.Contains(strings.ToLower(log), "out of memory"), ended.Exit == "signal: killed":
		return failed(err, "the data of the file need more memory than the instance may have (%s); make it larger first", instance.SizeText(r.to.MemoryLimit))
	}
	return failed(err, "the engine of %s can't load the file (%s): it is damaged, or has data that this engine does not know; the server's log has its last words", r.to.Version, ended.Exit)
}

// fetch writes the file into the new engine's folder.
func (r *replacement) fetch(ctx context.Context, data instance.DataSource) error {
	r.progress("reading the file")
	in, size, err := data(ctx)
	if err != nil {
		return err
	}
	defer in.Close()
	stop := context.AfterFunc(ctx, func() { in.Close() })
	defer stop()
	if err := r.checkDisk(size); err != nil {
		return err
	}
	out, err := os.OpenFile(engine.Dump(r.dirOf(r.to)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return diskError(err, "keep the file")
	}
	defer out.Close()
	read := &counted{Reader: in, report: func(n int64) { r.progress("reading the file: " + copied(n, size)) }}
	_, err = io.Copy(struct{ io.Writer }{out}, read)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case read.err != nil:
		return read.err
	case err == nil:
		err = out.Sync() // it is the instance's first snapshot, where it keeps some
	}
	if err != nil {
		return diskError(err, "keep the file")
	}
	return nil
}

// checkDisk wants room for a file.
func (r *replacement) checkDisk(size int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(r.dirOf(r.to), &fs); err != nil {
		return nil // then the write will tell
	}
	if free := int64(fs.Bavail) * fs.Bsize; size > free {
		return &instance.Error{Code: instance.ResourceExhausted, Reason: instance.DiskFull, Message: fmt.Sprintf(
			"the file has %d bytes, and the server's disk has %d left; free space in its state folder and try again", size, free)}
	}
	return nil
}

// counted reports how much was read, and keeps what ended it.
type counted struct {
	io.Reader
	report   func(int64)
	n        int64
	reported time.Time
	err      error // other than io.EOF
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	if now := time.Now(); now.Sub(c.reported) > replacePoll {
		c.reported = now
		c.report(c.n)
	}
	return n, err
}

// DumpEngine implements EngineDumper.
func (l *Runtime) DumpEngine(ctx context.Context, node instance.Node, write func(context.Context, io.Reader) error) error {
	n := l.node(node.ID)
	n.Lock()
	defer n.Unlock()
	e := n.engine.Load()
	if e == nil || isClosed(e.Done()) {
		return failed(instance.ErrNoEngine, "the instance's engine has ended; try again when the instance is READY")
	}
	restore, err := e.OpenForCopy(ctx, maxMemory(node))
	if err != nil {
		return engineFailed(e, err)
	}
	defer func() {
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancel()
		_ = restore(back) // an engine that doesn't take this is about to end
	}()
	return l.tend(ctx, node, e, func(ctx context.Context) error {
		conn, err := e.Connect(ctx)
		if err != nil {
			return engineFailed(e, err)
		}
		defer conn.Close()
		dump, err := replication.NewDump(ctx, conn)
		if err != nil {
			return failed(err, "the engine does not give out its data; the server's log says why")
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		read := &counted{Reader: dump, report: func(int64) {}}
		if err := write(ctx, read); err != nil && read.err != nil && ctx.Err() == nil {
			return failed(errors.Join(err, read.err), "the engine broke its snapshot off; the server's log says more. It may have had too little memory for it: try again when clients write less")
		} else if err != nil {
			return err
		}
		return nil
	})
}
