// Package instance is the domain: what an Instance is, the operations on it, and the reconciler that makes reality
// match the record.
//
// One record per instance holds all that is durable about it, including its operations, and changes only by compare-and-swap. So a
// crash at any moment leaves either the state before a step or the state after it, and to recover the reconciler does the same
// steps again. What a node is doing, such as whether its processes run, is observed and never recorded.
//
// Guaranteed: an operation that was returned to a caller is finished, now or after a restart. A node is never run twice. A record
// holds secrets only sealed. What a gateway is given at a time is consistent: its chain, trust anchors and test chains were
// evaluated at one time.
//
// Manager is what other packages use. Inside, records keeps the records, workers runs a goroutine for each instance, reconciler does
// what those goroutines do. A Runtime runs the processes: package local does on this machine.
package instance

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/sealane/sealane/internal/backend"
	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/snapshot"
)

// State is the life of an instance as the API shows it.
type State string

const (
	Creating  State = "CREATING"
	Ready     State = "READY"
	Updating  State = "UPDATING"
	Deleting  State = "DELETING"
	Importing State = "IMPORTING" // the data are being replaced by those of a file
	// Maintained is an instance whose engine is being replaced in its maintenance window.
	Maintained State = "MAINTENANCE"
	// FailingOver is an instance whose primary is being changed because somebody asked for it.
	FailingOver State = "FAILING_OVER"
	Repairing   State = "REPAIRING" // a node is down and being restarted; observed
)

// Spec is what a user asked for, with the defaults filled in.
type Spec struct {
	DisplayName           string
	Labels                map[string]string
	Tier                  Tier   // "" in older records: Basic
	ReplicaCount          int32  `json:",omitempty"`
	ReadReplicas          bool   `json:",omitempty"` // there is a read endpoint
	SecondaryIPRange      string `json:",omitempty"` // as asked for; it changes nothing
	LocationID            string // zone
	AlternativeLocationID string
	RedisVersion          string // REDIS_7_0, VALKEY_8_0, …
	MemorySizeGB          int32
	RedisConfigs          map[string]string
	TransitEncryption     bool
	KeyAlgorithm          pki.Algorithm
	NameConstraints       *bool `json:"-"` // of the CAs; nil: the server's default. It is stored in Instance.Certificates, because a rotation may change it
	AuthEnabled           bool
	MaintenanceVersion    string             `json:"-"` // that a create or an update asks for; what runs is in Instance
	SnapshotPeriod        time.Duration      // RDB persistence; 0: none
	SnapshotStart         time.Time          `json:",omitzero"`  // when the first snapshot is due, and each further one a period later
	Maintenance           *MaintenancePolicy `json:",omitempty"` // nil: maintenance takes place when somebody asks for it
	DataPath              gateway.DataPath   // "": whatever DefaultDataPath is
	// Backend is a Redis that Sealane did not start, in place of an engine; nil: there is an engine. In a record it has no password.
	Backend *backend.Server `json:",omitempty"`
	TLS     gateway.TLSPolicy

	// They describe a virtual network that doesn't exist here; they are kept and shown, and change nothing.
	AuthorizedNetwork string
	ConnectMode       string
	ReservedIPRange   string
}

// Instance is one record.
type Instance struct {
	Name    Name
	UID     string // another one each time that the name is created; nodes are named after it
	Spec    Spec
	Created time.Time
	State   State
	Host    string
	Port    int

	Encryption   *Encryption `json:",omitempty"` // nil: as the Spec says, since the instance was created
	Certificates *pki.State  // nil where there was never encryption
	Sampling     *Sampling   `json:",omitempty"` // nil: none
	SealedAuth   []byte      // the AUTH string; nil without AUTH
	OldAuth      []OldAuth   `json:",omitempty"` // replaced AUTH strings that are still accepted, newest first
	AuthVersion  uint64      `json:",omitempty"` // grows with each change of AUTH

	// EngineSlot is which of the node's places its engine is in; see Node.Slot. EnginePatch is which engine of Spec.RedisVersion it
	// is; "": the newest that is installed. Both change when the engine is replaced.
	EngineSlot  int    `json:",omitempty"`
	EnginePatch string `json:",omitempty"`

	// Schedule is when maintenance that waits takes place; nil: none waits.
	Schedule *MaintenanceSchedule `json:",omitempty"`
	// Snapshots are the last snapshots of the data.
	Snapshots   snapshot.History `json:",omitempty"`
	SealedAdmin []byte           // the password of the control plane's own user in the engine
	// SealedBackend is the password of Spec.Backend; nil: there is none.
	SealedBackend []byte `json:",omitempty"`

	// Replication is the nodes of an instance of tier STANDARD_HA; nil: there is one node.
	Replication *Replication `json:",omitempty"`

	// Deleted makes the record a tombstone: it stays for a while, so that its operations can be looked up, and the name is free.
	Deleted    bool
	Operations []Operation // oldest first; at most one is not done

	// ServerCAs are the CAs that a client should trust now, oldest first. They follow from Certificates and the time.
	ServerCAs []pki.CA `json:"-"`

	// NextSnapshot is when the next snapshot is due; zero: never. It follows from Spec and the time.
	NextSnapshot time.Time `json:"-"`

	// StatusMessage says what is wrong, in words for the user. It is observed, not stored.
	StatusMessage string `json:"-"`

	// MaintenanceVersion is the version of the engine to the patch, and AvailableMaintenanceVersions are those that it could be moved to.
	// They are observed, not stored.
	MaintenanceVersion           string   `json:"-"`
	AvailableMaintenanceVersions []string `json:"-"`

	observedNodes map[int]NodeInfo // by number

	version uint64 // of the record as it was read
}

// Address is host:port.
func (i Instance) Address() string { return net.JoinHostPort(i.Host, strconv.Itoa(i.Port)) }

// nodeID names node n among all nodes of the server. It is short, because it becomes part of a Unix socket's path.
func (i Instance) nodeID(n int) string { return fmt.Sprintf("%s-%d", i.UID, n) }

// pending is the operation under way, or nil.
func (i *Instance) pending() *Operation {
	if n := len(i.Operations); n > 0 && !i.Operations[n-1].Done {
		return &i.Operations[n-1]
	}
	return nil
}

// clone copies the maps and slices that a caller could change.
func (i Instance) clone() Instance {
	i.Spec.Labels = maps.Clone(i.Spec.Labels)
	i.Spec.RedisConfigs = maps.Clone(i.Spec.RedisConfigs)
	i.Operations = slices.Clone(i.Operations)
	i.Replication = i.Replication.clone()
	return i
}

func (i Instance) encode() ([]byte, error) { return json.Marshal(i) }

func decode(key string, value []byte, version uint64) (Instance, error) {
	var i Instance
	if err := json.Unmarshal(value, &i); err != nil {
		return Instance{}, fmt.Errorf("record %s: %w", key, err)
	}
	i.version = version
	return i, nil
}

// OldAuth is an AUTH string that was replaced.
type OldAuth struct {
	Sealed []byte
	Until  time.Time // it is accepted until then
}
