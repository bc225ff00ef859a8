package diagnosis

// Kind is what is wrong. The set is closed: each has a row in the table of texts.
type Kind string

// The client's own side: its CA file, the instance that it means, its clock.
const (
	InstanceNotReady Kind = "instance-not-ready"

	CAFileMissing    Kind = "ca-file-missing"
	CAFileUnreadable Kind = "ca-file-unreadable"
	CAFileEmpty      Kind = "ca-file-empty"
	CAFileNotPEM     Kind = "ca-file-not-pem"
	CAFileOtherBlock Kind = "ca-file-other-block"
	CAFileMarked     Kind = "ca-file-marked"
	CAFileUTF16      Kind = "ca-file-utf16"
	CAFileDER        Kind = "ca-file-der"
	CAFileDamaged    Kind = "ca-file-damaged"
	CAFileNoCA       Kind = "ca-file-no-ca"
	CAExpired        Kind = "ca-expired"
	CANextMissing    Kind = "ca-next-missing"

	ClockWrong  Kind = "clock-wrong"
	ClockSkew   Kind = "clock-skew"
	NotVerified Kind = "not-verified"

	NoDescriptors          Kind = "descriptors"
	NoDescriptorsOnMachine Kind = "descriptors-machine"
)

// The way to the server.
const (
	NameTrailingDot Kind = "name-trailing-dot"
	NameUnknown     Kind = "name-unknown"
	DNSDown         Kind = "dns-down"
	Unreachable     Kind = "unreachable"
	PortClosed      Kind = "port-closed"
	PortSilent      Kind = "port-silent"
	PortPartly      Kind = "port-partly"
)

// What answers, and the handshake.
const (
	PlaintextRedis     Kind = "plaintext-redis"
	HTTP               Kind = "http"
	HTTPOverTLS        Kind = "http-over-tls"
	Silent             Kind = "silent"
	ClosedAtOnce       Kind = "closed-at-once"
	OtherProtocol      Kind = "other-protocol"
	PortWantsTLS       Kind = "wants-tls"
	TLSTooOld          Kind = "tls-too-old"
	NoSharedCipher     Kind = "no-shared-cipher"
	ClientCertRequired Kind = "client-cert-required"
	ClientCertRefused  Kind = "client-cert-refused"
	HelloTooBig        Kind = "hello-too-big"
	SNIRefused         Kind = "sni-refused"
	HandshakeFailed    Kind = "handshake-failed"
)

// The server's certificate.
const (
	CAUnknown           Kind = "ca-unknown"
	CAReplaced          Kind = "ca-replaced"
	IntermediateMissing Kind = "intermediate-missing"
	IntermediateExpired Kind = "intermediate-expired"
	SelfSigned          Kind = "self-signed"
	WrongServer         Kind = "wrong-server"
	WrongServerCA       Kind = "wrong-server-ca"
	CertificateUnfit    Kind = "certificate-unfit"
	NameMismatch        Kind = "name-mismatch"
	NoNames             Kind = "no-names"
	Expired             Kind = "expired"
	NotYetValid         Kind = "not-yet-valid"
	ExpiresSoon         Kind = "expires-soon"
	CAExpiresSoon       Kind = "ca-expires-soon"
	ExpiredExtra        Kind = "expired-extra"
	NameConstraints     Kind = "name-constraints"
	NextChainRefused    Kind = "next-chain-refused"
)

// What the Redis says, once its certificate is verified.
const (
	AuthMissing          Kind = "auth-missing"
	AuthWrong            Kind = "auth-wrong"
	AuthWrongInAPI       Kind = "auth-wrong-in-api"
	AuthUnneeded         Kind = "auth-unneeded"
	AuthUnknown          Kind = "auth-unknown"
	MaxClients           Kind = "max-clients"
	Loading              Kind = "loading"
	Busy                 Kind = "busy"
	MasterDown           Kind = "master-down"
	ProtectedMode        Kind = "protected-mode"
	NoWrites             Kind = "misconf"
	NoPermission         Kind = "no-permission"
	EngineAway           Kind = "engine-away"
	PingRefused          Kind = "ping-refused"
	NotRedis             Kind = "not-redis"
	NoReply              Kind = "no-reply"
	ClosedAfterHandshake Kind = "closed-after-handshake"
)

// code is what doctor calls a Kind. Several may share one.
func (k Kind) code() string {
	if c := texts[k].code; c != "" {
		return c
	}
	return string(k)
}
