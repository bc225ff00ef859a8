package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

const (
	maxBundle   = 8 << 20 // bundles of whole systems have a quarter of a MiB
	maxPassword = 64 << 10
)

// Files is a Source of files: base with the bundle from ca, and if password is not "", the password from there.
func Files(base Server, ca, password string) Source {
	return func(context.Context) (Server, error) {
		s := base
		var err error
		if s.Bundle, err = readFile("the CA file", ca, maxBundle); err != nil {
			return Server{}, err
		}
		if password != "" {
			if s.Password, err = Password(password); err != nil {
				return Server{}, err
			}
		}
		return s, nil
	}
}

// Password reads a password from a file; an error is a *Fault.
func Password(file string) (string, error) {
	raw, err := readFile("the password file", file, maxPassword)
	if err != nil {
		return "", err
	}
	word := strings.TrimRight(raw, "\r\n")
	if word == "" || strings.ContainsAny(word, "\r\n") {
		return "", &Fault{codeSource, fmt.Sprintf("the password file %s has %d bytes, which are no password", file, len(raw)), "write the password into it, on one line; it is read again by itself"}
	}
	return word, nil
}

func readFile(what, path string, most int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		why := err
		if p, ok := errors.AsType[*fs.PathError](err); ok {
			why = p.Err
		}
		return "", &Fault{codeSource, fmt.Sprintf("%s %s can't be read: %v", what, path, why), "make it readable for this user; it is read again by itself"}
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(raw)) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	if err != nil {
		return "", &Fault{codeSource, fmt.Sprintf("%s %s can't be read: %v", what, path, err), "name the right file; it is read again by itself"}
	}
	return string(raw), nil
}
