package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/sealane/sealane/internal/hint"
)

// Who else can read a secret has it, and who else can write a file of the state folder can make the server do what they want. The
// modes of what Sealane makes are right from the start, so another one is somebody's mistake. It is told and not mended in
// silence: whoever could read a key until now may have done so.

const (
	// Private is what others than a secret's owner may not do with it.
	Private fs.FileMode = 0o077
	// PrivateToGroup lets the group read it: Debian's packages share keys by way of the group ssl-cert.
	PrivateToGroup fs.FileMode = 0o037
)

// CheckMode returns an error unless a file or folder belongs to this user, or to root, and gives others none of the forbidden
// permissions. What root has given this user by way of a group (systemd's credentials, Kubernetes' fsGroup) the group may read.
// A file that is not there is no error. The error begins with what, such as a field of the configuration.
func CheckMode(what, path string, forbidden fs.FileMode) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return hint.Wrap(fmt.Errorf("%s: %w", what, err), "make %s readable for the user who runs `sealane serve`", path)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	uid, mode := uint32(os.Geteuid()), info.Mode().Perm()
	if stat.Uid != uid && stat.Uid != 0 {
		return hint.Wrap(fmt.Errorf("%s: %s belongs to user %d, who can read and change it; the server runs as user %d", what, path, stat.Uid, uid),
			"chown %d %s, or run `sealane serve` as user %d", uid, path, stat.Uid)
	}
	if stat.Uid != uid {
		forbidden &^= 0o040
	}
	open := mode & forbidden
	if open == 0 {
		return nil
	}
	could := "read"
	if open&0o022 != 0 {
		could = "change"
	}
	right := mode &^ forbidden
	if !info.IsDir() {
		right &^= 0o111
	}
	return hint.Wrap(fmt.Errorf("%s: %s has mode %04o: others than its owner can %s it", what, path, mode, could),
		"chmod %04o %s; if somebody may have read a secret there, replace it", right, path)
}

// checkSecrets checks what in the state folder is secret, or believed.
func (d Dir) checkSecrets() error {
	for _, e := range Layout {
		if e.Secret == "" || e.Path == "." { // the folder itself: checkFolder
			continue
		}
		if err := CheckMode(e.Secret, d.path(e.Path), Private); err != nil {
			return err
		}
	}
	return nil
}

// checkFolder makes a state folder private that holds nothing yet. One that has records must not have been open to others.
func (d Dir) checkFolder() error {
	const what = "state folder"
	if _, err := os.Stat(d.Records()); err == nil {
		return CheckMode(what, string(d), Private)
	}
	// Whose it is, and whether it can be closed, matters now too.
	if err := CheckMode(what, string(d), 0); err != nil {
		return err
	}
	info, err := os.Stat(string(d))
	if err != nil {
		return err
	}
	if info.Mode().Perm()&Private != 0 {
		if err := os.Chmod(string(d), 0o700); err != nil {
			return hint.Wrap(fmt.Errorf("%s: %w", what, err), "it holds secrets; make it yours, with mode 0700")
		}
	}
	return nil
}
