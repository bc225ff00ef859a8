package audit

// Disk is what the log changes.
type Disk = disk

var (
	OpenOn = open
	Parse  = parse
)

// Encode sets the entry's hash and returns its line.
func (e *Entry) Encode() ([]byte, error) { return e.encode() }
