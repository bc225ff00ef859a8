package instance

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/store"
)

// Store keeps records. *store.Store is one; its documentation says what each method guarantees.
type Store interface {
	Get(key string) (store.Record, error)
	List(prefix string) ([]store.Record, error)
	Put(key string, value []byte, version uint64) (uint64, error)
	Delete(key string, version uint64) error
}

// AuditLog keeps for ever what was signed. *audit.Log is one.
type AuditLog interface {
	// Append returns once the entry is durable. A certificate that is there already it leaves as it is, so calling it
	// again after an error, when the entry may be there or not, is safe.
	Append(audit.Entry) error
}

// Config is what a Manager needs. All of it is required but Audit, Projects, Locations, Lifetimes and Changed.
type Config struct {
	Store        Store
	Audit        AuditLog // nil: what is signed is not entered anywhere
	Runtime      Runtime
	Key          pki.MasterKey
	Addresses    Addresses
	Projects     []string      // that may be used; none: any
	Locations    []string      // likewise
	Lifetimes    pki.Lifetimes // of new instances' certificates; zero: the default
	KeyAlgorithm pki.Algorithm // of the CAs of instances for which none is asked; "": P-256
	// NameConstraints says whether the CAs of instances have them for which it isn't said.
	NameConstraints bool
	Now             func() time.Time
	Log             *slog.Logger

	// Changed, if any, is told what was done to certificates, after it was recorded and before it is served. It must not
	// block.
	Changed func(Name, []pki.Action)
}

// Manager has the instances of one server. Its methods may be called concurrently.
type Manager struct {
	Config
	metrics *metrics

	// creating is held while an address is chosen and recorded: two creates must not choose the same.
	creating sync.Mutex

	// mu guards what follows.
	mu       sync.Mutex
	workers  map[Name]*worker
	observed map[Name]observation
	ctx      context.Context // of the workers; nil before Start and after Close
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// observation is what is known of an instance beside its record.
type observation struct {
	trouble string     // why it is not as it should be; "" when it is
	detail  string     // what the operation under way is doing
	busy    *BusyError // if that is why
}

// text is the trouble in words for the user.
func (o observation) text(i Instance, now time.Time) string {
	if o.busy == nil {
		return o.trouble
	}
	return o.busy.text(i, now)
}

// New returns a Manager. It fails when the master key is not the one that the store's secrets were sealed with.
func New(cfg Config) (*Manager, error) {
	m := &Manager{Config: cfg, workers: make(map[Name]*worker), observed: make(map[Name]observation)}
	m.metrics = newMetrics(m)
	if err := m.Lifetimes.Check(); err != nil {
		return nil, err
	}
	if err := m.checkKey(); err != nil {
		return nil, err
	}
	return m, nil
}

const (
	recordPrefix = "projects/"
	keyCheck     = "meta/master-key-check"
)

// checkKey tells a wrong master key at start, before the first certificate can't be renewed for it.
func (m *Manager) checkKey() error {
	const purpose = "master key check"
	r, err := m.Store.Get(keyCheck)
	switch {
	case errors.Is(err, store.ErrNotFound):
		_, err := m.Store.Put(keyCheck, m.Key.Seal(nil, purpose), 0)
		return err
	case err != nil:
		return err
	}
	if _, err := m.Key.Open(r.Value, purpose); err != nil {
		return fmt.Errorf("the secrets in the state were sealed with another master key; give back the one that they were made with: %w", err)
	}
	return nil
}

// Create begins to make an instance. apiVersion, here and in Update and Delete, is kept with the operation.
func (m *Manager) Create(name Name, spec Spec, apiVersion string) (Operation, error) {
	if err := m.checkAllowed(name.Project, name.Location); err != nil {
		return Operation{}, err
	}
	if err := checkID("instance_id", name.ID); err != nil {
		return Operation{}, err
	}
	spec.KeyAlgorithm = cmp.Or(spec.KeyAlgorithm, m.KeyAlgorithm)
	spec, err := spec.complete(name, m.Runtime.Versions())
	if err != nil {
		return Operation{}, err
	}
	m.creating.Lock()
	defer m.creating.Unlock()
	for {
		op, err := m.create(name, spec, apiVersion)
		if !errors.Is(err, store.ErrConflict) { // which means that the tombstone was changed meanwhile
			return op, err
		}
	}
}

// create is called with m.creating held.
func (m *Manager) create(name Name, spec Spec, apiVersion string) (Operation, error) {
	old, err := m.load(name)
	if err != nil && codeOf(err) != NotFound {
		return Operation{}, err
	}
	if err == nil && !old.Deleted {
		return Operation{}, &Error{Code: AlreadyExists, Message: fmt.Sprintf("Resource '%s' already exists", name)}
	}
	i, err := m.design(name, spec)
	if err != nil {
		return Operation{}, err
	}
	i.Operations, i.version = old.Operations, old.version
	op := i.begin(Create, apiVersion, i.Created)
	err = m.save(&i)
	m.wake(name) // after an error too: the record may be there all the same
	if err != nil {
		return Operation{}, err
	}
	return op, nil
}

// design decides all that a new instance will be, before the first trace of it exists.
func (m *Manager) design(name Name, spec Spec) (Instance, error) {
	taken, err := m.takenAddresses()
	if err != nil {
		return Instance{}, err
	}
	address, err := m.Addresses.allocate(taken, spec.TransitEncryption)
	if err != nil {
		return Instance{}, err
	}
	i := Instance{
		Name: name, UID: newUID(), Spec: spec, Created: m.Now().UTC(), State: Creating,
		Host: address.Addr().String(), Port: int(address.Port()),
	}
	names, err := m.names(name, address.Addr())
	if err != nil {
		return Instance{}, err
	}
	i.SealedAdmin = m.Key.Seal([]byte(uuid.NewString()), i.adminPurpose())
	if spec.AuthEnabled {
		i.SealedAuth = m.Key.Seal([]byte(uuid.NewString()), i.authPurpose())
	}
	if spec.TransitEncryption {
		i.Certificates = &pki.State{Algorithm: spec.KeyAlgorithm, Lifetimes: m.Lifetimes, Names: names, NameConstraints: m.NameConstraints}
		if spec.NameConstraints != nil {
			i.Certificates.NameConstraints = *spec.NameConstraints
		}
	}
	return i, nil
}

// newUID returns 48 random bits: short, for it becomes part of a socket's path, and never the same twice.
func newUID() string {
	id := uuid.New()
	return hex.EncodeToString(id[:6])
}

// names are all names and addresses that clients may use to reach an instance, by the configuration.
func (m *Manager) names(name Name, host netip.Addr) (pki.Names, error) {
	n := pki.Names{DNS: m.Addresses.dnsNames(name), IPs: []netip.Addr{host}, URI: name.uri()}
	if host.IsLoopback() {
		// Who comes through a tunnel or a forwarded port dials one of these.
		n.DNS = append(n.DNS, "localhost")
		for _, ip := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
			if ip != host {
				n.IPs = append(n.IPs, ip)
			}
		}
	}
	for _, d := range n.DNS {
		if !dnsName(d) { // a project may be "example.com:id"
			return n, precondition("addresses.dns_names in the server's configuration gives this instance the name %q, which is no DNS name", d)
		}
	}
	return n, nil
}

