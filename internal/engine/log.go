package engine

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	tailBytes = 16 << 10
	tailLines = 20
)

// rotate moves a log that has grown too long to .1, and returns the size of the log that is appended to from now on.
func rotate(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if info.Size() <= maxLog {
		return info.Size(), nil
	}
	return 0, os.Rename(path, path+".1")
}

// LogTail is the end of the log of the engine of a folder: much more than the last lines that a StartError has, because an engine that can't
// load its data says why, and then much about the file. "": there is none.
func LogTail(dir string) string { return readTail(filepath.Join(dir, logName), 0) }

// tail returns the last lines that were written behind offset. It returns "" when there are none or they can't be read, because
// they only explain another error.
func tail(path string, offset int64) string {
	lines := strings.Split(strings.TrimSpace(readTail(path, offset)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// readTail returns the last bytes that were written behind offset.
func readTail(path string, offset int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		offset = max(offset, info.Size()-tailBytes)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, offset, tailBytes))
	if err != nil {
		return ""
	}
	return string(b)
}
