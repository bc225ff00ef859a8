package engine

import (
	"errors"
	"io"
	"os"
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

// tail returns the last lines that were written behind offset. It returns "" when there are none or they can't be read, because
// they only explain another error.
func tail(path string, offset int64) string {
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
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}
