package sidecar

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/sealane/sealane/internal/diagnosis"
)

const (
	maxBundle   = 8 << 20 // bundles of whole systems have a quarter of a MiB
	maxPassword = 64 << 10
	maxPair     = 1 << 20
)

// Password reads a password from a file; an error is a *diagnosis.Fault.
func Password(file string) (string, error) {
	raw, err := readFile("the password file", file, maxPassword)
	if err != nil {
		return "", err
	}
	word := strings.TrimRight(diagnosis.WithoutMarks(raw), "\r\n")
	problem := ""
	switch {
	case diagnosis.IsUTF16([]byte(raw)):
		problem = "is in UTF-16"
	case word == "" || strings.ContainsAny(word, "\r\n"):
		problem = fmt.Sprintf("has %d bytes, which are no password", len(raw))
	}
	if problem != "" {
		return "", SourceFault("the password file "+file+" "+problem, "write the password into it, on one line, in UTF-8; it is read again by itself")
	}
	return word, nil
}

func readFile(what, path string, most int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", unreadable(what, path, err, "make it readable for this user; it is read again by itself")
	}
	defer f.Close()
	return readOpen(what, f, most)
}

func readOpen(what string, f *os.File, most int64) (string, error) {
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(raw)) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	if err != nil {
		return "", unreadable(what, f.Name(), err, "name the right file; it is read again by itself")
	}
	return string(raw), nil
}

// unreadable is for a file that can't be opened or read.
func unreadable(what, path string, err error, fix string) *diagnosis.Fault {
	if f := descriptorFault(err); f != nil {
		return f
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return SourceFault(fmt.Sprintf("%s %s can't be read: %v", what, path, err), fix)
}
