package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/internal/audit"
)

// Both commands read the files of the state folder: they work while no server runs, and on a copy of the files.
func newAudit(e *env) *cobra.Command {
	return group("audit", "Show and check the log of all certificates that were signed",
		"  sealane audit list --instance first\n  sealane audit verify", newAuditList(e), newAuditVerify(e))
}

func newAuditList(e *env) *cobra.Command {
	var instance string
	var format formatFlag
	c := &cobra.Command{
		Use: "list", Short: "List the certificates that were signed, and what operators did to certificates",
		Long: `List the certificates that were signed, and what operators did to certificates, the oldest first. A certificate that
was signed just before a crash is listed too, though no client was ever shown it. Where the log is damaged, list shows
what stands before the damage and fails.`,
		Example: "  sealane audit list\n  sealane audit list --instance first --format json",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			entries := []audit.Entry{} // as JSON an empty list, not null
			_, damage := audit.Verify(string(e.state()), func(entry audit.Entry) {
				if instance == "" || entry.Instance == instance || path.Base(entry.Instance) == instance {
					entries = append(entries, entry)
				}
			})
			if d := (*audit.Damage)(nil); damage != nil && !errors.As(damage, &d) {
				return e.state().AuditError(damage)
			}
			raw, err := json.MarshalIndent(map[string]any{"entries": entries}, "", "  ")
			if err != nil {
				return err
			}
			err = format.print(e.out, append(raw, '\n'), func(w io.Writer) {
				row(w, "SEQ", "TIME", "INSTANCE", "ACTION", "CERTIFICATE", "EXPIRES", "ACTOR", "REASON", "SHA256_FINGERPRINT")
				for _, entry := range entries {
					auditRow(w, entry)
				}
			})
			return errors.Join(e.state().AuditError(damage), err)
		},
	}
	c.Flags().StringVar(&instance, "instance", "", "only this instance: its NAME, or projects/P/locations/R/instances/NAME")
	format.add(c)
	return c
}

func auditRow(w io.Writer, e audit.Entry) {
	var what, expires, fingerprint string
	if c := e.Certificate; c != nil {
		switch c.Kind {
		case audit.CA:
			what = fmt.Sprintf("CA-%d", c.Generation)
		case audit.Cross:
			what = fmt.Sprintf("CA-%d signed by CA-%d", c.Generation, c.IssuerGeneration)
		default:
			what = fmt.Sprintf("%s by CA-%d", c.Kind, c.IssuerGeneration)
		}
		expires, fingerprint = c.NotAfter.Format(time.RFC3339), c.SHA256Fingerprint.String()
	}
	row(w, strconv.FormatUint(e.Seq, 10), e.Time.Format(time.RFC3339), printable(strings.TrimPrefix(e.Instance, "projects/local/locations/local/instances/")), printable(string(e.Action)),
		printable(what), expires, printable(e.Actor), printable(e.Reason), fingerprint)
}

// printable keeps what somebody wrote into the log from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

func newAuditVerify(e *env) *cobra.Command {
	var kept string
	c := &cobra.Command{
		Use: "verify", Short: "Check that no entry of the log was altered, removed, added or moved",
		Long: `Check that no entry of the audit log was altered, removed, added or moved, and that its end is there.

Who can write the state folder can write another log, with hashes that fit. Keep the head that verify prints where the
server can't change it, and give it as --head the next time: all entries up to it are then proved to be the same.`,
		Example: "  sealane audit verify\n  sealane audit verify --head 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			var want audit.Hash
			if c.Flags().Changed("head") {
				var err error
				if want, err = audit.ParseHash(kept); err != nil {
					return usage(c, "--head %q: %v, as `sealane audit verify` prints them", kept, err)
				}
			}
			return verifyAudit(e, c.Flags().Changed("head"), want)
		},
	}
	c.Flags().StringVar(&kept, "head", "", "the head HASH that was kept from an earlier time")
	return c
}

func verifyAudit(e *env, withHead bool, want audit.Hash) error {
	var found uint64
	var last time.Time
	s, err := audit.Verify(string(e.state()), func(entry audit.Entry) {
		last = entry.Time
		if entry.Hash == want {
			found = entry.Seq
		}
	})
	if err != nil {
		return e.state().AuditError(err)
	}
	if withHead && found == 0 {
		return withHint(fmt.Errorf("audit log: none of its %s has the hash %s: the log was rewritten, cut, or begun anew since that hash was kept", entries(s.Head.Seq), want),
			"%s", e.state().AuditDamageHint())
	}
	if s.Torn > 0 {
		fmt.Fprintf(e.err, "note: the last %d bytes are no entry yet: it is being written, or a crash tore it, and the next start cuts it off\n", s.Torn)
	}
	if s.Head.Seq == 0 {
		_, err = fmt.Fprintln(e.out, "audit log is whole: no entries yet")
		return err
	}
	text := fmt.Sprintf("audit log is whole: %s, the last of %s, head %s", entries(s.Head.Seq), last.Format(time.RFC3339), s.Head.Hash)
	if withHead {
		text += fmt.Sprintf("; nothing up to entry %d changed since its hash was kept", found)
	}
	_, err = fmt.Fprintln(e.out, text)
	return err
}

func entries(n uint64) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}