func (i Instance) authPurpose() string  { return "auth string of " + i.UID }
func (i Instance) adminPurpose() string { return "admin password of " + i.UID }

// Get returns an instance.
func (m *Manager) Get(name Name) (Instance, error) {
	i, err := m.load(name)
	if err != nil {
		return Instance{}, err
	}
	if i.Deleted {
		return Instance{}, notFound(name.String())
	}
	return m.view(i), nil
}

// view adds what is observed to a record.
func (m *Manager) view(i Instance) Instance {
	m.mu.Lock()
	o := m.observed[i.Name]
	m.mu.Unlock()
	if i.State == Ready && o.trouble != "" {
		i.State = Repairing
	}
	now := m.Now()
	i.StatusMessage = o.text(i, now)
	if i.Certificates != nil {
		i.ServerCAs = i.Certificates.At(now).Published()
	}
	i = i.clone()
	if op := i.pending(); op != nil {
		op.Detail = o.detail
		if o.trouble != "" {
			op.Detail = i.StatusMessage
		}
	}
	return i
}

// List returns the instances of a location, or with "-" of all locations, ordered by name.
func (m *Manager) List(project, location string) ([]Instance, error) {
	all, err := m.list(project, location)
	if err != nil {
		return nil, err
	}
	var live []Instance
	for _, i := range all {
		if !i.Deleted {
			live = append(live, m.view(i))
		}
	}
	return live, nil
}

// Change sets what an update changes in a spec.
type Change func(*Spec)

// Update begins to change an instance.
func (m *Manager) Update(name Name, change Change, apiVersion string) (Operation, error) {
	var op Operation
	err := m.mutate(name, func(i *Instance) error {
		if err := i.idle(); err != nil {
			return err
		}
		before := i.Spec.AuthEnabled
		change(&i.Spec)
		if i.Spec.AuthEnabled != before {
			m.switchAuth(i)
		}
		if vs := i.Spec.checkMutable(); len(vs) > 0 {
			return NewViolations(InvalidArgument, vs)
		}
		op = i.begin(Update, apiVersion, m.Now().UTC())
		i.State = Updating
		return nil
	})
	return op, err
}

