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
	return group("audit", "Show and check the logs of certificates that were signed and of calls that were made",
		"  sealane audit list --instance first\n  sealane audit list --calls\n  sealane audit verify", newAuditList(e), newAuditVerify(e))
}

func newAuditList(e *env) *cobra.Command {
	var instance string
	var calls bool
	var format formatFlag
	c := &cobra.Command{
		Use: "list", Short: "List the certificates that were signed, or with --calls who did what over the API",
		Long: `List the certificates that were signed, and what operators did to certificates, the oldest first. A certificate that
was signed just before a crash is listed too, though no client was ever shown it. Where the log is damaged, list shows
what stands before the damage and fails.

With --calls, list who called the API: each call that changed something or was to, and each that read a secret. The token
is named by its id, as in ` + "`sealane tokens list`" + `. A call without an outcome was under way when the server ended.`,
		Example: "  sealane audit list\n  sealane audit list --instance first --format json\n  sealane audit list --calls",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			entries := []audit.Entry{} // as JSON an empty list, not null
			verify, table := audit.Verify, auditTable
			if calls {
				verify, table = audit.VerifyCalls, callsTable
			}
			_, damage := verify(string(e.state()), func(entry audit.Entry) {
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
			err = format.print(e.out, append(raw, '\n'), func(w io.Writer) { table(w, entries) })
			return errors.Join(e.state().AuditError(damage), err)
		},
	}
	c.Flags().StringVar(&instance, "instance", "", "only this instance: its NAME, or projects/P/locations/R/instances/NAME")
	c.Flags().BoolVar(&calls, "calls", false, "list the calls of the API instead")
	format.add(c)
	return c
}

func auditTable(w io.Writer, entries []audit.Entry) {
	row(w, "SEQ", "TIME", "INSTANCE", "ACTION", "CERTIFICATE", "EXPIRES", "ACTOR", "REASON", "SHA256_FINGERPRINT")
	for _, entry := range entries {
		auditRow(w, entry)
	}
}

// callsTable has a row for each call, with its outcome where that was entered.
func callsTable(w io.Writer, entries []audit.Entry) {
	outcomes := make(map[uint64]*audit.Call)
	for _, entry := range entries {
		if entry.Action == audit.CallOutcome && entry.Call != nil {
			outcomes[entry.Call.Of] = entry.Call
		}
	}
	row(w, "SEQ", "TIME", "TOKEN", "DESCRIPTION", "METHOD", "RESOURCE", "OUTCOME", "PEER")
	for _, entry := range entries {
		c := entry.Call
		if entry.Action != audit.CallMade || c == nil {
			continue
		}
		outcome, resource := c.Outcome, c.Resource
		if of := outcomes[entry.Seq]; of != nil {
			outcome, resource = of.Outcome, of.Resource
		}
		row(w, strconv.FormatUint(entry.Seq, 10), entry.Time.Format(time.RFC3339), printable(c.Token), printable(c.Principal),
			printable(c.Method[strings.LastIndexByte(c.Method, '.')+1:]), printable(resource), printable(outcome), printable(c.Peer))
	}
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
	var kept, keptCalls string
	c := &cobra.Command{
		Use: "verify", Short: "Check that no entry of the logs was altered, removed, added or moved",
		Long: `Check that no entry of the audit log was altered, removed, added or moved, and that its end is there; and the same of
the log of calls, which has a line of its own.

Who can write the state folder can write another log, with hashes that fit. Keep the heads that verify prints where the
server can't change them, and give them as --head and --calls-head the next time: all entries up to them are then proved to
be the same.`,
		Example: "  sealane audit verify\n  sealane audit verify --head 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			logs := []auditLog{
				{title: "audit log", verify: audit.Verify, flag: "head", head: kept},
				{title: audit.CallsTitle, verify: audit.VerifyCalls, flag: "calls-head", head: keptCalls, calls: true},
			}
			for n := range logs {
				l := &logs[n]
				if l.withHead = c.Flags().Changed(l.flag); l.withHead {
					var err error
					if l.want, err = audit.ParseHash(l.head); err != nil {
						return usage(c, "--%s %q: %v, as `sealane audit verify` prints them", l.flag, l.head, err)
					}
				}
			}
			var problems []error
			for _, l := range logs {
				problems = append(problems, l.check(e))
			}
			return errors.Join(problems...)
		},
	}
	c.Flags().StringVar(&kept, "head", "", "the audit log's head HASH that was kept from an earlier time")
	c.Flags().StringVar(&keptCalls, "calls-head", "", "likewise of the log of calls; it must not be older than what that log still holds")
	return c
}

// auditLog is a log to be checked.
type auditLog struct {
	title    string
	verify   func(dir string, each func(audit.Entry)) (audit.Summary, error)
	flag     string
	head     string // the flag's value
	withHead bool   // it was given
	want     audit.Hash
	calls    bool
}

func (l auditLog) check(e *env) error {
	var found uint64
	var last time.Time
	s, err := l.verify(string(e.state()), func(entry audit.Entry) {
		last = entry.Time
		if entry.Hash == l.want {
			found = entry.Seq
		}
	})
	if errors.Is(err, audit.ErrNone) && l.calls && !l.withHead {
		return nil // an older Sealane had none; and without an audit log either, one error is enough
	}
	if err != nil {
		return e.state().AuditError(err)
	}
	if l.withHead && found == 0 {
		return withHint(fmt.Errorf("%s: none of its %s has the hash %s: the log was rewritten, cut, or begun anew since that hash was kept", l.title, entries(s.Entries), l.want),
			"%s", e.state().AuditDamageHint(l.calls))
	}
	if s.Torn > 0 {
		fmt.Fprintf(e.err, "note: the last %d bytes of the %s are no entry yet: it is being written, or a crash tore it, and the next start cuts it off\n", s.Torn, l.title)
	}
	if s.Head.Seq == 0 {
		_, err = fmt.Fprintf(e.out, "%s is whole: no entries yet\n", l.title)
		return err
	}
	text := fmt.Sprintf("%s is whole: %s, the last of %s, head %s", l.title, entries(s.Entries), last.Format(time.RFC3339), s.Head.Hash)
	if first := s.Head.Seq - s.Entries + 1; first > 1 {
		text += fmt.Sprintf("; it begins with entry %d, and those before are not kept", first)
	}
	if l.withHead {
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
