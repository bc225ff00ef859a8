// Package objects reads and writes the objects that imports and exports name, such as gs://bucket/folder/dump.rdb. By the configuration a
// bucket is a folder of this machine, or one at an endpoint that speaks the API of Google Cloud Storage or of Amazon S3.
//
// Guaranteed: Put leaves the whole object under its name, durably, or what was there before; never a part, whatever fails and wherever
// it is killed. What a killed Put leaves in a folder has a name of its own and goes with the next Put or Sweep. An object that is
// replaced while it is read is an error, never a mixture. Names can't lead out of a bucket's folder. Every error is an *Error that says
// what to do, or the context's.
//
// Not guaranteed: that an object is an RDB file; see package rdb. Of two that write the same object, one wins. What a killed Put leaves
// unfinished at an endpoint can't be seen as an object, and the endpoint's own rules remove it.
package objects

import (
	"context"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Config is what a Store is made of.
type Config struct {
	// Buckets are those of the configuration, by name. AnyBucket stands for all others.
	Buckets map[string]Bucket
	// StateDir is the server's state folder, which no bucket may touch except below DefaultFolder.
	StateDir string
	// DefaultFolder has a folder per bucket where Buckets is nil. It is made when something is exported.
	DefaultFolder string
}

// AnyBucket is the name that stands for all buckets without an entry of their own.
const AnyBucket = "*"

// Store knows where buckets are. It holds no connections, reads credentials anew each time, and is safe for concurrent use.
type Store struct {
	buckets map[string]Bucket
	byState string // the folder of buckets that is the default; "" where the configuration says otherwise
}

// New checks the configuration. It reaches nobody and makes nothing.
func New(c Config) (*Store, error) {
	s := &Store{buckets: c.Buckets}
	if c.Buckets == nil {
		s.buckets, s.byState = map[string]Bucket{AnyBucket: {Folder: c.DefaultFolder}}, c.DefaultFolder
	}
	if problems := CheckBuckets(c.Buckets); len(problems) > 0 {
		return nil, newError(BucketNotConfigured, "", strings.Join(problems, "; "), "docs/import-export.md lists every field")
	}
	if err := checkFolders(c); err != nil {
		return nil, err
	}
	return s, nil
}

// Request names an object on behalf of a project.
type Request struct {
	Project string // "projects/PROJECT" without "projects/"
	URI     string // gs://BUCKET/OBJECT, or s3://BUCKET/OBJECT for a bucket at an S3 endpoint
	// Progress, if any, is told the bytes that are done and the total, 0 if that isn't known. It is called for each piece of some
	// kilobytes, by the goroutine that reads or writes.
	Progress func(done, total int64)
}

// Object is the content of an object. Reading it ends with io.EOF only where it is complete.
type Object struct {
	io.ReadCloser
	Size     int64 // 0 if it isn't known
	Modified time.Time
}

// source is where the objects of one bucket are.
type source interface {
	// open returns the content from an offset on. With a version it is that version's, or an error of kind Changed.
	open(ctx context.Context, object string, offset int64, version string) (content, error)
	// put writes an object of a size, -1 where it isn't known. Until it has returned, and when it returns an error, the object is what it was.
	put(ctx context.Context, object string, r io.Reader, size int64) error
	// prepare finds what would keep put from working, as far as that can be found without writing the object.
	prepare(ctx context.Context, object string) error
}

// content is what open returns.
type content struct {
	io.ReadCloser
	size     int64 // of the whole object; 0 if it isn't known
	modified time.Time
	version  string // changes with the content
}

// CheckImport returns an error when the URI is malformed, or the project may not use the bucket. It reaches nobody.
func (s *Store) CheckImport(project, uri string) error {
	_, _, err := s.bucketOf(Request{Project: project, URI: uri})
	return err
}

// CheckExport is CheckImport for an export, whose object has to end in .rdb, so that it can't replace something else by mistake.
func (s *Store) CheckExport(project, uri string) error {
	u, _, err := s.bucketOf(Request{Project: project, URI: uri})
	if err == nil && !strings.HasSuffix(u.object, ".rdb") {
		return newError(InvalidURI, uri, "the name of an exported object ends in .rdb", "export to %s.rdb", uri)
	}
	return err
}

// Open opens an object.
func (s *Store) Open(ctx context.Context, r Request) (*Object, error) {
	u, src, err := s.source(r)
	if err != nil {
		return nil, err
	}
	o, err := openResuming(ctx, src, u.object, r.Progress)
	if err != nil {
		return nil, finish(ctx, r.URI, err)
	}
	o.wrap = func(err error) error { return finish(ctx, r.URI, err) }
	return &Object{ReadCloser: o, Size: o.size, Modified: o.modified}, nil
}

// PrepareExport finds what would keep Put from working, before a snapshot is made for it. It may make the folder of the object.
func (s *Store) PrepareExport(ctx context.Context, r Request) error {
	if err := s.CheckExport(r.Project, r.URI); err != nil {
		return err
	}
	u, src, err := s.source(r)
	if err != nil {
		return err
	}
	return finish(ctx, r.URI, src.prepare(ctx, u.object))
}

// Put writes an object of a size, or of one that isn't known (-1), and replaces the one that is there. When the content ends early, is
// longer, or fails with an error, Put fails and the object stays what it was; the content's error is in the chain.
func (s *Store) Put(ctx context.Context, r Request, from io.Reader, size int64) error {
	if err := s.CheckExport(r.Project, r.URI); err != nil {
		return err
	}
	u, src, err := s.source(r)
	if err != nil {
		return err
	}
	content := &exactly{r: from, size: size, ctx: ctx, progress: r.Progress}
	err = src.put(ctx, u.object, content, size)
	if err != nil && content.err != nil && content.err != io.EOF {
		err = content.err // whatever the library makes of it
	}
	return finish(ctx, r.URI, err)
}

// Sweep removes what killed Puts have left in the folders. It goes on after an error, and returns all of them.
func (s *Store) Sweep(ctx context.Context) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.buckets)) {
		if folder := s.buckets[name].Folder; folder != "" {
			if err := sweepFolder(ctx, folder); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// bucketOf finds the bucket of a URI.
func (s *Store) bucketOf(r Request) (uri, Bucket, error) {
	u, err := parseURI(r.URI)
	if err != nil {
		return u, Bucket{}, err
	}
	b, ok := s.buckets[u.bucket]
	if !ok {
		b, ok = s.buckets[AnyBucket]
		b.shared = true
	}
	if !ok {
		return u, b, newError(BucketNotConfigured, r.URI, "the server's configuration has no bucket "+u.bucket,
			"add it under buckets in the configuration of `sealane serve` (docs/import-export.md); it has %s", quoteAll(slices.Sorted(maps.Keys(s.buckets))))
	}
	if len(b.Projects) > 0 && !slices.Contains(b.Projects, r.Project) {
		return u, b, newError(NotAllowed, r.URI, "the project "+r.Project+" may not use the bucket "+u.bucket,
			"add the project to buckets.%s.projects in the configuration of `sealane serve`, or use another bucket", u.bucket)
	}
	if u.scheme == "s3" && b.Service != S3 {
		return u, b, newError(InvalidURI, r.URI, "the bucket "+u.bucket+" is not at an S3 endpoint", "write gs://%s/%s", u.bucket, u.object)
	}
	return u, b, nil
}

func (s *Store) source(r Request) (uri, source, error) {
	u, b, err := s.bucketOf(r)
	if err != nil {
		return u, nil, err
	}
	name := u.bucket
	if b.Bucket != "" {
		name = b.Bucket
	}
	switch {
	case b.Service == S3:
		return u, &s3Bucket{b, name}, nil
	case b.Service == GCS:
		return u, &gcsBucket{b, name}, nil
	case b.shared:
		return u, &folder{path: b.Folder, sub: name, makes: b.Folder == s.byState}, nil
	}
	return u, &folder{path: b.Folder}, nil
}

// checkFolders keeps exports out of the state folder, whose files they could replace.
func checkFolders(c Config) error {
	state, exports := resolved(c.StateDir), resolved(c.DefaultFolder)
	for _, name := range slices.Sorted(maps.Keys(c.Buckets)) {
		folder := c.Buckets[name].Folder
		if folder == "" {
			continue
		}
		if path := resolved(folder); within(path, state) && !within(path, exports) || within(state, path) {
			return newError(BucketNotConfigured, "", "buckets."+name+".folder: "+folder+" and the state folder "+c.StateDir+" are one in the other",
				"name a folder elsewhere: an export could replace the server's own files")
		}
	}
	return nil
}

// resolved is a path without symbolic links, as far as it is there.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if parent := filepath.Dir(path); parent != path {
		return filepath.Join(resolved(parent), filepath.Base(path))
	}
	return path
}

// within is whether a path is a folder, or in it.
func within(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && filepath.IsLocal(rel)
}
