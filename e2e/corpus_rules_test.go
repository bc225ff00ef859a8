package e2e_test

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
)

// volatile are the parts of replies in which any two engines differ although they were sent the same, with the reasons.
// Everything else is compared byte by byte.
var volatile = []struct {
	command string // matches the beginning of the command, in upper case, with one space between words
	find    string // the part of its reply that is replaced; "": everything but the first byte, which is the type
	put     string
	why     string
}{
	{`(?s).*(HELLO|EXEC)`, `id\r\n:\d+`, "id\r\n:<n>", "the number of the connection"},
	{`CLIENT ID$`, `:\d+`, ":<n>", "the number of the connection"},
	{`CLIENT (INFO|LIST (ID|TYPE PUBSUB))`, `\b(id|addr|laddr|fd|age|idle|qbuf|qbuf-free|argv-mem|multi-mem|rbs|rbp|obl|oll|omem|tot-mem|events|tot-net-in|tot-net-out|tot-cmds)=\S*`, "$1=_",
		"the connection's number, addresses, age and buffers"},
	{`CLIENT (INFO|LIST (ID|TYPE PUBSUB))`, `multi=0`, "multi=-1", "to Valkey a connection that had a transaction has one of length 0"},
	{`CLIENT (INFO|LIST (ID|TYPE PUBSUB))`, `flags=U`, "flags=N", "the direct connection is on a Unix socket, which U stands for"},
	{`CLIENT (INFO|LIST (ID|TYPE PUBSUB))`, `[$=]\d+\r\n(txt:)?`, "<length>", "the length follows from the above"},
	{`CLIENT LIST( TYPE NORMAL)?$`, ``, "", "shows the control plane's connections, too; real_clients_test.go looks at it"},
	{`TIME$`, `\d+\r\n\d+`, "<time>", "the time"},
	{`LASTSAVE$`, `:\d+`, ":<time>", "when the engine was started"},
	{`H?P?TTL `, `:\d{3,}`, ":<ttl>", "time goes on between two commands"},
	{`VINFO `, `(max-level|vset-uid)\r\n:\d+`, "$1\r\n:<n>", "drawn anew for each element, and counted per engine"},
	{`VLINKS `, ``, "", "how many levels an element has is drawn anew"},
	{`INFO`, ``, "", "numbers of the process"},
	{`ROLE$`, `:\d+`, ":<n>", "the replication offset"},
	{`MEMORY (STATS|DOCTOR|MALLOC-STATS)$`, ``, "", "sizes of the process's memory"},
	{`LATENCY (HISTOGRAM|DOCTOR)`, ``, "", "durations"},
	{`(SLOWLOG|COMMANDLOG) (GET|LEN)`, ``, "", "durations: whether a command was slow"},
	{`LOLWUT`, ``, "", "drawn anew each time"},
	{`ACL GENPASS`, `\$\d+\r\n[0-9a-f]{8,}\r`, "<random>\r", "random"},
	{`ACL LOG|FUNCTION STATS`, ``, "", "ages"},
	{`(XINFO CONSUMERS|XPENDING|XINFO STREAM) `, `(idle\r\n|inactive\r\n|seen-time\r\n|active-time\r\n|c\r\n):\d+`, "$1:<ms>", "time goes on between two commands"},
	{`XINFO STREAM .*FULL`, `:\d{13}`, ":<ms>", "the time of a delivery"},
	{`OBJECT IDLETIME`, `:[0-9]\r`, ":<n>\r", "time goes on between two commands"},
	{`CONFIG GET DIR$`, ``, "", "each engine has a folder of its own"},
}

// unordered are the commands whose reply lists one of the engine's own hash tables (commands, categories, directives), in an
// order that is drawn at the engine's start. The lines of these replies are sorted before they are compared. The test's data
// are chosen so that no other reply needs this.
var unordered = regexp.MustCompile(`^(COMMAND$|COMMAND (LIST|DOCS|INFO)|ACL CAT|CONFIG GET|CLIENT HELP)`)

var (
	failingLogin = regexp.MustCompile(`(?i)^(AUTH|HELLO .*AUTH) \S+( \S+)?$`)
	justFence    = regexp.MustCompile(`^\$11\r\nfence-\d+\r\n$`)
)

// answeredLogin inserts the reply to a failed login that some engines leave out. Behind Sealane it is always there.
func answeredLogin(e exchange) []byte {
	if failingLogin.MatchString(e.sent) && justFence.Match(e.got) {
		return append([]byte("-WRONGPASS invalid username-password pair or user is disabled.\r\n"), e.got...)
	}
	return e.got
}

type normaliser struct {
	command, find *regexp.Regexp
	put           []byte
}

var normalisers = func() []normaliser {
	var all []normaliser
	for _, v := range volatile {
		n := normaliser{command: regexp.MustCompile("^(" + v.command + ")"), put: []byte(v.put)}
		if v.find != "" {
			n.find = regexp.MustCompile(v.find)
		}
		all = append(all, n)
	}
	return all
}()

// normalise replaces the parts of a reply that the table names.
func normalise(sent string, reply []byte) []byte {
	sent = strings.ToUpper(sent)
	for _, n := range normalisers {
		if !n.command.MatchString(sent) || bytes.HasPrefix(reply, []byte("-")) {
			continue
		}
		if n.find == nil {
			return reply[:min(1, len(reply))]
		}
		reply = n.find.ReplaceAll(reply, n.put)
	}
	if unordered.MatchString(sent) {
		lines := bytes.Split(reply, []byte("\r\n"))
		slices.SortFunc(lines, bytes.Compare)
		reply = bytes.Join(lines, []byte("\r\n"))
	}
	return reply
}
