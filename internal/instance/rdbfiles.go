package instance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sealane/sealane/internal/objects"
	"github.com/sealane/sealane/internal/rdb"
)

// Import begins to replace an instance's data by those of an RDB file, which is gs://bucket/object. A file that is no whole RDB file, that
// the engine can't load or whose data don't fit makes the operation fail, and the instance keeps its data.
func (m *Manager) Import(ctx context.Context, name Name, object, apiVersion string) (Operation, error) {
	if err := m.requireEngine(name, "input_config", "to import into", "put the file there as its dbfilename and restart it"); err != nil {
		return Operation{}, err
	}
	if err := m.checkObject("input_config.gcs_source.uri", object, func(s *objects.Store) error { return s.CheckImport(name.Project, object) }); err != nil {
		return Operation{}, err
	}
	return m.begin(name, apiVersion, func(i *Instance) (Operation, error) {
		i.State = Importing
		op := Operation{Verb: Import, Object: object, Target: i.target(i.Spec.RedisVersion, i.EnginePatch)}
		if i.Replication != nil {
			primary := i.Replication.Primary
			op.Replaces = &primary
		}
		return op, nil
	})
}

// Export begins to write an instance's data into an RDB file, which is gs://bucket/object. Clients are served all the while. Until the file
// is whole there is what was there before.
func (m *Manager) Export(ctx context.Context, name Name, object, apiVersion string) (Operation, error) {
	if err := m.requireEngine(name, "output_config", "to export from", "have it write its file there (BGSAVE), or redis-cli --rdb FILE"); err != nil {
		return Operation{}, err
	}
	if err := m.checkObject("output_config.gcs_destination.uri", object, func(s *objects.Store) error { return s.CheckExport(name.Project, object) }); err != nil {
		return Operation{}, err
	}
	return m.begin(name, apiVersion, func(*Instance) (Operation, error) {
		if _, ok := m.runtime.(EngineDumper); !ok {
			return Operation{}, precondition("the data of engines are not this server's to export")
		}
		return Operation{Verb: Export, Object: object}, nil
	})
}

// checkObject returns an error where an object can't be used, as far as that can be seen without looking for it.
func (m *Manager) checkObject(field, object string, check func(*objects.Store) error) error {
	switch store := m.reconciler.objects; {
	case object == "":
		return invalid(field, `"": want gs://bucket/object`)
	case store == nil:
		return precondition("%s: this server has no place for objects", field)
	default:
		err := objectError(check(store))
		var e *Error
		if errors.As(err, &e) {
			e.Violations = []Violation{{field, e.Message}}
			e.Message = field + ": " + e.Message
		}
		return err
	}
}

// objectCodes are the codes of the errors of objects; others are FailedPrecondition.
var objectCodes = map[objects.Kind]Code{
	objects.InvalidURI: InvalidArgument, objects.NotFound: NotFound, objects.Unreachable: Unavailable, objects.DiskFull: ResourceExhausted,
}

// objectError makes an error of an object or of a file's content one for users.
func objectError(err error) error {
	var e *Error
	var object *objects.Error
	var format *rdb.FormatError
	switch {
	case err == nil, errors.As(err, &e):
		return err
	case errors.As(err, &format):
		return &Error{Code: FailedPrecondition, Message: format.Text + "; " + format.Hint, Err: err}
	case errors.As(err, &object):
		code, ok := objectCodes[object.Kind]
		if !ok {
			code = FailedPrecondition
		}
		return &Error{Code: code, Message: object.Error() + "; " + object.Hint(), Err: object.Err}
	}
	return err
}

// export writes the instance's data into the operation's object.
func (r *reconciler) export(ctx context.Context, i Instance, op Operation) error {
	node, err := r.node(i, r.now())
	if err != nil {
		return err
	}
	progress := r.progress(i.Name)
	progress("looking at where the file is to be")
	request := objects.Request{Project: i.Name.Project, URI: op.Object, Progress: paced(func(done, _ int64) { progress("writing the file: " + mebibytes(done)) })}
	if err := r.objects.PrepareExport(ctx, request); err != nil {
		return objectError(err)
	}
	progress("waiting for the engine's snapshot")
	return r.runtime.(EngineDumper).DumpEngine(ctx, node, func(ctx context.Context, dump io.Reader) error {
		checked, err := rdb.NewReader(dump)
		if err != nil {
			return objectError(err)
		}
		return objectError(r.objects.Put(ctx, request, checked, -1))
	})
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// paced calls report a few times a second.
func paced(report func(done, total int64)) func(done, total int64) {
	var last time.Time
	return func(done, total int64) {
		if now := time.Now(); now.Sub(last) > 100*time.Millisecond {
			last = now
			report(done, total)
		}
	}
}

// importSource opens the operation's object, and checks it while it is read.
func (r *reconciler) importSource(i Instance, op Operation) DataSource {
	return func(ctx context.Context) (io.ReadCloser, int64, error) {
		object, err := r.objects.Open(ctx, objects.Request{Project: i.Name.Project, URI: op.Object})
		if err != nil {
			return nil, 0, objectError(err)
		}
		checked, err := rdb.NewReader(object)
		if err == nil {
			v := parseVersion(i.Spec.RedisVersion)
			err = checked.Header.CheckLoadable(engineKind(i.Spec.RedisVersion), v.major, v.minor)
		}
		if err == nil {
			// What the writer of the file took is more than the data: its clients are in it. So only what can't be true of data that fit
			// is refused by that, and the rest by what they take in the new engine.
			err = checked.Header.CheckSize(2 * i.Spec.maxMemory())
		}
		if err != nil {
			object.Close()
			return nil, 0, objectError(err)
		}
		return &importedFile{checked, object}, object.Size, nil
	}
}

func engineKind(version string) string {
	if isValkey(version) {
		return "valkey"
	}
	return "redis"
}

// importedFile is an object that is checked while it is read, with errors for users.
type importedFile struct {
	checked io.Reader
	io.Closer
}

func (f *importedFile) Read(p []byte) (int, error) {
	n, err := f.checked.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = objectError(err)
	}
	return n, err
}
