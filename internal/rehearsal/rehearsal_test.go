package rehearsal_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/pki"
	"github.com/sealane/sealane/internal/rehearsal"
)

func action(k pki.Kind, generation int) pki.Action {
	return pki.Action{Kind: k, Generation: generation}
}

// The changes of an instance until CA-1 is gone, as a rehearsal sees them.
var life = []rehearsal.Lived{
	{3, []pki.Action{action(pki.IssueLeaf, 1)}, []int{1}},
	{10, []pki.Action{action(pki.CreateCA, 2), action(pki.SignCross, 2), action(pki.IssueNextLeaf, 2)}, []int{1}},
	{14, []pki.Action{action(pki.ActivateCA, 2), action(pki.IssueLeaf, 2)}, []int{1, 2}},
	{17, []pki.Action{action(pki.IssueLeaf, 2)}, []int{1, 2}},
	{19, []pki.Action{action(pki.EndCross, 2)}, []int{2}},
	{20, []pki.Action{action(pki.RetireCA, 1), action(pki.CreateCA, 3), action(pki.IssueLeaf, 2)}, []int{2}},
}

// For each kind of faulty client, the verdict names the change that breaks it, the date, and what that means.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg            rehearsal.Config
		passed, failed int
		status         error
		at             int
		verdict        string
		advice         string
		refused        string
	}{
		"pins the leaf":             {passed: 2, failed: 4, at: 0, verdict: "accepts only the server certificate that it saw first: it would fail on 20", advice: "not the server certificate"},
		"knows the last CA only":    {passed: 9, failed: 11, at: 1, verdict: "can't use a bundle of CA-1 and CA-2: it would fail on 2030-12-31, when CA-2 is published", advice: "load every certificate"},
		"takes no chain":            {passed: 13, failed: 15, at: 2, verdict: "takes no certificate between the server's and CA-1: it would fail on 2033-06-30, when CA-2 signs", advice: "all certificates that the server sends"},
		"takes no chain, says so":   {passed: 13, failed: 15, at: 2, verdict: "takes no certificate between the server's and CA-1", advice: "all certificates that the server sends", refused: "with the alert unknown_ca"},
		"can't use the cross":       {passed: 13, failed: 15, at: 2, verdict: "refuses the certificates of CA-2, the server's and the cross-certificate by CA-1, with the alert bad_certificate: it would fail on 2033-06-30, when CA-2 signs", advice: "cross.ca-next.sealane.invalid an instance presents both", refused: "with the alert bad_certificate"},
		"pins CA-1":                 {passed: 18, failed: 20, at: 4, verdict: "trusts CA-1 only: it would fail on 2035-11-30, when CA-1's cross-certificate for CA-2 is no longer served", advice: "every 1795 days"},
		"pins CA-1, and is slow":    {passed: 11, failed: 21, at: 4, verdict: "trusts CA-1 only: it would fail on 2035-11-30", advice: "install the bundle"},
		"trusts what expired":       {passed: 20, failed: 21, at: 5, verdict: "trusts what has expired, or needs it: it would fail on 2035-12-30, when CA-1 leaves the bundle; CA-3 is published", advice: "needs no CA that has expired"},
		"ends though it is to live": {passed: 0, failed: 15, status: nil, at: 1, verdict: "ended, though it was to live on", advice: "without --long-lived"},
		"fails for other reasons":   {passed: 12, failed: 13, at: -1},
		"fails at once":             {passed: 0, failed: 1, at: -1},
		"does not connect anew":     {cfg: rehearsal.Config{Reconnect: true}, passed: 2, failed: 4, at: 0, verdict: "did not outlive the loss of its connection", advice: "connect anew"},
	} {
		status := rehearsal.ErrStatus
		if name == "ends though it is to live" {
			status, c.advice = nil, "connect anew when its connection is lost, with the bundle as it is by then, or leave --long-lived out"
		}
		at, verdict, advice := rehearsal.Judged(c.cfg, life, c.passed, c.failed, status, c.refused)
		if at != c.at || !strings.Contains(verdict, c.verdict) || !strings.Contains(advice, c.advice) {
			t.Errorf("%s: step %d, %q, %q; want step %d, %q, %q", name, at, verdict, advice, c.at, c.verdict, c.advice)
		}
		if strings.Contains(verdict+advice, "%!") || strings.Count(verdict, "\n") > 0 {
			t.Errorf("%s: %q, %q", name, verdict, advice)
		}
	}
}

