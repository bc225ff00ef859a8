package instance

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sealane/sealane/internal/audit"
	"github.com/sealane/sealane/internal/ledger"
	"github.com/sealane/sealane/internal/objects"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/plaintext"
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
	// Append returns once the entry is durable. After an error the entry may be there or not, and it is safe to call Append again:
	// a certificate that is there already is not entered twice.
	Append(audit.Entry) error
}

// Config is what a Manager needs. Store, Runtime, Key, Addresses, Now and Log are required.
type Config struct {
	Store        Store
	Audit        AuditLog // nil: what is signed is not entered anywhere
	Runtime      Runtime
	Key          pki.MasterKey
	Addresses    Addresses
	Projects     []string      // those that may be used; none: any
	Locations    []string      // likewise
	Lifetimes    pki.Lifetimes // of new instances' certificates; zero: the default
	KeyAlgorithm pki.Algorithm // of CAs where a create doesn't say; "": P-256
	// NameConstraints says whether CAs have name constraints where a create doesn't say.
	NameConstraints bool
	Now             func() time.Time
	Log             *slog.Logger

	// Objects are what imports and exports read and write; nil: there are neither.
	Objects *objects.Store

	// Commands are what users are told to type.
	Commands Commands

	// Changed, if any, is called with what was done to certificates, after that was recorded and before it is served. It must
	// not block.
	Changed func(Name, []pki.Action)
}

// Manager has the instances of one server. It creates, shows, updates and deletes them. Everything else about them is in its parts, one
// for each noun. All methods may be called concurrently.
type Manager struct {
	Operations   *Operations
	AuthStrings  *AuthStrings
	Certificates *Certificates
	Clients      *ClientEvidence
	DataPlanes   *DataPlanes
	Engines      *Engines
	Encryption   *TransitEncryption
	Snapshots    *Snapshots
	Backends     *Backends

	records    *records
	reader     *reader
	workers    *workers
	secrets    secrets
	reconciler *reconciler
	runtime    Runtime
	defaults   defaults
	addresses  Addresses
	now        func() time.Time
	metrics    *metrics

	// creating is held while an address is chosen and recorded: two must not choose the same.
	creating *sync.Mutex
}

// defaults are for new instances, where a create doesn't say.
type defaults struct {
	lifetimes       pki.Lifetimes
	keyAlgorithm    pki.Algorithm
	nameConstraints bool
}

// certificates are those of an instance that has none yet.
func (d defaults) certificates(spec Spec, names pki.Names) *pki.State {
	s := &pki.State{Algorithm: cmp.Or(spec.KeyAlgorithm, d.keyAlgorithm), Lifetimes: d.lifetimes, Names: names, NameConstraints: d.nameConstraints}
	if spec.NameConstraints != nil {
		s.NameConstraints = *spec.NameConstraints
	}
	return s
}

