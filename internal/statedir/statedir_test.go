package statedir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/statedir"
)

// newState is a state folder as a first start leaves it.
func newState(t *testing.T) statedir.Dir {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d, err := statedir.Open(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := d.MasterKey("", true)
	if err != nil {
		t.Fatal(err)
	}
	st, err := d.OpenRecords(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadAdminToken(); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	return d
}

// Everything secret that is there stops the start when others can read it, and the error says which mode is right.
func TestASecretThatOthersCanReadStopsTheStart(t *testing.T) {
	t.Parallel()
	for _, e := range statedir.Layout {
		if e.Secret == "" {
			continue
		}
		d := newState(t)
		path := filepath.Join(string(d), e.Path)
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) { // the audit log, which is not made here
			if err = os.WriteFile(path, nil, 0o600); err == nil {
				info, err = os.Stat(path)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := statedir.Open(string(d)); err != nil {
			t.Errorf("%s: %v", e.Path, err)
		}
		if err := os.Chmod(path, info.Mode().Perm()|0o004); err != nil {
			t.Fatal(err)
		}
		_, err = statedir.Open(string(d))
		if err == nil || !strings.HasPrefix(err.Error(), e.Secret+": "+path+" has mode ") || !strings.HasPrefix(hint.Of(err), "chmod ") {
			t.Errorf("%s: %v; %s", e.Path, err, hint.Of(err))
		}
	}
}

// A folder that is new is closed; one that has records is an error, because who could read it may have done so.
func TestAFolderWithoutRecordsIsMadePrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := statedir.Open(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestAMasterKeyThatIsLostIsNotReplacedAndRecordsHaveOneServer(t *testing.T) {
	t.Parallel()
	d := newState(t)
	first, err := d.MasterKey("", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(string(d), "master.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.MasterKey("", false); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("%v", err)
	}
	st, err := d.OpenRecords(first)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	// The records have one server at a time.
	if _, err := d.OpenRecords(first); err == nil || !strings.Contains(err.Error(), "another sealane serve uses") || d.CheckUnused() == nil {
		t.Errorf("%v", err)
	}
}

func TestATokenIsMadeOnceAndReadAfterwards(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	first, err := statedir.ReadToken(path)
	if err != nil || !strings.HasPrefix(first, "sealane_") || len(first) < 40 {
		t.Fatalf("%q, %v", first, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if again, err := statedir.ReadToken(path); err != nil || again != first {
		t.Errorf("%q, then %q, %v", first, again, err)
	}
	if err := os.WriteFile(path, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := statedir.ReadToken(path); err == nil || strings.Contains(err.Error(), "short") || hint.Of(err) == "" {
		t.Errorf("%v", err)
	}
}
