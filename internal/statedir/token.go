package statedir

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/hint"
)

// ReadAdminToken returns the administrator's token and makes it on first start.
func (d Dir) ReadAdminToken() (string, error) {
	token, err := ReadToken(d.AdminToken())
	if err != nil && hint.Of(err) == "" {
		err = hint.Wrap(err, makeWritable)
	}
	return token, err
}

// ReadToken returns the token in a file and makes it if there is none. The file may be on a file system that is read-only or full, if it
// is there already.
func ReadToken(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		var raw [32]byte
		rand.Read(raw[:]) // never fails: it ends the process instead
		// The prefix lets secret scanners find a leaked one.
		fresh := "sealane_" + base64.RawURLEncoding.EncodeToString(raw[:])
		if err := durable.CreateFile(path, []byte(fresh+"\n"), 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token := string(bytes.TrimSpace(text))
	if len(token) < 20 || strings.ContainsAny(token, " \n") {
		return "", hint.Wrap(fmt.Errorf("%s holds no token", path), "delete the file; the next start makes a new one")
	}
	return token, nil
}
