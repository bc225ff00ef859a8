package instance

// Reason says for programs why a request failed. Package api hands it out as google.rpc.ErrorInfo, and docs/api.md lists all of
// them. A program that wants to know what to do next looks at the reason, never at the message, which may change.
type Reason string

const (
	// OperationInProgress is of a change while an operation on the instance is under way; metadata: operation.
	OperationInProgress Reason = "OPERATION_IN_PROGRESS"
	// ClientsNotReady is of a change of CAs that isn't due yet, while not all clients are known to be ready for it. Force does
	// it all the same. Metadata: dueTime.
	ClientsNotReady Reason = "CLIENTS_NOT_READY"
	// ChangeNotApplied is of a change that is recorded and not served yet. The server goes on trying.
	ChangeNotApplied Reason = "CHANGE_NOT_APPLIED"
	// EncryptionDisabled is of a request about certificates or TLS for an instance that has none.
	EncryptionDisabled Reason = "ENCRYPTION_DISABLED"
	// PlaintextClients is of closing plaintext while clients may still use it. Force does it all the same.
	PlaintextClients Reason = "PLAINTEXT_CLIENTS"
	// TLSClients is of closing TLS while clients use it. Force does it all the same.
	TLSClients Reason = "TLS_CLIENTS"
	// PlaintextNotAllowed is of opening plaintext on an instance that has TLS alone, without saying that this is meant.
	PlaintextNotAllowed Reason = "PLAINTEXT_NOT_ALLOWED"
	// AuthDisabled is of a request about the AUTH string for an instance without AUTH.
	AuthDisabled Reason = "AUTH_DISABLED"
	// EngineStaysUp is of a restart: the engine could not be stopped without a loss, and goes on. Force ends it. Metadata:
	// price, which is what is lost by force, in words.
	EngineStaysUp Reason = "ENGINE_STAYS_UP"
	// RestartInProgress is of a restart that goes on, or of another one meanwhile.
	RestartInProgress Reason = "RESTART_IN_PROGRESS"
	// EngineNotInstalled is of a create for which the server has no engine.
	EngineNotInstalled Reason = "ENGINE_NOT_INSTALLED"
	// DataTooLarge is of a size that an instance's data don't fit in.
	DataTooLarge Reason = "DATA_TOO_LARGE"
	// ExternalBackend is of a request for what only an engine of Sealane's can do, for an instance with a backend.
	ExternalBackend Reason = "EXTERNAL_BACKEND"
	// BackendNotServing is of a change to a backend that can't be reached, or refuses the login. Force changes it all the same.
	BackendNotServing Reason = "BACKEND_NOT_SERVING"
	// AddressesExhausted is of a create, or an update with more replicas, for which no address is free.
	AddressesExhausted Reason = "ADDRESSES_EXHAUSTED"
	// DiskFull is of any request that the server's full disk keeps from being recorded.
	DiskFull Reason = "DISK_FULL"
	// StateNotWritable is of any request that the server can't record, because it may not write in its state folder.
	StateNotWritable Reason = "STATE_NOT_WRITABLE"
	// StateDamaged is of any request for which the server would have to read damaged records.
	StateDamaged Reason = "STATE_DAMAGED"
	// ServerStopping is of a request to a server that is about to end.
	ServerStopping Reason = "SERVER_STOPPING"
)

// Reasons are all of them.
var Reasons = []Reason{
	OperationInProgress, ClientsNotReady, ChangeNotApplied, EncryptionDisabled, PlaintextClients, TLSClients, PlaintextNotAllowed, AuthDisabled, EngineStaysUp, RestartInProgress,
	EngineNotInstalled, DataTooLarge, ExternalBackend, BackendNotServing, AddressesExhausted, DiskFull, StateNotWritable, StateDamaged, ServerStopping,
}

// because gives an error its reason, with metadata as pairs of key and value.
func (e *Error) because(r Reason, metadata ...string) *Error {
	e.Reason = r
	for n := 0; n+1 < len(metadata); n += 2 {
		if e.Metadata == nil {
			e.Metadata = make(map[string]string)
		}
		e.Metadata[metadata[n]] = metadata[n+1]
	}
	return e
}
