package instance

import "context"

// Upgrade begins to move an instance to a newer version of the engine, with its data.
func (m *Manager) Upgrade(ctx context.Context, name Name, version, apiVersion string) (Operation, error) {
	return Operation{}, precondition("redis_version: upgrades are not there yet")
}