// New returns a Manager. It fails when the master key is not the one that the store's secrets were sealed with.
func New(cfg Config) (*Manager, error) {
	if err := cfg.Lifetimes.Check(); err != nil {
		return nil, err
	}
	sealed := secrets{cfg.Key}
	if err := sealed.checkMasterKey(cfg.Store); err != nil {
		return nil, err
	}
	ws := &workers{now: cfg.Now, log: cfg.Log, byName: make(map[Name]*worker), observations: make(map[Name]observation), notes: make(map[Name]notes)}
	mons := &monitors{runtime: cfg.Runtime, workers: ws, now: cfg.Now, byName: make(map[Name]*monitor)}
	recs := &records{store: cfg.Store, scope: scope{cfg.Projects, cfg.Locations}, changed: ws.wake}
	read := &reader{records: recs, workers: ws, monitors: mons, runtime: cfg.Runtime, commands: cfg.Commands, builds: cfg.Runtime.Engines(), now: cfg.Now}
	issuer := &certificateIssuer{records: recs, secrets: sealed, addresses: cfg.Addresses, audit: cfg.Audit, changed: cfg.Changed, log: cfg.Log}
	m := &Manager{
		Operations:  &Operations{records: recs, reader: read, workers: ws, waits: make(chan struct{}, maxWaits)},
		AuthStrings: &AuthStrings{records: recs, reader: read, workers: ws, secrets: sealed, now: cfg.Now, log: cfg.Log},
		Clients:     &ClientEvidence{records: recs, kept: clientRecords[ledger.Ledger]{recs, ledgerPrefix}, reader: read, runtime: cfg.Runtime, now: cfg.Now, log: cfg.Log},
		DataPlanes:  &DataPlanes{records: recs, reader: read, workers: ws, runtime: cfg.Runtime, log: cfg.Log},
		Engines:     &Engines{reader: read, workers: ws, runtime: cfg.Runtime},
		Snapshots:   &Snapshots{reader: read, workers: ws, runtime: cfg.Runtime, now: cfg.Now},
		Backends:    &Backends{records: recs, reader: read, workers: ws, runtime: cfg.Runtime, secrets: sealed, log: cfg.Log},
		records:     recs, reader: read, workers: ws, secrets: sealed, runtime: cfg.Runtime,
		defaults: defaults{cfg.Lifetimes, cfg.KeyAlgorithm, cfg.NameConstraints}, addresses: cfg.Addresses, now: cfg.Now, creating: new(sync.Mutex),
	}
	plain := &plaintextClients{records: recs, kept: clientRecords[plaintext.Account]{recs, plaintextPrefix}, runtime: cfg.Runtime, now: cfg.Now, log: cfg.Log}
	m.Encryption = &TransitEncryption{
		records: recs, reader: read, workers: ws, runtime: cfg.Runtime, secrets: sealed, issuer: issuer, evidence: m.Clients, clients: plain,
		defaults: m.defaults, addresses: cfg.Addresses, choosing: m.creating, now: cfg.Now, log: cfg.Log,
	}
	m.Certificates = &Certificates{records: recs, reader: read, workers: ws, secrets: sealed, issuer: issuer, evidence: m.Clients, now: cfg.Now, log: cfg.Log}
	m.metrics = newMetrics(m)
	m.reconciler = &reconciler{
		records: recs, workers: ws, monitors: mons, runtime: cfg.Runtime, objects: cfg.Objects, secrets: sealed, issuer: issuer, authStrings: m.AuthStrings, evidence: m.Clients, plaintext: plain,
		commands: cfg.Commands, now: cfg.Now, log: cfg.Log, restarted: m.metrics.restarted, failedOver: m.metrics.failedOver,
	}
	ws.step = m.reconciler.step
	return m, nil
}

// Start begins to reconcile. It returns once a worker runs for every instance.
func (m *Manager) Start() error {
	live, err := m.records.live()
	if err != nil {
		return err
	}
	ctx := m.workers.start()
	for _, i := range live {
		m.workers.wake(i.Name)
	}
	m.workers.goroutines.Go(func() { m.reconciler.watchExits(ctx) })
	m.workers.goroutines.Go(func() { m.reconciler.sweep(ctx) })
	m.workers.goroutines.Go(func() { m.Clients.collect(ctx) })
	m.workers.goroutines.Go(func() { m.Encryption.clients.collect(ctx) })
	return nil
}

// Settled returns when the first step for each instance is over, or when ctx ends.
func (m *Manager) Settled(ctx context.Context) { m.workers.settled(ctx) }

// Close ends all workers and leaves all nodes running. It is idempotent.
func (m *Manager) Close() { m.workers.close() }

// Create begins to make an instance. apiVersion, here and in Update and Delete, is recorded with the operation.
func (m *Manager) Create(name Name, spec Spec, apiVersion string) (Operation, error) {
	if err := m.records.scope.check(name.Project, name.Location); err != nil {
		return Operation{}, err
	}
	if err := checkID("instance_id", name.ID); err != nil {
		return Operation{}, err
	}
	spec.KeyAlgorithm = cmp.Or(spec.KeyAlgorithm, m.defaults.keyAlgorithm)
	spec, err := spec.complete(name, m.runtime.Engines())
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
	old, err := m.records.load(name)
	if err != nil && codeOf(err) != NotFound {
		return Operation{}, err
	}
	if err == nil && !old.Deleted {
		return Operation{}, &Error{Code: AlreadyExists, Message: fmt.Sprintf("Resource '%s' already exists", name)}
	}
	if err := m.reserveRanges(&spec); err != nil {
		return Operation{}, err
	}
	i, err := m.newInstance(name, spec)
	if err != nil {
		return Operation{}, err
	}
	i.Operations, i.version = old.Operations, old.version
	op := i.begin(Create, nil, apiVersion, i.Created)
	err = m.records.save(&i)
	m.workers.wake(name) // after an error too: the record may be there all the same
	if err != nil {
		return Operation{}, err
	}
	return op, nil
}

