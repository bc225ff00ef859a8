package rdb

// Problem is why a file is refused.
type Problem string

// The problems of a file.
const (
	Empty       Problem = "EMPTY"
	NotRDB      Problem = "NOT_RDB"
	Truncated   Problem = "TRUNCATED"
	Damaged     Problem = "DAMAGED"
	NotLoadable Problem = "NOT_LOADABLE" // by this engine: the format is newer, or another fork's
	TooLarge    Problem = "TOO_LARGE"    // for this instance
)

// FormatError says what is wrong with a file.
type FormatError struct {
	Problem Problem
	Text    string // what the file is
	Hint    string // what would be right, and how to get it
}

func (e *FormatError) Error() string { return e.Text + ": " + e.Hint }
