package gateway_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// workbench is where clients are compiled and installed, once for all that need them.
type workbench struct {
	dir     string
	install func() error
}

func newWorkbench(t *testing.T) *workbench {
	b := &workbench{dir: tempDir(t)}
	b.install = sync.OnceValue(func() error {
		if err := os.CopyFS(filepath.Join(b.dir, "npm"), os.DirFS("testdata/clients")); err != nil {
			return err
		}
		// What the packages would do after that is to choose a program for this machine.
		c := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
		c.Dir = filepath.Join(b.dir, "npm")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return b
}

// npm returns the folder with the scripts and, in node_modules, the packages of package-lock.json.
func (b *workbench) npm(t *testing.T) string {
	t.Helper()
	program(t, "npm")
	if err := b.install(); err != nil {
		t.Skipf("npm could not install the packages of testdata/clients/package.json, so %s is not shown here: %v", t.Name(), err)
	}
	return filepath.Join(b.dir, "npm")
}

// cLibrary is one of C, with a program of testdata/clients that uses it.
type cLibrary struct {
	source string
	link   []string
	// unpacked is the package of Debian 13 that scripts/debian.sh has unpacked; "": the library is the system's.
	unpacked string
}

var (
	wolfssl = cLibrary{source: "wolfssl.c", link: []string{"-lwolfssl"}}
	mbedtls = cLibrary{source: "mbedtls.c", link: []string{"-lmbedtls", "-lmbedx509", "-lmbedcrypto"}}
	bearssl = cLibrary{source: "bearssl.c", link: []string{"-lbearssl"}}
)

func (l cLibrary) debian13(unpackedAs string) cLibrary {
	l.unpacked = unpackedAs
	return l
}

// compile makes the program, where the library is installed.
func (l cLibrary) compile(t *testing.T, b *workbench) string {
	t.Helper()
	to := filepath.Join(b.dir, l.unpacked+strings.TrimSuffix(l.source, ".c"))
	if exists(to) {
		return to
	}
	args := []string{"-Wall", "-Wextra", "-Werror", "-O1", "-o", to}
	if l.unpacked != "" {
		usr := filepath.Join(unpacked(t), l.unpacked, "root/usr")
		loaders, _ := filepath.Glob(filepath.Join(usr, "lib/*/ld-linux*.so.*"))
		if len(loaders) == 0 {
			t.Skipf("%s is not unpacked, so %s is not shown here; on Debian: scripts/debian.sh trixie %s", l.unpacked, t.Name(), l.unpacked)
		}
		// The library goes with the C library of its own release, which this system's linker need not know.
		lib := filepath.Dir(loaders[0])
		args = append(args, "-isystem", filepath.Join(usr, "include"), "-L"+lib, "-Wl,--allow-shlib-undefined",
			"-Wl,--dynamic-linker="+loaders[0], "-Wl,-rpath="+lib)
	}
	c := exec.Command(program(t, "gcc"), append(append(args, filepath.Join("testdata/clients", l.source)), l.link...)...)
	if out, err := c.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("No such file or directory")) { // its header
			t.Skipf("the library is not installed, so %s is not shown here: %s", t.Name(), out)
		}
		t.Fatalf("%s: %v: %s", l.source, err, out)
	}
	return to
}

func (l cLibrary) version(t *testing.T, b *workbench) string {
	out, err := exec.Command(l.compile(t, b), "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	return firstLineOf(string(out))
}

func (l cLibrary) probe() func(*testing.T, *workbench, []trial) []string {
	return batch(func(t *testing.T, b *workbench) *exec.Cmd { return exec.Command(l.compile(t, b)) })
}

// unpacked is where scripts/debian.sh has put the programs of Debian 13.
func unpacked(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("SEALANE_ENGINES")
	if cache == "" {
		home, err := os.UserCacheDir()
		if err != nil {
			t.Skip(err)
		}
		cache = filepath.Join(home, "sealane", "engines")
	}
	return filepath.Join(cache, "trixie")
}
