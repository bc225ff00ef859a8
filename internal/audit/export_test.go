package audit

import "log/slog"

// Disk is what the log changes.
type Disk = disk

var Parse = parse

// OpenOn is Open on a disk of the test's.
func OpenOn(dir string, log *slog.Logger, wrap func(Disk) Disk) (*Log, error) {
	return open(certificates(dir), log, wrap)
}

// OpenCallsOn is OpenCalls on a disk of the test's, with a limit that a test can reach.
func OpenCallsOn(dir string, limit int64, log *slog.Logger, wrap func(Disk) Disk) (*Log, error) {
	f := calls(dir)
	f.limit = limit
	return open(f, log, wrap)
}

// Encode sets the entry's hash and returns its line.
func (e *Entry) Encode() ([]byte, error) { return e.encode() }
