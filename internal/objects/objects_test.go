package objects_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/objects"
)

// newStore is a store whose buckets are below a state folder.
func newStore(t *testing.T) (*objects.Store, string) {
	t.Helper()
	state := t.TempDir()
	return storeOf(t, objects.Config{StateDir: state, DefaultFolder: filepath.Join(state, "buckets")}), filepath.Join(state, "buckets")
}

func storeOf(t *testing.T, c objects.Config) *objects.Store {
	t.Helper()
	if c.StateDir == "" {
		c.StateDir = t.TempDir()
	}
	s, err := objects.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func request(uri string) objects.Request { return objects.Request{Project: "local", URI: uri} }

func put(s *objects.Store, uri, text string) error {
	return s.Put(context.Background(), request(uri), strings.NewReader(text), int64(len(text)))
}

func get(s *objects.Store, uri string) (string, error) {
	o, err := s.Open(context.Background(), request(uri))
	if err != nil {
		return "", err
	}
	defer o.Close()
	all, err := io.ReadAll(o)
	if err == nil && o.Size != int64(len(all)) {
		err = errors.New("another size than was said")
	}
	return string(all), err
}

// wantKind wants an error of a kind that says what to do, and nothing of the server's paths.
func wantKind(t *testing.T, err error, want objects.Kind, says string) {
	t.Helper()
	var e *objects.Error
	if !errors.As(err, &e) || e.Kind != want || !strings.Contains(err.Error(), says) || hint.Of(err) == "" {
		t.Errorf("%v (%s); want one of kind %s with %q and a hint", err, hint.Of(err), want, says)
		return
	}
	if strings.Contains(err.Error()+hint.Of(err), os.TempDir()) {
		t.Errorf("%v (%s) shows a path of the server", err, hint.Of(err))
	}
}

// files are all files below a folder.
func files(t *testing.T, folder string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(folder, path)
			all = append(all, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWithoutConfigurationBucketsAreFoldersOfTheOwner(t *testing.T) {
	t.Parallel()
	s, folder := newStore(t)
	_, err := get(s, "gs://backups/a/cache.rdb")
	wantKind(t, err, objects.NotFound, "gs://backups/a/cache.rdb: there is no such object")
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an import made a folder: %v", err)
	}
	for _, text := range []string{"one", "another", ""} {
		if err := put(s, "gs://backups/a/cache.rdb", text); err != nil {
			t.Fatal(err)
		}
		if got, err := get(s, "gs://backups/a/cache.rdb"); got != text || err != nil {
			t.Errorf("%q, %v; want %q", got, err, text)
		}
	}
	if got := files(t, folder); !slices.Equal(got, []string{"backups/a/cache.rdb"}) {
		t.Errorf("files %v", got)
	}
	for path, want := range map[string]fs.FileMode{"": 0o700, "backups": 0o700, "backups/a": 0o700, "backups/a/cache.rdb": 0o600} {
		if info, err := os.Stat(filepath.Join(folder, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info, err, want)
		}
	}
}

func TestABadURIIsRefused(t *testing.T) {
	t.Parallel()
	s, folder := newStore(t)
	for _, uri := range []string{
		"", "dump.rdb", "/etc/passwd", "file:///etc/passwd", "https://b/o.rdb", "gs:/bucket/o.rdb", "GS://bucket/o.rdb", "gs://", "gs://bucket", "gs://bucket/",
		"gs://ab/o.rdb", "gs://Bucket/o.rdb", "gs://../o.rdb", "gs://...../o.rdb", "gs://a..b/o.rdb", "gs://.bucket/o.rdb", "gs://bucket./o.rdb", "gs://-bucket/o.rdb",
		"gs://" + strings.Repeat("b", 223) + "/o.rdb", "gs://user:password@bucket/o.rdb", "gs://bucket/../o.rdb", "gs://bucket/a/../../o.rdb", "gs://bucket/./o.rdb",
		"gs://bucket//o.rdb", "gs://bucket//etc/o.rdb", "gs://bucket/a//o.rdb", "gs://bucket/a/", "gs://bucket/.", "gs://bucket/..", "gs://bucket/a\x00.rdb",
		"gs://bucket/a\nb.rdb", "gs://bucket/a\\..\\b.rdb", "gs://bucket/\xff.rdb", "gs://bucket/" + strings.Repeat("o", 256), "gs://bucket/" + strings.Repeat("o/", 600) + "o.rdb",
		"gs://bucket/.sealane-pending.X/o.rdb", "gs://bucket/.sealane-pending.o.rdb", "s3://bucket/o.rdb",
	} {
		wantKind(t, s.CheckImport("local", uri), objects.InvalidURI, "")
		wantKind(t, put(s, uri, "x"), objects.InvalidURI, "")
		_, err := get(s, uri)
		wantKind(t, err, objects.InvalidURI, "")
		if err != nil && ((strings.ContainsAny(err.Error(), "\x00\n") || !utf8.ValidString(err.Error())) || len(err.Error()) > 600) {
			t.Errorf("%q as it is", err)
		}
	}
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made: %v", files(t, folder))
	}
	for _, uri := range []string{"gs://bucket/ä ö%2F?#*.rdb", "gs://my_bucket.example-1.com/...rdb", "gs://bucket/.hidden.rdb"} {
		if err := put(s, uri, "x"); err != nil {
			t.Error(err)
		}
		if got, err := get(s, uri); got != "x" || err != nil {
			t.Errorf("%s: %q, %v", uri, got, err)
		}
	}
}

func TestAnExportWantsTheNameOfAnRDBFile(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	wantKind(t, s.CheckExport("local", "gs://bucket/important.txt"), objects.InvalidURI, "ends in .rdb")
	wantKind(t, put(s, "gs://bucket/important.txt", "x"), objects.InvalidURI, "ends in .rdb")
	wantKind(t, s.PrepareExport(t.Context(), request("gs://bucket/important.txt")), objects.InvalidURI, "ends in .rdb")
	if err := s.CheckImport("local", "gs://bucket/important.txt"); err != nil {
		t.Errorf("an import, whose content is checked: %v", err)
	}
}

// No name and no symbolic link leads out of a bucket's folder, neither for reading nor for writing.
func TestSymbolicLinksDoNotLeadOutOfABucket(t *testing.T) {
	t.Parallel()
	s, folder := newStore(t)
	if err := put(s, "gs://bucket/in.rdb", "in"); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret.rdb")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	bucket := filepath.Join(folder, "bucket")
	for name, target := range map[string]string{"file.rdb": secret, "dir": outside, "up": "../..", "in2.rdb": "in.rdb"} {
		if err := os.Symlink(target, filepath.Join(bucket, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(folder, "linked")); err != nil {
		t.Fatal(err)
	}
	for _, uri := range []string{"gs://bucket/file.rdb", "gs://bucket/dir/secret.rdb", "gs://bucket/up/buckets/bucket/in.rdb", "gs://linked/secret.rdb"} {
		if got, err := get(s, uri); err == nil {
			t.Errorf("%s: read %q", uri, got)
		}
	}
	for _, uri := range []string{"gs://bucket/dir/secret.rdb", "gs://bucket/dir/new.rdb", "gs://bucket/dir/a/b.rdb", "gs://linked/new.rdb"} {
		if err := put(s, uri, "x"); err == nil {
			t.Errorf("%s: written", uri)
		}
	}
	if err := put(s, "gs://bucket/file.rdb", "new"); err != nil { // replaces the link
		t.Error(err)
	}
	if got, err := os.ReadFile(secret); string(got) != "secret" || err != nil {
		t.Errorf("outside: %q, %v", got, err)
	}
	if got := files(t, outside); len(got) != 1 {
		t.Errorf("outside: %v", got)
	}
	if got, err := get(s, "gs://bucket/in2.rdb"); got != "in" || err != nil {
		t.Errorf("a link within the bucket: %q, %v", got, err)
	}
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	t.Parallel()
	s, folder := newStore(t)
	if err := put(s, "gs://bucket/a/b.rdb", "x"); err != nil {
		t.Fatal(err)
	}
	bucket := filepath.Join(folder, "bucket")
	if err := os.Mkdir(filepath.Join(bucket, "dir.rdb"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(bucket, "pipe.rdb"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := get(s, "gs://bucket/dir.rdb")
	wantKind(t, err, objects.InvalidURI, "no file but a folder")
	_, err = get(s, "gs://bucket/pipe.rdb") // and does not wait for a writer
	wantKind(t, err, objects.InvalidURI, "no file but a device, socket or pipe")
	_, err = get(s, "gs://bucket/a/b.rdb/c.rdb")
	wantKind(t, err, objects.InvalidURI, "not a directory")
	wantKind(t, put(s, "gs://bucket/dir.rdb", "x"), objects.InvalidURI, "is a directory")
	wantKind(t, put(s, "gs://bucket/a/b.rdb/c.rdb", "x"), objects.InvalidURI, "not a directory")
}

// A put that fails in the middle, for whatever reason, leaves the old object and nothing else.
func TestAFailedPutLeavesWhatWasThere(t *testing.T) {
	t.Parallel()
	s, folder := newStore(t)
	const uri = "gs://bucket/a/cache.rdb"
	if err := put(s, uri, "old"); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	cancelled, cancel := context.WithCancel(t.Context())
	for name, c := range map[string]struct {
		ctx  context.Context
		from io.Reader
		size int64
		want error
	}{
		"content fails":                 {t.Context(), io.MultiReader(strings.NewReader("new"), iotest.ErrReader(broken)), 10, broken},
		"content of unknown size fails": {t.Context(), io.MultiReader(strings.NewReader("new"), iotest.ErrReader(broken)), -1, broken},
		"content is short":              {t.Context(), strings.NewReader("new"), 10, io.ErrUnexpectedEOF},
		"content is long":               {t.Context(), strings.NewReader("newer"), 3, io.ErrUnexpectedEOF},
		"content is missing":            {t.Context(), strings.NewReader(""), 1, io.ErrUnexpectedEOF},
		"cancelled": {cancelled, io.MultiReader(strings.NewReader("new"), readerFunc(func(p []byte) (int, error) {
			cancel()
			return copy(p, "more"), nil
		})), 1 << 30, context.Canceled},
	} {
		if err := s.Put(c.ctx, request(uri), c.from, c.size); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", name, err, c.want)
		}
		if got, err := get(s, uri); got != "old" || err != nil {
			t.Errorf("%s: %q, %v; want the old object", name, got, err)
		}
		if got := files(t, folder); len(got) != 1 {
			t.Errorf("%s left %v", name, got)
		}
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// What a server that was killed has left goes at the next export to the folder, and at the next start.
func TestLeftoversOfAKilledPutAreRemoved(t *testing.T) {
	t.Parallel()
	s, folder := newStore(t)
	for _, uri := range []string{"gs://bucket/a/cache.rdb", "gs://bucket/other/x.rdb"} {
		if err := put(s, uri, "old"); err != nil {
			t.Fatal(err)
		}
		leftover := filepath.Join(folder, filepath.Dir(strings.TrimPrefix(uri, "gs://")), ".sealane-pending.LEFTOVER")
		if err := os.WriteFile(leftover, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(s, "gs://bucket/a/next.rdb", "new"); err != nil {
		t.Fatal(err)
	}
	if got, want := files(t, folder), []string{"bucket/a/cache.rdb", "bucket/a/next.rdb", "bucket/other/.sealane-pending.LEFTOVER", "bucket/other/x.rdb"}; !slices.Equal(got, want) {
		t.Errorf("after an export: %v; want %v", got, want)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := files(t, folder); len(got) != 3 {
		t.Errorf("after a sweep: %v", got)
	}
}

func TestASweepLeavesAPutThatIsUnderWay(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	swept := false
	content := io.MultiReader(strings.NewReader("one"), readerFunc(func(p []byte) (int, error) {
		if swept {
			return 0, io.EOF
		}
		swept = true
		if err := s.Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		return copy(p, "two"), nil
	}))
	if err := s.Put(t.Context(), request("gs://bucket/cache.rdb"), content, 6); err != nil {
		t.Fatal(err)
	}
	if got, err := get(s, "gs://bucket/cache.rdb"); got != "onetwo" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAnObjectThatChangesWhileItIsReadIsAnError(t *testing.T) {
	t.Parallel()
	s, folder := newStore(t)
	if err := put(s, "gs://bucket/cache.rdb", strings.Repeat("old", 1000)); err != nil {
		t.Fatal(err)
	}
	read := func(meanwhile func()) (string, error) {
		o, err := s.Open(t.Context(), request("gs://bucket/cache.rdb"))
		if err != nil {
			return "", err
		}
		defer o.Close()
		first := make([]byte, 10)
		if _, err := io.ReadFull(o, first); err != nil {
			return "", err
		}
		meanwhile()
		rest, err := io.ReadAll(o)
		return string(first) + string(rest), err
	}
	got, err := read(func() {
		if err := put(s, "gs://bucket/cache.rdb", "new"); err != nil {
			t.Error(err)
		}
	})
	if got != strings.Repeat("old", 1000) || err != nil {
		t.Errorf("replaced by an export: %d bytes, %v; want the old object", len(got), err)
	}
	path := filepath.Join(folder, "bucket", "cache.rdb")
	_, err = read(func() {})
	if err == nil {
		t.Error("an object of 3 bytes gave 10")
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("old", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = read(func() {
		if err := os.WriteFile(path, []byte(strings.Repeat("mix", 999)), 0o600); err != nil { // in place, as by cp
			t.Error(err)
		}
	})
	wantKind(t, err, objects.Changed, "changed while it was read")
}

func TestAnObjectsSizeNeedNotBeKnown(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	const uri = "gs://bucket/cache.rdb"
	for _, text := range []string{"whole", ""} {
		if err := s.Put(t.Context(), request(uri), strings.NewReader(text), -1); err != nil {
			t.Fatal(err)
		}
		if got, err := get(s, uri); got != text || err != nil {
			t.Errorf("%q, %v; want %q", got, err, text)
		}
	}
}

func TestProgressReachesTheTotal(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	const size = 5 << 20
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	var calls, last, total int64
	progress := func(done, of int64) {
		if done <= last {
			t.Errorf("from %d to %d", last, done)
		}
		calls, last, total = calls+1, done, of
	}
	r := objects.Request{Project: "local", URI: "gs://bucket/cache.rdb", Progress: progress}
	if err := s.Put(t.Context(), r, bytes.NewReader(data), size); err != nil || last != size || total != size || calls < 2 {
		t.Errorf("put: %v, %d calls, %d of %d", err, calls, last, total)
	}
	calls, last, total = 0, 0, 0
	o, err := s.Open(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if got, err := io.ReadAll(o); err != nil || !bytes.Equal(got, data) || last != size || total != size || calls < 2 {
		t.Errorf("open: %v, %d bytes, %d calls, %d of %d", err, len(got), calls, last, total)
	}
}

func TestACancelledReadEnds(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	if err := put(s, "gs://bucket/cache.rdb", "content"); err != nil {
		t.Fatal(err)
	}
	why := errors.New("the operation was cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	o, err := s.Open(ctx, request("gs://bucket/cache.rdb"))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	cancel(why)
	if got, err := io.ReadAll(o); !errors.Is(err, why) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := s.Open(ctx, request("gs://bucket/cache.rdb")); !errors.Is(err, why) {
		t.Errorf("open: %v", err)
	}
}

func TestPrepareExportLeavesNoFile(t *testing.T) {
	t.Parallel()
	s, folder := newStore(t)
	if err := s.PrepareExport(t.Context(), request("gs://bucket/a/cache.rdb")); err != nil {
		t.Fatal(err)
	}
	if got := files(t, folder); len(got) != 0 {
		t.Errorf("files %v", got)
	}
}
