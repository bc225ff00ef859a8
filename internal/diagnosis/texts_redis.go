package diagnosis

var redisTexts = map[Kind]row{
	AuthMissing: {
		sentence: "{{.At}} wants a password, and none was given",
		fix:      "give it: `SEALANE_AUTH=\"$(sealane instances get-auth-string {{.InstanceArgs}})\" {{.DoctorCommand}}`, or --auth-file FILE",
		sidecar:  variant{code: "auth", fix: "give it one (--auth), or let clients log in themselves (--auth none)"},
	},
	AuthWrong: {
		sentence: "{{.At}} refuses the password{{if .AuthFrom}} ({{.AuthFrom}}){{end}}{{if .Said}}: {{quote .Said}}{{end}}",
		fix:      "use the present one, which is another after AUTH was off: `sealane instances get-auth-string {{.InstanceArgs}}`",
		sidecar:  variant{code: "auth", fix: "give the present one; it is read again by itself" + everyStep},
	},
	AuthWrongInAPI: {
		code:     "auth-wrong",
		sentence: "{{.At}} refuses the password that the API shows for instance {{.Instance}}",
		fix:      "try again in a moment, when a change of the password may have reached the engine; if it lasts, the log of `sealane serve` says why",
	},
	AuthUnneeded: {
		sentence: "{{.At}} has no password, and refuses clients that send one ({{.AuthFrom}})",
		fix:      "take the password out of the clients, or switch AUTH on at the server",
	},
	AuthUnknown: {
		sentence: "{{.At}} has a password, and it is not known: the cache does not keep it",
		sidecar:  variant{code: "auth", fix: "bring back the API, or give the password (--auth file:PATH)" + goesOn},
	},
	MaxClients: {
		sentence: "{{.At}} has no room for one more client",
		fix:      "close connections that nobody uses (CLIENT LIST shows them, `timeout` closes them), pool them in the clients, or raise the limit: a larger instance, or maxclients",
		sidecar:  variant{code: "max-clients", fix: "close connections that nobody uses there, or raise its limit" + goesOn},
	},
	Loading: {
		sentence: "the engine behind {{.At}} is loading its data: {{quote .Said}}",
		fix:      "wait, and have clients retry with backoff; INFO persistence shows how long it will take (loading_eta_seconds)",
		sidecar:  variant{code: "loading", fix: "wait until it has loaded its data" + goesOn},
	},
	EngineAway: {
		sentence: "Sealane answers at {{.At}}, but the engine behind it does not: it is being restarted",
		fix:      "wait, and have clients retry with backoff; if it lasts: `sealane instances describe {{.InstanceArgs}}`",
		sidecar:  variant{code: "engine-away", fix: "wait" + goesOn},
	},
	Busy:          refused("busy", "end the script there: `redis-cli SCRIPT KILL` or `FUNCTION KILL`", goesOn),
	MasterDown:    refused("master-down", "mend this replica's link to its master (`redis-cli INFO replication` there), or give the master's address", goesOn),
	ProtectedMode: refused("protected-mode", "on the server: set a password (requirepass, or ACL users), or name its addresses in `bind` and set `protected-mode no`", goesOn),
	NoPermission:  refused("no-permission", "if clients send PING, let their user do so there: `ACL SETUSER NAME +ping`", ""),
	NoWrites:      refused("misconf", "make room for its snapshots or mend what keeps them from being written; its log says which", ". Reads are served meanwhile"+goesOn),
	PingRefused: {
		sentence: answers,
		fix:      "do what the server says there; its log has more",
		sidecar:  variant{code: "server-error", fix: "the server's log of this moment may say why" + goesOn},
	},
	NotRedis: {
		sentence: "what answers inside TLS at {{.At}} is no Redis: it says {{quote .Said}}",
		fix:      givePort,
		sidecar:  variant{code: "not-tls", fix: givePort + everyStep},
	},
	NoReply: {
		sentence: "{{.At}} finishes the handshake, but does not answer {{.Command}}{{if .Timeout}} within {{.Timeout}}{{end}}",
		fix:      "see whether the engine hangs (a slow script or command: SLOWLOG GET), or a proxy waits for a server that is away",
		sidecar:  variant{code: "engine-away", fix: "see whether the engine hangs (a slow script or command: SLOWLOG GET), or a proxy waits for a server that is away" + goesOn},
	},
	ClosedAfterHandshake: {
		sentence: "{{.At}} finishes the handshake and then closes the connection",
		fix:      serverLog + ": a proxy without a server behind it, or a list of allowed clients",
		sidecar:  variant{code: "closed", fix: serverLog + goesOn},
	},
}

const answers = "{{.At}} answers {{.Command}} with {{quote .Said}}"

// refused is the row of an error with which a Redis refuses every command, PING as well. Doctor has one code for all of them.
func refused(code, fix, inSidecar string) row {
	return row{code: string(PingRefused), sentence: answers, fix: fix, sidecar: variant{code: code, fix: fix + inSidecar}}
}
