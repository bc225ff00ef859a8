package diagnosis

import "github.com/sealane/sealane/internal/pki"

var certificateTexts = map[Kind]row{
	CAUnknown: {
		sentence: "the certificate" + ofThisServer + " was signed by {{issuer .Cert}}, which is not in {{.TrustName}}{{if .Details.Identity}}; it names {{.Details.Identity}}{{end}}",
		fix: "{{if .CAFile}}save the right bundle, and have the clients load it" + saveBundle +
			"{{else}}give the clients the CA bundle" + saveBundle + "; then `{{.DoctorCommand}} --ca ca.pem`{{end}}",
		sidecar: variant{code: "ca-unknown", fix: newBundle},
	},
	CAReplaced: {
		sentence: "the certificate" + ofThisServer + " was signed by a CA that is called {{cn .Trusted}} but has another key than the one in {{.TrustName}}: it was made anew",
		fix:      "save the present bundle, with the key {{key .Cert.AuthorityKeyId}} in place of {{key .Trusted.SubjectKeyId}}, and have the clients load it" + saveBundle,
		sidecar:  variant{code: "ca-unknown", fix: newBundle},
	},
	IntermediateMissing: {
		sentence: "the server{{if .ForSidecar}} at {{.At}}{{end}} does not send the intermediate CA {{issuer .Cert}} that signed its certificate, so that it does not lead to {{.TrustName}}",
		fix:      "append the intermediate's certificate to the server's own (tls-cert-file in redis.conf); what is sent: `openssl s_client -showcerts -connect {{.At}} </dev/null`",
		sidecar:  variant{code: "ca-unknown", fix: "append the intermediate's certificate to the server's own (tls-cert-file in redis.conf)" + everyStep},
	},
	IntermediateExpired: {
		code:     "certificate-unfit",
		sentence: "the certificate" + ofThisServer + " can't be used: {{ca .Cert}} above it is valid {{validity .Cert}} only",
		fix:      issueAnew,
		sidecar:  variant{code: "expired", fix: reissue},
	},
	SelfSigned: {
		sentence: "the certificate {{ca .Cert}}" + ofThisServer + " is signed by itself, and is not in {{.TrustName}}",
		fix:      "if it is the right one, copy it from the server by a way that you trust and name it with --ca; if not, find out who answers there",
		sidecar:  variant{code: "ca-unknown", fix: newBundle},
	},
	WrongServer: {
		sentence: notThatServer + "its certificate {{if .Details.Identity}}names {{.Details.Identity}}{{else}}is for {{if .Names}}{{few .Names}}{{else}}no name at all{{end}}{{end}}",
		fix: "connect to the right address (`sealane instances describe {{.InstanceArgs}}`)" +
			"{{if .Details.Identity}}, or mean the other instance: `sealane doctor {{args .Details.Identity}}`{{end}}",
		sidecar: variant{code: "wrong-server", fix: "see who answers there (addresses, DNS, tunnels), or correct server_identity" + everyStep},
	},
	WrongServerCA: {
		code:     "wrong-server",
		sentence: notThatServer + "no CA of the instance signed its certificate",
		fix:      "see who answers there (" + whoHasPort + ", DNS, tunnels): `sealane instances describe {{.InstanceArgs}}` shows where the instance is",
	},
	CertificateUnfit: {
		sentence: "the certificate" + ofThisServer + " can't be used: {{plain .Why}}",
		fix:      issueAnew,
		sidecar:  variant{code: "certificate-unfit", fix: reissue},
	},
	NameMismatch: {
		sentence: "the certificate" + ofThisServer + " is for {{few .Names}}, not for {{quote .Host}}",
		fix:      "connect by one of its names (`{{.Retry}}`), or have the name added (Sealane: addresses.dns_names of the server's configuration)",
		sidecar:  variant{code: "name-mismatch", fix: "connect by one of its names, say which one it has (server_name), or have this one added to it"},
	},
	NoNames: {
		sentence: "the certificate {{ca .Cert}}" + ofThisServer + " has no subject alternative names, and clients no longer look at the common name",
		fix:      "issue it anew with the name that clients dial (for openssl req: -addext subjectAltName={{san .Host}})",
		sidecar:  variant{code: "name-mismatch", fix: "issue it anew with the name that clients dial (for openssl req: -addext subjectAltName={{san .Host}})"},
	},
	Expired: {
		sentence: "the certificate" + ofThisServer + " expired on {{date .Cert.NotAfter}}, {{span (.Now.Sub .Cert.NotAfter)}} ago: this machine's clock says {{date .Now}}",
		fix:      renew,
		sidecar:  variant{code: "expired", fix: "renew it on the server; one of Sealane's is renewed as long as `sealane serve` runs"},
	},
	NotYetValid: {
		sentence: "the certificate" + ofThisServer + " is valid from {{date .Cert.NotBefore}}, and this machine's clock says {{date .Now}}",
		fix:      clockBehind,
		sidecar:  variant{code: "not-yet-valid"},
	},
	ExpiresSoon: {
		sentence: "the certificate {{ca .Cert}} expires on {{date .Cert.NotAfter}}, in {{span (.Cert.NotAfter.Sub .Now)}}",
		fix:      renew,
	},
	CAExpiresSoon: {
		code:     "expires-soon",
		sentence: "the CA {{ca .Cert}}, which the certificate leads to, expires on {{date .Cert.NotAfter}}, in {{span (.Cert.NotAfter.Sub .Now)}}",
		fix:      "have the clients load a bundle with the next CA before that day" + saveBundle,
	},
	ExpiredExtra: {
		sentence: "the server also sends {{ca .Cert}}, which expired on {{date .Cert.NotAfter}}: some TLS libraries fail on it",
		fix:      "take it out of the chain that the server sends",
	},
	NameConstraints: {
		sentence: "the CA {{ca .Cert}} has name constraints: this program verifies what it signs, but " + pki.ConstraintsCost,
		fix:      "where such clients are to connect, move to a CA without, with the usual overlap: `sealane ca rotate {{.InstanceArgs}} --ca-name-constraints=false`",
	},
	NextChainRefused: {
		sentence: "the certificate that will be served, by {{issuer .Cert}}, {{.When}}, does not verify with {{.TrustName}}: {{plain .Why}}",
		fix:      loadPresent,
	},
}

const (
	notThatServer = "what answers at {{.At}} is not {{if .Instance}}instance {{.Instance}}{{else}}{{plain .Subject.Identity}}{{end}}: "
	issueAnew     = "have the server's certificate issued anew; what it holds: `openssl s_client -connect {{.At}} </dev/null | openssl x509 -noout -text`"
	clockBehind   = "set this machine's clock: " + setClock + "; if it is right, that of the machine that issues certificates is ahead"
)
