package logfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sealane/sealane/internal/logfile"
)

func TestLogRotatesAndStaysBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.log")
	if err := os.WriteFile(path, []byte("from before\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const limit = 1000
	log, err := logfile.OpenForTest(path, limit)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 100 {
				if _, err := fmt.Fprintf(log, "line %d of %d\n", n, i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := log.Write([]byte("the last line\n")); err != nil {
		t.Error(err)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	if _, err := log.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	for _, name := range []string{path, path + ".1"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o600 || info.Size() > limit || info.Size() == 0 {
			t.Errorf("%s: %v, %d bytes, %v", name, info.Mode(), info.Size(), err)
		}
		for line := range bytes.Lines(data) {
			if !strings.HasPrefix(string(line), "line ") && string(line) != "the last line\n" || !bytes.HasSuffix(line, []byte("\n")) {
				t.Errorf("%s has the torn line %q", name, line)
			}
		}
	}
	if data, _ := os.ReadFile(path); !bytes.HasSuffix(data, []byte("the last line\n")) {
		t.Errorf("the newest line is not in the newest file")
	}
}

func TestLogAppendsAcrossRestarts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.log")
	for range 2 {
		log, err := logfile.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.Write([]byte("a\n")); err != nil {
			t.Error(err)
		}
		log.Close()
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "a\na\n" {
		t.Errorf("log is %q, %v", data, err)
	}
	if _, err := logfile.Open(filepath.Join(path, "x")); err == nil {
		t.Error("a log below a file can be opened")
	}
}

func TestLogThatCannotRotateKeepsItsBound(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.log")
	if err := os.MkdirAll(filepath.Join(path+".1", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := logfile.OpenForTest(path, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for n, want := range []bool{true, true, false, false} {
		if _, err := log.Write([]byte("abcd\n")); (err == nil) != want {
			t.Errorf("write %d: %v", n, err)
		}
	}
	if err := os.RemoveAll(path + ".1"); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Write([]byte("abcd\n")); err != nil {
		t.Errorf("write when rotation works again: %v", err)
	}
}
