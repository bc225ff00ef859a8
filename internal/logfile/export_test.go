package logfile

// OpenForTest is Open with a limit that a test can reach.
func OpenForTest(path string, limit int64) (*File, error) { return open(path, limit) }
