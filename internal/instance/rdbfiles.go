package instance

import "context"

// Import begins to replace an instance's data by those of an RDB file, which is gs://bucket/object.
func (m *Manager) Import(ctx context.Context, name Name, object, apiVersion string) (Operation, error) {
	return Operation{}, precondition("input_config: imports are not there yet")
}

// Export begins to write an instance's data into an RDB file, which is gs://bucket/object.
func (m *Manager) Export(ctx context.Context, name Name, object, apiVersion string) (Operation, error) {
	return Operation{}, precondition("output_config: exports are not there yet")
}
