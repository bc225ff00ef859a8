package instance

import (
	"context"
	"net/netip"
	"time"

	"github.com/sealane/sealane/internal/gateway"
)

// What the tables test directly.
var (
	CheckID = checkID
	Decode  = decode
	CodeOf  = codeOf
)

const (
	KeepOperations = keepOperations
	MaxWaits       = maxWaits
	KeepTombstones = keepTombstones
	CreateTimeout  = createTimeout
	CheckInterval  = checkInterval
	LastRetry      = lastRetry
	KeyCheck       = masterKeyCheck
	ServeTimeout   = applyTimeout
)

func RedisConfigNames() []string {
	var names []string
	for n := range redisConfigs {
		names = append(names, n)
	}
	return names
}

// AuditKinds is auditKinds.
var AuditKinds = auditKinds

// FirstCertificates is firstCertificates.
func (t *TransitEncryption) FirstCertificates(i *Instance) error { return t.firstCertificates(i) }

// Builds are engines of these versions that can do everything.
func Builds(versions ...string) (builds []EngineBuild) {
	for _, v := range versions {
		builds = append(builds, EngineBuild{Version: v, Patch: "1.2.3", ActiveDefrag: true})
	}
	return builds
}

func CheckRedisConfigs(configs map[string]string, version string, sizeGB int32) []Violation {
	return Spec{RedisConfigs: configs, MemorySizeGB: sizeGB}.checkRedisConfigs(Builds(version)[0])
}

func ChooseVersion(asked string, installed []string) (string, error) {
	return chooseVersion(asked, Builds(installed...))
}

func (s Spec) Complete(name Name, installed ...string) (Spec, error) {
	return s.complete(name, Builds(installed...))
}
func (s Spec) Directives() map[string]string { return s.directives() }
func (s Spec) MaxClients() int               { return s.maxClients() }
func (i Instance) NodeID() string            { return i.nodeID(0) }
func (i *Instance) Pending() *Operation      { return i.pending() }
func (a Addresses) Allocate(taken map[netip.AddrPort]bool, tls bool) (netip.AddrPort, error) {
	return a.allocate(taken, tls)
}
func (a Addresses) DNSNamesOf(n Name) []string { return a.dnsNames(n) }

func (m *Manager) SetDataPath(ctx context.Context, name Name, path gateway.DataPath) error {
	return m.DataPlanes.Change(ctx, name, func(s *DataPlaneSettings) { s.Path = path })
}

// MemoryLimit is memoryLimit.
func (s Spec) MemoryLimit() int64 { return s.memoryLimit() }

// Next is next.
func (w MaintenanceWindow) Next(after time.Time) time.Time { return w.next(after) }
