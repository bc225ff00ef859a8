package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/durable"
)

// Beside the dump there is the one before it, for the case that the dump turns out to be damaged when it is to be loaded. Both are one
// file until the next snapshot, so it costs the disk no more than a snapshot under way does anyway.
const (
	previousName = "dump.previous.rdb"
	damagedName  = "dump.damaged.rdb"
	// asideName is what an engine that is started as a replica does not load.
	asideName = "dump.replica.rdb"
)

// Snapshots is what there is of an engine's snapshots.
type Snapshots struct {
	InProgress bool
	Age        time.Duration // of the one in progress, to the second
	// Finished and Size are those of the dump, which is the last good one; zero: there is none. Took is how long it took, to the
	// second, where this engine has made it.
	Finished time.Time
	Size     int64
	Took     time.Duration
	// Failure is why the last one has failed, in the engine's words. "": it has not.
	Failure string
}

// Snapshots says what there is of snapshots.
func (e *Engine) Snapshots(ctx context.Context) (Snapshots, error) {
	info, err := e.Info(ctx, "persistence")
	if err != nil {
		return Snapshots{}, err
	}
	seconds := func(name string) time.Duration {
		n, _ := strconv.ParseInt(info[name], 10, 64)
		return time.Duration(max(n, 0)) * time.Second // -1: there is none
	}
	s := Snapshots{InProgress: info["rdb_bgsave_in_progress"] == "1", Took: seconds("rdb_last_bgsave_time_sec")}
	if s.InProgress {
		s.Age = seconds("rdb_current_bgsave_time_sec")
	}
	if dump, err := os.Stat(filepath.Join(e.dir, dumpName)); err == nil {
		s.Finished, s.Size = dump.ModTime(), dump.Size()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Snapshots{}, fmt.Errorf("look at the dump of engine %s: %w", e.dir, err)
	}
	if info["rdb_last_bgsave_status"] == "err" {
		s.Failure = saveFailure(tail(filepath.Join(e.dir, logName), 0))
	}
	return s, nil
}

// BeginSnapshot has the engine begin a snapshot (BGSAVE), and returns at once. The dump that there is becomes the one before.
func (e *Engine) BeginSnapshot(ctx context.Context) error {
	// Where that fails, because the disk is full or read only, there is an older one before, or none. The snapshot may work all the same.
	_ = keepPrevious(e.dir)
	if _, err := e.call(ctx, []string{"BGSAVE"}); err != nil {
		return fmt.Errorf("begin a snapshot of engine %s: %w", e.dir, err)
	}
	return nil
}

// keepPrevious makes the dump the one before, if there is one.
func keepPrevious(dir string) error {
	err := link(dir, dumpName, previousName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeUnfinished removes snapshots that were being written when an engine and its child were killed. Each may be as large as all data.
func removeUnfinished(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, "temp-*.rdb")) // the pattern is right
	for _, file := range left {
		_ = os.Remove(file)
	}
}

// link gives a file another name, in place of the file that has it.
func link(dir, name, another string) error {
	return linkFrom(filepath.Join(dir, name), dir, another)
}

// linkFrom is link for a file that may be in another folder.
func linkFrom(file, dir, another string) error {
	fresh := filepath.Join(dir, another+".new")
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(file, fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, filepath.Join(dir, another)); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	// Where both names were one file already, the rename has done nothing.
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(dir)
}

// PutDumpAside keeps an engine that is to be started as a replica from loading a dump. It gets all data of its primary anyway, and with those
// of an old dump it could be taken for one that has them. No engine may run in dir.
func PutDumpAside(dir string) error {
	err := os.Rename(filepath.Join(dir, dumpName), filepath.Join(dir, asideName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(dir)
}

// NewestDump is the newest dump in an engine's folder, those put aside included, and when it was made. "": there is none.
func NewestDump(dir string) (file string, made time.Time) {
	for _, name := range []string{dumpName, asideName} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.ModTime().After(made) {
			file, made = path, info.ModTime()
		}
	}
	return file, made
}

// UseDump makes a file, of this folder or another one, the dump of the engine whose folder is dir. No engine may run there. The dump is the same
// file and not a copy, which costs no room; engines never write into a dump that is complete.
func UseDump(file, dir string) error { return linkFrom(file, dir, dumpName) }

// UsePreviousDump puts a dump aside that is damaged, and the one before in its place. It returns when that was made. The error is
// fs.ErrNotExist where there is none. No engine may run in dir.
func UsePreviousDump(dir string) (made time.Time, err error) {
	previous, err := os.Stat(filepath.Join(dir, previousName))
	if err != nil {
		return time.Time{}, err
	}
	dump, err := os.Stat(filepath.Join(dir, dumpName))
	if err != nil {
		return time.Time{}, err
	}
	if os.SameFile(previous, dump) {
		return time.Time{}, fs.ErrNotExist
	}
	// A crash between the two leaves no dump, and the next engine would start empty. So the damaged one gets a second name first.
	if err := link(dir, dumpName, damagedName); err != nil {
		return time.Time{}, err
	}
	return previous.ModTime(), link(dir, previousName, dumpName)
}

// DamagedDump is what an engine has said that ended at its start because the dump is damaged. "": that is not why. A dump of a newer
// version is not damaged.
func (e *StartError) DamagedDump() string {
	const signature = "Wrong signature trying to load DB"
	for _, words := range []string{signature, "Short read or OOM loading DB", "Internal error in RDB reading", "Wrong RDB checksum", "RDB CRC error"} {
		if line := lastLine(e.Log, words); line != "" && !(words == signature && e.signed) {
			return line
		}
	}
	return ""
}

// withoutKeys leaves out what an engine prints of a damaged dump while it looks for the damage: it names the key that it reads, and what it
// says of it is nobody's business but the owner's of the data.
func withoutKeys(log string) string {
	var kept []string
	for line := range strings.Lines(log) {
		if !strings.HasPrefix(line, "[additional info]") && !strings.HasPrefix(line, "[offset ") && !strings.HasPrefix(line, "[info]") {
			kept = append(kept, line)
		}
	}
	return strings.TrimRight(strings.Join(kept, ""), "\n")
}

// isSigned says whether a file begins as dumps do. Redis calls the signature of Valkey's wrong, and Valkey that of a Redis to come.
func isSigned(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 9)
	_, err = io.ReadFull(f, head)
	return err == nil && dumpSignature.Match(head)
}

var dumpSignature = regexp.MustCompile(`^(REDIS[0-9]{4}|VALKEY[0-9]{3})$`)

// saveFailure finds in a log why the last snapshot has failed.
func saveFailure(log string) string {
	log = log[max(0, strings.LastIndex(log, "Background saving started")):] // what came before is about an earlier one
	for _, words := range []string{"Write error saving DB on disk", "Failed opening the temp RDB file", "Error moving temp DB file", "Can't save in background",
		"Background saving terminated by signal", "Background saving error"} {
		if line := lastLine(log, words); line != "" {
			return line
		}
	}
	return "the engine does not say why"
}

// lastLine is the last line of a log that has these words, from where they begin. The folder that some have is left out: it is nobody's
// business but the server's.
func lastLine(log, words string) string {
	at := strings.LastIndex(log, words)
	if at < 0 {
		return ""
	}
	line, _, _ := strings.Cut(log[at:], "\n")
	if before, rest, ok := strings.Cut(line, " (in server root dir "); ok {
		_, after, _ := strings.Cut(rest, ")")
		line = before + after
	}
	return strings.TrimSpace(line)
}
