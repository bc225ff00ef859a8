package doctor

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// maxShown is how much of what a server says is shown.
const maxShown = 160

// printable makes one line of bounded length out of what came from elsewhere: a terminal obeys control characters.
func printable(s string) string {
	var b strings.Builder
	for _, r := range strings.TrimSpace(s) {
		if b.Len() >= maxShown {
			b.WriteString("…")
			break
		}
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			r = '.'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// said is what a server said, without the password that it may repeat.
func (x *exam) said(s string) string {
	if x.Auth != "" {
		s = strings.ReplaceAll(s, x.Auth, "(the password)")
	}
	return printable(s)
}

// date is a time as people and tools read it.
func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// span is a duration in the unit that fits it.
func span(d time.Duration) string {
	d = d.Abs()
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d/time.Hour))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", int(d/time.Minute))
	}
	return fmt.Sprintf("%d seconds", int(d/time.Second))
}

// few joins the first of a list.
func few(items []string) string {
	const most = 6
	if n := len(items) - most; n > 0 {
		return strings.Join(items[:most], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(items, ", ")
}

// ShellWord makes a word that a shell takes as it is.
func ShellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@=+,") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
