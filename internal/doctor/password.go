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

// Format implements fmt.Formatter.
func (p Password) Format(f fmt.State, _ rune) {
	if p.IsSet() {
		_, _ = io.WriteString(f, "(password "+p.from+")")
	} else {
		_, _ = io.WriteString(f, "(no password)")
	}
}

// printable is what a server said, without the password that it may repeat.
func (p Password) printable(said string) string {
	if p.IsSet() {
		said = strings.ReplaceAll(said, p.secret, "(the password)")
	}
	return diagnosis.Printable(said)
}