// The handshakes that failed meanwhile tell a client that refuses a certificate from one that fails for another reason.
func TestRefusalsAreSeen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before, after map[string]uint64
		want          string
	}{
		"none":            {map[string]uint64{"unknown_ca": 2}, map[string]uint64{"unknown_ca": 2, "not_tls": 1}, ""},
		"an alert":        {nil, map[string]uint64{"certificate_unknown": 1, "eof": 3}, "with the alert certificate_unknown"},
		"no alert":        {map[string]uint64{"eof": 1}, map[string]uint64{"eof": 2}, "without an alert"},
		"an unusual one":  {nil, map[string]uint64{"client_alert": 1}, "names no reason"},
		"of a run before": {map[string]uint64{"unknown_ca": 2, "bad_certificate": 0}, map[string]uint64{"unknown_ca": 2, "bad_certificate": 1}, "bad_certificate"},
	} {
		if got := rehearsal.Refused(c.before, c.after); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
	}
}

// A change of CAs has the date on which the plan makes it; a server certificate has a date in proportion.
func TestDatesAreThePlans(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	start, scaled := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), pki.ScaledLifetimes(100*time.Second)
	for _, c := range []struct {
		a       pki.Action
		elapsed time.Duration
		days    int
	}{
		{action(pki.CreateCA, 2), 50 * time.Second, 1825}, {action(pki.ActivateCA, 2), 74 * time.Second, 2737},
		{action(pki.EndCross, 2), 99 * time.Second, 3620}, {action(pki.RetireCA, 1), 100 * time.Second, 3650},
		{action(pki.EndCross, 3), 149 * time.Second, 1825 + 3620}, {action(pki.IssueLeaf, 1), 10 * time.Second, 365},
	} {
		got := rehearsal.Dated(start, scaled, 150*time.Second, c.elapsed, []pki.Action{c.a})
		if want := start.Add(time.Duration(c.days) * day); !got.Equal(want) {
			t.Errorf("%s of CA-%d stands for %s; want %s", c.a.Kind, c.a.Generation, got, want)
		}
	}
}

// The client's output is shown without secrets, and the client gets none of Sealane's own variables.
func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	env := []string{"DB_PASSWORD=correct horse", "API_TOKEN=t0k3n-t0k3n", "HOME=/home/somebody", "AUTH=on"}
	for text, want := range map[string]string{
		"login with correct horse":                                       "login with [hidden]",
		"bearer t0k3n-t0k3n rejected":                                    "bearer [hidden] rejected",
		"dial rediss://app:s3cret@10.0.0.1:6378":                         "dial rediss://app:[hidden]@10.0.0.1:6378",
		"dial rediss://:s3cret@10.0.0.1:6378":                            "dial rediss://:[hidden]@10.0.0.1:6378",
		"dial rediss://10.0.0.1:6378, auth is on":                        "dial rediss://10.0.0.1:6378, auth is on",
		"a -----BEGIN EC PRIVATE KEY-----\nMHc\nx\n":                     "a [hidden]",
		"MHc=\n-----END PRIVATE KEY-----\nfailed":                        "[hidden]\nfailed",
		"-----BEGIN CERTIFICATE-----\nof /home/somebody":                 "-----BEGIN CERTIFICATE-----\nof /home/somebody",
		"-----BEGIN PRIVATE KEY-----\nM\n-----END PRIVATE KEY-----\nend": "[hidden]\nend",
	} {
		if got := rehearsal.Redact(text, env); got != want {
			t.Errorf("%q is shown as %q; want %q", text, got, want)
		}
	}
	given := rehearsal.ClientEnvironment([]string{"PATH=/bin", "SEALANE_TOKEN=x", "SEALANE_MASTER_KEY=y", "SEALANE_API=z", "REDISCLI_AUTH=w", "REDIS_URL=v"})
	if !slices.Equal(given, []string{"PATH=/bin"}) {
		t.Errorf("the client is given %q", given)
	}
}

// The last lines of any output are shown as separate lines, and the rest takes no memory.
func TestLastLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 1000)
	got := rehearsal.Lines(strings.Repeat("old\n", 100000), "\n1\n\n2\r\n\x1b[2Jthree\n", long, "\n5\n6")
	if want := []string{"1", "2", "[2Jthree", strings.Repeat("ä", 300) + "…", "5", "6"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := rehearsal.Lines(); len(got) != 0 {
		t.Errorf("of nothing is shown %q", got)
	}
}
