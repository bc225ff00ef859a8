package instance

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/sealane/sealane/internal/store"
)

const recordPrefix = "projects/"

// records are the instances in the store: one record each, which changes only by compare-and-swap.
type records struct {
	store   Store
	scope   scope
	changed func(Name) // is told of each record that mutate has changed
}

// scope is which projects and locations the configuration allows; none: any.
type scope struct{ projects, locations []string }

// check returns an error for a project or a location that the configuration doesn't list. A location may be "" or "-".
func (s scope) check(project, location string) error {
	if len(s.projects) > 0 && !slices.Contains(s.projects, project) {
		return &Error{Code: NotFound, Message: fmt.Sprintf("project %q is not one of this server's: %s", project, strings.Join(s.projects, ", "))}
	}
	if location != "" && location != "-" && len(s.locations) > 0 && !slices.Contains(s.locations, location) {
		return &Error{Code: NotFound, Message: fmt.Sprintf("location %q is not one of this server's: %s", location, strings.Join(s.locations, ", "))}
	}
	return nil
}

func (r *records) load(name Name) (Instance, error) {
	record, err := r.store.Get(name.String())
	if errors.Is(err, store.ErrNotFound) {
		return Instance{}, notFound(name.String())
	}
	if err != nil {
		return Instance{}, stateError("read", err)
	}
	return decode(record.Key, record.Value, record.Version)
}

// save commits a changed record. After nil the change is durable. After store.ErrConflict, and as far as can be told after any other
// error, it is not there.
func (r *records) save(i *Instance) error {
	value, err := i.encode()
	if err != nil {
		return fmt.Errorf("encode %s: %w", i.Name, err)
	}
	key := i.Name.String()
	version, err := r.store.Put(key, value, i.version)
	if err != nil {
		// The write may have been stored all the same. A record that holds just these bytes was written by this call, because
		// every operation's id and every certificate is unlike any other; or by a call that wanted the same.
		stored, readErr := r.store.Get(key)
		if readErr != nil || stored.Version != i.version+1 || !bytes.Equal(stored.Value, value) {
			if errors.Is(err, store.ErrConflict) {
				return err
			}
			return stateError("write", err)
		}
		version = stored.Version
	}
	i.version = version
	return nil
}

// mutate changes a record by compare-and-swap, and reports it as changed. When another change was faster it begins anew, so change
// may be called several times.
func (r *records) mutate(name Name, change func(*Instance) error) error {
	for {
		i, err := r.load(name)
		if err != nil {
			return err
		}
		if err := change(&i); err != nil {
			return err
		}
		err = r.save(&i)
		if err == nil {
			r.changed(name)
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// list returns the records of a location, or with "-" of all, tombstones included.
func (r *records) list(project, location string) ([]Instance, error) {
	if err := r.scope.check(project, location); err != nil {
		return nil, err
	}
	prefix := recordPrefix + project + "/locations/"
	if location != "-" {
		prefix += location + "/instances/"
	}
	return r.listPrefix(prefix)
}

func (r *records) listPrefix(prefix string) ([]Instance, error) {
	stored, err := r.store.List(prefix)
	if err != nil {
		return nil, stateError("read", err)
	}
	instances := make([]Instance, 0, len(stored))
	for _, s := range stored {
		i, err := decode(s.Key, s.Value, s.Version)
		if err != nil {
			return nil, err
		}
		instances = append(instances, i)
	}
	return instances, nil
}

// live are all instances of the server that aren't deleted.
func (r *records) live() ([]Instance, error) {
	all, err := r.listPrefix(recordPrefix)
	var live []Instance
	for _, i := range all {
		if !i.Deleted {
			live = append(live, i)
		}
	}
	return live, err
}

func (r *records) takenAddresses() (map[netip.AddrPort]bool, error) {
	live, err := r.live()
	taken := make(map[netip.AddrPort]bool, len(live))
	for _, i := range live {
		for _, a := range i.addresses() {
			taken[a] = true
		}
	}
	return taken, err
}

// StateError is stateError for records that are not instances.
func StateError(verb string, err error) error { return stateError(verb, err) }

// stateError turns an error of the store into one that users can act on. The usual reason is a full disk.
func stateError(verb string, err error) error {
	e := &Error{Code: Internal, Message: "cannot " + verb + " the state: see the server's log", Err: err}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Code, e.Reason, e.Message = ResourceExhausted, DiskFull, "cannot "+verb+" the state: the disk is full: free space in the server's state folder and try again"
	case errors.Is(err, syscall.EROFS):
		e.Code, e.Reason, e.Message = FailedPrecondition, StateNotWritable, "cannot "+verb+" the state: the server's state folder is not writable, because it is on a read-only file system: make it so and try again"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		e.Code, e.Reason, e.Message = FailedPrecondition, StateNotWritable, "cannot "+verb+" the state: the server's state folder is not writable: make it so and try again"
	case errors.Is(err, store.ErrDamaged):
		e.Reason, e.Message = StateDamaged, "cannot "+verb+" the state: state.db is damaged: stop the server, put it back from a backup, and start again; gateways and engines go on meanwhile"
	case errors.Is(err, store.ErrClosed):
		e.Code, e.Reason, e.Message = Unavailable, ServerStopping, "the server is stopping: try again when it is back"
	}
	return e
}