// newInstance decides everything about a new instance, before anything of it exists.
func (m *Manager) newInstance(name Name, spec Spec) (Instance, error) {
	taken, err := m.records.takenAddresses()
	if err != nil {
		return Instance{}, err
	}
	address, err := m.addresses.allocate(taken, spec.TransitEncryption)
	if err != nil {
		return Instance{}, err
	}
	i := Instance{
		Name: name, UID: newUID(), Spec: spec, Created: m.now().UTC(), State: Creating,
		Host: address.Addr().String(), Port: int(address.Port()),
	}
	i.Spec.stamp(Spec{}, i.Created)
	names, err := m.addresses.certificateNames(name, address.Addr())
	if err != nil {
		return Instance{}, err
	}
	if err := m.fitNodes(&i); err != nil {
		return Instance{}, err
	}
	i.EnginePatch = buildOf(m.runtime.Engines(), spec.RedisVersion).Patch
	i.SealedAdmin = m.secrets.newAdminPassword(&i)
	if spec.Backend != nil {
		m.secrets.setBackend(&i, *spec.Backend)
	}
	if spec.AuthEnabled {
		i.SealedAuth = m.secrets.newAuthString(&i)
	}
	if spec.TransitEncryption {
		i.Certificates = m.defaults.certificates(spec, names)
	}
	return i, nil
}

// newUID returns 48 random bits, which are never the same twice. It is short, because it becomes part of a socket's path.
func newUID() string {
	id := uuid.New()
	return hex.EncodeToString(id[:6])
}

// Get returns an instance.
func (m *Manager) Get(name Name) (Instance, error) {
	return m.reader.get(name)
}

// List returns the instances of a location, or with "-" of all locations, ordered by name.
func (m *Manager) List(project, location string) ([]Instance, error) {
	all, err := m.records.list(project, location)
	if err != nil {
		return nil, err
	}
	var live []Instance
	for _, i := range all {
		if !i.Deleted {
			live = append(live, m.reader.withObserved(i))
		}
	}
	return live, nil
}

// Change sets what an update changes in a spec.
type Change func(*Spec)

// Update begins to change an instance. What can be seen to be impossible is refused at once, such as a size that the data don't fit in.
// Where the engine refuses the change the operation fails, and the instance is as it was before.
func (m *Manager) Update(ctx context.Context, name Name, change Change, apiVersion string) (Operation, error) {
	m.creating.Lock() // an update may need addresses and ranges
	defer m.creating.Unlock()
	var op Operation
	err := m.records.mutate(name, func(i *Instance) error {
		if err := i.requireNoOperation(); err != nil {
			return err
		}
		before := i.before()
		change(&i.Spec)
		if err := m.updateTier(&i.Spec, before.Spec); err != nil {
			return err
		}
		i.Spec.stamp(before.Spec, m.now().UTC())
		maintenance := i.Spec.MaintenanceVersion
		i.Spec.MaintenanceVersion = ""
		if i.Spec.AuthEnabled != before.Spec.AuthEnabled {
			m.AuthStrings.follow(i)
		}
		if err := i.Spec.checkUpdate(before.Spec, m.runtime.Engines()); err != nil {
			return err
		}
		if i.Spec.MemorySizeGB < before.Spec.MemorySizeGB && i.Spec.Backend == nil {
			if err := m.Engines.checkFits(ctx, *i); err != nil {
				return err
			}
		}
		if err := m.fitNodes(i); err != nil {
			return err
		}
		var target *EngineTarget
		if maintenance != "" {
			var err error
			if target, err = i.maintenanceTarget(maintenance, m.runtime.Engines(), m.workers.running(name)); err != nil {
				return err
			}
		}
		if was, _ := before.Spec.Maintenance.window(); !i.Spec.Maintenance.hasWindow(was) {
			i.Schedule = nil // it is scheduled anew
		}
		op = i.begin(Update, before, apiVersion, m.now().UTC())
		i.State = Updating
		if target != nil {
			i.State = Maintained
			op.Target = target
			*i.pending() = op
		}
		return nil
	})
	return op, err
}

// Delete begins to delete an instance with its data.
func (m *Manager) Delete(name Name, apiVersion string) (Operation, error) {
	var op Operation
	err := m.records.mutate(name, func(i *Instance) error {
		if err := i.requireNoOperation(); err != nil {
			return err
		}
		op = i.begin(Delete, nil, apiVersion, m.now().UTC())
		i.State = Deleting
		return nil
	})
	return op, err
}

// LocationNames are, sorted, the locations of a project: those that the configuration lists, or "local" and wherever
// there are instances.
func (m *Manager) LocationNames(project string) ([]string, error) {
	if err := m.records.scope.check(project, ""); err != nil {
		return nil, err
	}
	if locations := m.records.scope.locations; len(locations) > 0 {
		return slices.Sorted(slices.Values(locations)), nil
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
	return m.records.scope.check(project, location)
}