// Delete begins to delete an instance with its data.
func (m *Manager) Delete(name Name, apiVersion string) (Operation, error) {
	var op Operation
	err := m.mutate(name, func(i *Instance) error {
		if err := i.idle(); err != nil {
			return err
		}
		op = i.begin(Delete, apiVersion, m.Now().UTC())
		i.State = Deleting
		return nil
	})
	return op, err
}

// idle returns an error while another operation is under way.
func (i *Instance) idle() error {
	if i.Deleted {
		return notFound(i.Name.String())
	}
	if op := i.pending(); op != nil {
		name := i.Name.OperationName(op.ID)
		return precondition("'%s' is in state %s: wait for %s, or cancel it", i.Name, i.State, name).because(OperationInProgress, "operation", name)
	}
	return nil
}

// AuthString returns the AUTH string, "" when AUTH is off.
func (m *Manager) AuthString(name Name) (string, error) {
	i, err := m.Get(name)
	if err != nil || i.SealedAuth == nil {
		return "", err
	}
	auth, err := m.Key.Open(i.SealedAuth, i.authPurpose())
	if err != nil {
		return "", fmt.Errorf("auth string of %s: %w", name, err)
	}
	return string(auth), nil
}

// OperationOf is an operation with the instance that it is about, as that is now or was when it was deleted.
type OperationOf struct {
	Operation
	Instance Instance
}

// Operation finds an operation.
func (m *Manager) Operation(project, location, id string) (OperationOf, error) {
	all, err := m.Operations(project, location)
	if err != nil {
		return OperationOf{}, err
	}
	at := slices.IndexFunc(all, func(o OperationOf) bool { return o.ID == id })
	if at < 0 {
		return OperationOf{}, notFound(Name{Project: project, Location: location}.OperationName(id))
	}
	return all[at], nil
}

// Operations lists the operations of a location, or with "-" of all, the newest first.
func (m *Manager) Operations(project, location string) ([]OperationOf, error) {
	all, err := m.list(project, location)
	if err != nil {
		return nil, err
	}
	var ops []OperationOf
	for _, i := range all {
		i = m.view(i)
		for _, op := range i.Operations {
			ops = append(ops, OperationOf{op, i})
		}
	}
	slices.SortStableFunc(ops, func(a, b OperationOf) int { return strings.Compare(b.ID, a.ID) })
	return ops, nil
}

// CancelOperation asks for an operation to be given up. A create is undone; an update or a delete finishes all
// the same, and a finished operation is left as it is.
func (m *Manager) CancelOperation(project, location, id string) error {
	of, err := m.Operation(project, location, id)
	if err != nil || of.Done {
		return err
	}
	err = m.mutate(of.Instance.Name, func(i *Instance) error {
		if op := i.pending(); op != nil && op.ID == id {
			op.CancelRequested = true
		}
		return nil
	})
	if of.Verb == Create {
		m.interrupt(of.Instance.Name) // after an error too: the request may be there all the same
	}
	return err
}

// DeleteOperation forgets a finished operation.
func (m *Manager) DeleteOperation(project, location, id string) error {
	of, err := m.Operation(project, location, id)
	if err != nil {
		return err
	}
	if !of.Done {
		return precondition("operation %s is still running: wait for it, or cancel it", id)
	}
	return m.mutate(of.Instance.Name, func(i *Instance) error {
		i.Operations = slices.DeleteFunc(i.Operations, func(op Operation) bool { return op.ID == id })
		return nil
	})
}

// LocationNames are, sorted, the locations of a project: those that the configuration lists, or "local" and wherever
// there are instances.
func (m *Manager) LocationNames(project string) ([]string, error) {
	if err := m.checkAllowed(project, ""); err != nil {
		return nil, err
	}
	if len(m.Locations) > 0 {
		return slices.Sorted(slices.Values(m.Locations)), nil
	}
	names := []string{"local"}
	all, err := m.List(project, "-")
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		names = append(names, i.Name.Location)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// CheckLocation returns an error for a location that the configuration doesn't list.
func (m *Manager) CheckLocation(project, location string) error {
	return m.checkAllowed(project, location)
}

func (m *Manager) checkAllowed(project, location string) error {
	if len(m.Projects) > 0 && !slices.Contains(m.Projects, project) {
		return &Error{Code: NotFound, Message: fmt.Sprintf("project %q is not one of this server's: %s", project, strings.Join(m.Projects, ", "))}
	}
	if location != "" && location != "-" && len(m.Locations) > 0 && !slices.Contains(m.Locations, location) {
		return &Error{Code: NotFound, Message: fmt.Sprintf("location %q is not one of this server's: %s", location, strings.Join(m.Locations, ", "))}
	}
	return nil
}
