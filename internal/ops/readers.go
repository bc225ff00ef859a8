package ops

import "fmt"

// Who may read /metrics, as configurations say it.
const (
	WithToken = "token"  // the default
	Anyone    = "anyone" // who can connect
)

// CheckReaders says what is wrong with such a value, "" if nothing is. An empty one is the default.
func CheckReaders(who string) string {
	if who == "" || who == WithToken || who == Anyone {
		return ""
	}
	return fmt.Sprintf("%q: want %s or %s", who, WithToken, Anyone)
}
