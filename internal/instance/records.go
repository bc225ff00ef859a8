package instance

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/sealane/sealane/internal/store"
)

func (m *Manager) load(name Name) (Instance, error) {
	r, err := m.Store.Get(name.String())
	if errors.Is(err, store.ErrNotFound) {
		return Instance{}, notFound(name.String())
	}
	if err != nil {
		return Instance{}, stateError("read", err)
	}
	return decode(r.Key, r.Value, r.Version)
}

// save commits a changed record. After it returned nil the change is durable; after an error that is not
// store.ErrConflict the change is not there, as far as can be told.
func (m *Manager) save(i *Instance) error {
	value, err := i.encode()
	if err != nil {
		return fmt.Errorf("encode %s: %w", i.Name, err)
	}
	key := i.Name.String()
	version, err := m.Store.Put(key, value, i.version)
	if err != nil {
		// The write may have been stored all the same. Whoever finds its own words there has written them, since
		// every operation id and certificate is unlike any other; or somebody else has wished for the same.
		r, readErr := m.Store.Get(key)
		if readErr != nil || r.Version != i.version+1 || !bytes.Equal(r.Value, value) {
			if errors.Is(err, store.ErrConflict) {
				return err
			}
			return stateError("write", err)
		}
		version = r.Version
	}
	i.version = version
	return nil
}

// mutate changes a record by compare-and-swap, again when somebody else was faster, and wakes its worker.
func (m *Manager) mutate(name Name, change func(*Instance) error) error {
	for {
		i, err := m.load(name)
		if err != nil {
			return err
		}
		if err := change(&i); err != nil {
			return err
		}
		err = m.save(&i)
		if err == nil {
			m.wake(name)
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// list returns the records of a location, or with "-" of all, tombstones included.
func (m *Manager) list(project, location string) ([]Instance, error) {
	if err := m.checkAllowed(project, location); err != nil {
		return nil, err
	}
	prefix := recordPrefix + project + "/locations/"
	if location != "-" {
		prefix += location + "/instances/"
	}
	return m.listPrefix(prefix)
}

func (m *Manager) listPrefix(prefix string) ([]Instance, error) {
	records, err := m.Store.List(prefix)
	if err != nil {
		return nil, stateError("read", err)
	}
	instances := make([]Instance, 0, len(records))
	for _, r := range records {
		i, err := decode(r.Key, r.Value, r.Version)
		if err != nil {
			return nil, err
		}
		instances = append(instances, i)
	}
	return instances, nil
}

// live are all instances of the server that aren't deleted.
func (m *Manager) live() ([]Instance, error) {
	all, err := m.listPrefix(recordPrefix)
	var live []Instance
	for _, i := range all {
		if !i.Deleted {
			live = append(live, i)
		}
	}
	return live, err
}

func (m *Manager) takenAddresses() (map[netip.AddrPort]bool, error) {
	live, err := m.live()
	taken := make(map[netip.AddrPort]bool, len(live))
	for _, i := range live {
		if a, err := netip.ParseAddrPort(i.Address()); err == nil {
			taken[a] = true
		}
	}
	return taken, err
}

// stateError is what a user reads when the store fails; a full disk is the usual reason.
func stateError(verb string, err error) error {
	e := &Error{Code: Internal, Message: "cannot " + verb + " the state: see the server's log", Err: err}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Code, e.Reason, e.Message = ResourceExhausted, DiskFull, "cannot "+verb+" the state: the disk is full: free space in the server's state folder and try again"
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		e.Code, e.Reason, e.Message = FailedPrecondition, StateNotWritable, "cannot "+verb+" the state: the server's state folder is not writable: make it so and try again"
	case errors.Is(err, store.ErrDamaged):
		e.Reason, e.Message = StateDamaged, "cannot "+verb+" the state: state.db is damaged: stop the server, put it back from a backup, and start again; gateways and engines go on meanwhile"
	case errors.Is(err, store.ErrClosed):
		e.Code, e.Reason, e.Message = Unavailable, ServerStopping, "the server is stopping: try again when it is back"
	}
	return e
}
