package instance

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/sealane/sealane/internal/pki"
)

// Tier is whether an instance has replicas.
type Tier string

const (
	Basic      Tier = "BASIC" // one node; also "", in older records
	StandardHA Tier = "STANDARD_HA"
)

// keepFailovers bounds the record's size.
const keepFailovers = 20

// Replication is the nodes of an instance of tier STANDARD_HA, and which of them is the primary.
//
// The gateway of node-0 is at the instance's endpoint for good, whichever node is the primary. Its snapshot, which it has on disk, says
// whose engine takes writes; Primary follows it.
type Replication struct {
	Nodes   []NodeRecord // in the order of their numbers; node-0 is always there
	Primary int          // the number of the node whose engine takes writes
	// History is the replication ID of the data that the primary has, or had last: only an engine whose data are of that history may
	// take over. "": the primary has not run yet.
	History string
	// Previous is the history before the primary was promoted, until its replicas have followed it: until then they may take over with that.
	Previous string `json:",omitempty"`
	// SealedPassword is that of the engines' user for replication.
	SealedPassword []byte
	// Certificates are those by which nodes know each other, where the instance has none for its clients.
	Certificates *pki.State `json:",omitempty"`
	// ReadHost and ReadPort are the read endpoint; "": there is none.
	ReadHost string `json:",omitempty"`
	ReadPort int    `json:",omitempty"`
	// Failovers are the last changes of the primary, oldest first.
	Failovers []FailoverRecord `json:",omitempty"`
	// Removing are nodes that are not wanted any more, and may still have processes and files.
	Removing []int `json:",omitempty"`
}

// NodeRecord is one node of several.
type NodeRecord struct {
	Number int
	Zone   string
	// Host and Port are where replicas connect to when this node is the primary.
	Host string
	Port int
	Slot int `json:",omitempty"` // see Node.Slot
	// Version and Patch are of the node's engine while an upgrade goes from node to node; "": those of the instance.
	Version string `json:",omitempty"`
	Patch   string `json:",omitempty"`
}

// FailoverRecord is one change of the primary.
type FailoverRecord struct {
	Time     time.Time
	From, To int
	Reason   string // why, in words for the user
	Planned  bool
	// Took is for how long nobody could write: from when the fault was first seen, or from when clients were held.
	Took time.Duration
}

func (n NodeRecord) address() netip.AddrPort {
	host, _ := netip.ParseAddr(n.Host) // it is an address that was chosen here
	return netip.AddrPortFrom(host, uint16(n.Port))
}

// NodeName is how the API names a node.
func NodeName(number int) string { return "node-" + strconv.Itoa(number) }

// node returns the record of a node.
func (r *Replication) node(number int) *NodeRecord {
	for k := range r.Nodes {
		if r.Nodes[k].Number == number {
			return &r.Nodes[k]
		}
	}
	return nil
}

// replicas are the numbers of the nodes that are not the primary.
func (r *Replication) replicas() (numbers []int) {
	for _, n := range r.Nodes {
		if n.Number != r.Primary {
			numbers = append(numbers, n.Number)
		}
	}
	return numbers
}

// changePrimary notes a failover.
func (r *Replication) changePrimary(f FailoverRecord) {
	r.Primary = f.To
	r.Failovers = append(r.Failovers, f)
	if n := len(r.Failovers); n > keepFailovers {
		r.Failovers = slices.Clone(r.Failovers[n-keepFailovers:])
	}
}

func (r *Replication) clone() *Replication {
	if r == nil {
		return nil
	}
	c := *r
	c.Nodes, c.Failovers, c.Removing = slices.Clone(r.Nodes), slices.Clone(r.Failovers), slices.Clone(r.Removing)
	return &c
}

// nodeIDs are all nodes that the instance has, or may still have.
func (i Instance) nodeIDs() []string {
	if i.Replication == nil {
		return []string{i.nodeID(0)}
	}
	var ids []string
	for _, n := range i.Replication.Nodes {
		ids = append(ids, i.nodeID(n.Number))
	}
	for _, k := range i.Replication.Removing {
		ids = append(ids, i.nodeID(k))
	}
	return ids
}

// clientGateways are the nodes whose gateways have clients: that of the endpoint first, then those of the read endpoint.
func (i Instance) clientGateways() []string {
	if i.readAddress() == "" {
		return []string{i.nodeID(0)}
	}
	var ids []string
	for _, n := range i.Replication.Nodes {
		ids = append(ids, i.nodeID(n.Number))
	}
	return ids
}

// primaryID is the name of the node whose engine takes writes.
func (i Instance) primaryID() string {
	if i.Replication == nil {
		return i.nodeID(0)
	}
	return i.nodeID(i.Replication.Primary)
}

// NodeInfo is a node as users see it.
type NodeInfo struct {
	Number  int
	ID      string // "node-0"
	Zone    string
	Primary bool
	// What follows is observed, and of replicas; Known is false before the first look.
	Known  bool
	InSync bool
	Lag    time.Duration // for how long it has lacked something that the primary has
	Offset int64         // how far in the history of the data
	Fault  string        // why it does not work; "": it does, as far as is known
}

// NodeInfos are the instance's nodes. What is observed of them is only in instances that a Manager has returned.
func (i Instance) NodeInfos() []NodeInfo {
	if i.Replication == nil {
		return []NodeInfo{{ID: NodeName(0), Zone: i.Spec.LocationID, Primary: true}}
	}
	var infos []NodeInfo
	for _, n := range i.Replication.Nodes {
		info := i.observedNodes[n.Number]
		info.Number, info.ID, info.Zone, info.Primary = n.Number, NodeName(n.Number), n.Zone, n.Number == i.Replication.Primary
		infos = append(infos, info)
	}
	return infos
}

