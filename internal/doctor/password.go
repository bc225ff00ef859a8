package doctor

import (
	"fmt"
	"io"
	"strings"

	"github.com/sealane/sealane/internal/diagnosis"
)

// Password is what a client logs in with. Printing one shows where it comes from and never what it is.
type Password struct{ secret, from string }

// NewPassword is a password, and where it comes from, for sentences such as "the password (from SEALANE_AUTH) is accepted".
func NewPassword(secret, from string) Password { return Password{secret, from} }

// FromAPI is where the password of an instance comes from when the client gave none.
const FromAPI = "from the API"

// IsSet says that there is a password.
func (p Password) IsSet() bool { return p.secret != "" }

// String implements fmt.Stringer.
func (p Password) String() string {
	if p.IsSet() {
		return "(password " + p.from + ")"
	}
	return "(no password)"
}

// Format implements fmt.Formatter, for the verbs that don't ask String.
func (p Password) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// MarshalText implements encoding.TextMarshaler, which encoding/json asks.
func (p Password) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// printable is what a server said, without the password that it may repeat.
func (p Password) printable(said string) string {
	if p.IsSet() {
		said = strings.ReplaceAll(said, p.secret, "(the password)")
	}
	return diagnosis.Printable(said)
}

// quote is the same in quotes.
func (p Password) quote(said []byte) string { return diagnosis.Quote(p.printable(string(said))) }
