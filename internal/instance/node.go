package instance

import (
	"fmt"
	"time"

	"github.com/sealane/sealane/internal/gateway"
	"github.com/sealane/sealane/internal/pki"
)

// node says what the node of the engine that takes writes is to run at a time. For an instance with one node, that is the node.
func (r *reconciler) node(i Instance, now time.Time) (Node, error) {
	if i.Replication == nil {
		return r.onlyNode(i, now)
	}
	n, err := r.nodeOf(i, i.Replication.Primary, now)
	if err != nil || i.Replication.Primary == 0 {
		return n, err
	}
	front, err := r.nodeOf(i, 0, now)
	n.Front = &front
	return n, err
}

// onlyNode is the node of an instance that has no other.
func (r *reconciler) onlyNode(i Instance, now time.Time) (Node, error) {
	n, err := r.engineNode(i, 0)
	if err != nil {
		return Node{}, err
	}
	n.Gateway, n.Host = r.endpoint(i), i.Host
	if i.Spec.Backend != nil {
		if err := r.toBackend(&n, i); err != nil {
			return Node{}, err
		}
	}
	return n, r.addChains(&n, i, now)
}

// engineNode is what a node's engine is to run.
func (r *reconciler) engineNode(i Instance, number int) (n Node, err error) {
	own, _ := i.buildOf(number)
	i.Spec.RedisVersion, i.EnginePatch = own.version, own.patch
	n = Node{
		ID: i.nodeID(number), Instance: i.Name, Version: i.Spec.RedisVersion, Patch: i.EnginePatch, Slot: i.EngineSlot, Directives: i.Spec.directives(),
		KeepDump: i.Spec.SnapshotPeriod > 0, MemoryLimit: i.Spec.memoryLimit(), NetworkNamespace: r.issuer.addresses.place(number).NetworkNamespace,
	}
	if n.AdminPassword, err = r.secrets.adminPassword(i); err != nil {
		return Node{}, err
	}
	n.PasswordHashes, err = r.secrets.passwordHashes(i)
	return n, err
}

// endpoint is what the gateway of the instance's endpoint is to serve, but for certificates.
func (r *reconciler) endpoint(i Instance) gateway.Snapshot {
	return gateway.Snapshot{
		Listeners:   i.listeners(),
		Connect:     i.connectHint(r.commands),
		Auth:        i.AuthVersion,
		MaxClients:  i.Spec.maxClients(),
		DataPath:    i.Spec.snapshotPath(),
		TLSPolicy:   i.Spec.TLS,
		IdleTimeout: i.Spec.idleTimeout(),

		SystemMemory: i.Spec.systemMemory(),
	}
}

// addChains gives a node's gateway the instance's certificates, where it has a listener with TLS.
func (r *reconciler) addChains(n *Node, i Instance, now time.Time) (err error) {
	if i.TLSPort() == 0 || i.Certificates == nil || i.Certificates.Leaf == nil {
		return nil
	}
	view := i.Certificates.At(now)
	if n.Gateway.Certificate, n.Gateway.PrivateKey, err = view.Chain(r.secrets.key); err != nil {
		return err
	}
	n.Bundle, n.Gateway.Anchors = view.Bundle(), view.Anchors()
	return addTestChains(&n.Gateway, view, r.secrets.key, i.activeSampling(view))
}

// nodeOf says what one node of several is to run at a time.
func (r *reconciler) nodeOf(i Instance, number int, now time.Time) (Node, error) {
	record := i.Replication.node(number)
	if record == nil {
		return Node{}, fmt.Errorf("instance %s has no %s", i.Name, NodeName(number))
	}
	n, err := r.engineNode(i, number)
	if err != nil {
		return Node{}, err
	}
	n.Slot = record.Slot
	if n.Replication, err = r.nodeReplication(i, *record, now); err != nil {
		return Node{}, err
	}
	switch read := i.readAddress(); {
	case number == 0:
		n.Gateway, n.Host = r.endpoint(i), i.Host
		n.Gateway.Standby = true
		n.Serves = r.engineRef(i, i.Replication.Primary)
	case read != "":
		n.Gateway, n.Host = r.endpoint(i), i.Replication.ReadHost
		n.Gateway.Standby, n.Gateway.ReadOnly = true, true
		n.Gateway.Listeners = []gateway.Listener{{Address: read, TLS: i.Spec.TransitEncryption, Shared: true}}
		n.Serves = r.engineRef(i, r.monitors.readFrom(i, number))
	default:
		return n, nil // its gateway lets replicas in, and nobody else
	}
	return n, r.addChains(&n, i, now)
}

// engineRef is the engine of a node.
func (r *reconciler) engineRef(i Instance, number int) *EngineRef {
	ref := &EngineRef{NodeID: i.nodeID(number)}
	if n := i.Replication.node(number); n != nil {
		ref.Slot = n.Slot
	}
	return ref
}

// backlogShare is which part of an instance's size is for the replication backlog, as in the managed service.
const backlogShare = 10

// nodeReplication is what a node needs as one of several.
func (r *reconciler) nodeReplication(i Instance, record NodeRecord, now time.Time) (*NodeReplication, error) {
	password, err := r.secrets.replicationPassword(i)
	if err != nil {
		return nil, err
	}
	n := &NodeReplication{
		Address: record.address(), Password: password, Identity: pki.PeerIdentity(i.Name.identity()),
		Backlog: int64(i.Spec.MemorySizeGB) * gib / backlogShare,
	}
	if record.Number != i.Replication.Primary {
		primary := i.Replication.node(i.Replication.Primary)
		if primary == nil {
			return nil, fmt.Errorf("instance %s has no %s, which should be the primary", i.Name, NodeName(i.Replication.Primary))
		}
		n.Primary = primary.address()
	}
	view := i.ownCertificates().At(now)
	if n.Certificate, n.PrivateKey, err = view.PeerChain(r.secrets.key); err != nil {
		return nil, err
	}
	n.Authorities = view.PeerAuthorities()
	return n, nil
}

// connectHint is what the gateway tells a client that connects without TLS, or with it where there is none.
func (i Instance) connectHint(c Commands) string {
	if i.TLSPort() == 0 {
		return fmt.Sprintf("redis-cli -h %s -p %d", i.Host, i.Port)
	}
	hint := fmt.Sprintf("redis-cli --tls --cacert ca.pem -h %s -p %d", i.Host, i.TLSPort())
	if c.CABundle != nil {
		hint += fmt.Sprintf(" (ca.pem: %s > ca.pem)", c.CABundle(i.Name))
	}
	return hint
}