// CurrentLocationID is the zone of the primary.
func (i Instance) CurrentLocationID() string {
	if i.Replication != nil {
		if n := i.Replication.node(i.Replication.Primary); n != nil {
			return n.Zone
		}
	}
	return i.Spec.LocationID
}

// ReadEndpoint is where replicas can be read; "" and 0 where there is none.
func (i Instance) ReadEndpoint() (host string, port int) {
	if i.Replication == nil {
		return "", 0
	}
	return i.Replication.ReadHost, i.Replication.ReadPort
}

// readAddress is host:port of the read endpoint; "": there is none.
func (i Instance) readAddress() string {
	host, port := i.ReadEndpoint()
	if host == "" {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// fitNodes makes the nodes of an instance those that its Spec asks for. It is called with Manager.creating held.
func (m *Manager) fitNodes(i *Instance) error {
	if i.Spec.Tier != StandardHA {
		return nil
	}
	if i.Spec.ReadReplicas && m.addresses.apart() {
		return precondition("read_replicas_mode: READ_REPLICAS_ENABLED: the server's configuration has nodes in network namespaces of their own, which can't share the address of a read endpoint: leave it out, or leave network_namespace out of nodes in the configuration")
	}
	taken, err := m.records.takenAddresses()
	if err != nil {
		return err
	}
	for _, a := range i.addresses() {
		taken[a] = true
	}
	r := i.Replication.clone()
	if r == nil {
		r = &Replication{SealedPassword: m.secrets.newReplicationPassword(i)}
		if !i.Spec.TransitEncryption {
			certificates := m.defaults.certificates(i.Spec, pki.Names{URI: i.Name.identity()}).WithPeers(true).WithoutServerCertificate(true)
			r.Certificates = &certificates
		}
	}
	for n := 0; len(r.Nodes) < int(i.Spec.ReplicaCount)+1; n++ {
		if r.node(n) != nil {
			continue
		}
		address, err := m.addresses.allocateNode(taken, n)
		if err != nil {
			return err
		}
		taken[address] = true
		r.Nodes = append(r.Nodes, NodeRecord{Number: n, Zone: i.zoneOf(n), Host: address.Addr().String(), Port: int(address.Port())})
		r.Removing = slices.DeleteFunc(r.Removing, func(k int) bool { return k == n })
	}
	slices.SortFunc(r.Nodes, func(a, b NodeRecord) int { return a.Number - b.Number })
	for n := len(r.Nodes) - 1; len(r.Nodes) > int(i.Spec.ReplicaCount)+1; n-- {
		if k := r.Nodes[n].Number; k != 0 && k != r.Primary {
			r.Nodes = slices.Delete(r.Nodes, n, n+1)
			r.Removing = append(r.Removing, k)
		}
	}
	if i.Spec.ReadReplicas && r.ReadHost == "" {
		address, err := m.addresses.allocate(taken, i.Spec.TransitEncryption)
		if err != nil {
			return err
		}
		r.ReadHost, r.ReadPort = address.Addr().String(), int(address.Port())
	}
	i.Replication = r
	return nil
}

// goBackToNodes makes the nodes those of before. A node that is the primary stays.
func (i *Instance) goBackToNodes(before *Replication) {
	if before == nil || i.Replication == nil {
		return
	}
	r := i.Replication.clone()
	r.ReadHost, r.ReadPort = before.ReadHost, before.ReadPort
	for _, n := range i.Replication.Nodes {
		if before.node(n.Number) == nil && n.Number != r.Primary {
			r.Nodes = slices.DeleteFunc(r.Nodes, func(o NodeRecord) bool { return o.Number == n.Number })
			r.Removing = append(r.Removing, n.Number)
		}
	}
	for _, n := range before.Nodes {
		if r.node(n.Number) == nil {
			r.Nodes = append(r.Nodes, n)
			r.Removing = slices.DeleteFunc(r.Removing, func(k int) bool { return k == n.Number })
		}
	}
	slices.SortFunc(r.Nodes, func(a, b NodeRecord) int { return a.Number - b.Number })
	i.Replication = r
}

// ownCertificates are the instance's; where it has none for its clients, those by which its nodes know each other. Nil: there are none.
func (i Instance) ownCertificates() *pki.State {
	if i.Certificates == nil && i.Replication != nil {
		return i.Replication.Certificates
	}
	return i.Certificates
}

// zoneOf is the zone of a new node: the first two are those that were asked for, and the others take turns.
func (i Instance) zoneOf(number int) string {
	zones := []string{i.Spec.LocationID}
	if i.Spec.AlternativeLocationID != "" {
		zones = append(zones, i.Spec.AlternativeLocationID)
	}
	for _, z := range Zones(i.Name.Location) {
		if !slices.Contains(zones, z) {
			zones = append(zones, z)
		}
	}
	return zones[number%len(zones)]
}

// addresses are all that the instance has.
func (i Instance) addresses() (all []netip.AddrPort) {
	add := func(host string, port int) {
		if ip, err := netip.ParseAddr(host); err == nil {
			all = append(all, netip.AddrPortFrom(ip, uint16(port)))
		}
	}
	for _, port := range i.ports() {
		add(i.Host, port)
	}
	if r := i.Replication; r != nil {
		for _, n := range r.Nodes {
			add(n.Host, n.Port)
		}
		if r.ReadHost != "" {
			add(r.ReadHost, r.ReadPort)
		}
	}
	return all
}
