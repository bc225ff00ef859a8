package instance

import (
	"fmt"
	"time"

	"github.com/sealane/sealane/internal/gateway"
)

// node says what the instance's node is to run at a time.
func (r *reconciler) node(i Instance, now time.Time) (Node, error) {
	admin, err := r.secrets.adminPassword(i)
	if err != nil {
		return Node{}, err
	}
	n := Node{
		ID: i.nodeID(0), Instance: i.Name, Version: i.Spec.RedisVersion, Patch: i.EnginePatch, Slot: i.EngineSlot, Directives: i.Spec.directives(),
		AdminPassword: admin, KeepDump: i.Spec.SnapshotPeriod > 0, MemoryLimit: i.Spec.memoryLimit(),
		Gateway: gateway.Snapshot{
			Listeners:   i.listeners(),
			Connect:     i.connectHint(r.commands),
			Auth:        i.AuthVersion,
			MaxClients:  i.Spec.maxClients(),
			DataPath:    i.Spec.snapshotPath(),
			TLSPolicy:   i.Spec.TLS,
			IdleTimeout: i.Spec.idleTimeout(),

			SystemMemory: i.Spec.systemMemory(),
		},
		Host: i.Host,
	}
	if n.PasswordHashes, err = r.secrets.passwordHashes(i); err != nil {
		return Node{}, err
	}
	if i.Spec.Backend != nil {
		if err := r.toBackend(&n, i); err != nil {
			return Node{}, err
		}
	}
	if i.TLSPort() != 0 && i.Certificates != nil && i.Certificates.Leaf != nil {
		view := i.Certificates.At(now)
		if n.Gateway.Certificate, n.Gateway.PrivateKey, err = view.Chain(r.secrets.key); err != nil {
			return Node{}, err
		}
		n.Bundle, n.Gateway.Anchors = view.Bundle(), view.Anchors()
		if err := addTestChains(&n.Gateway, view, r.secrets.key, i.activeSampling(view)); err != nil {
			return Node{}, err
		}
	}
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
