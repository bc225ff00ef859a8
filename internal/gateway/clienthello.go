package gateway

import (
	"bytes"
	"crypto/tls"

	"golang.org/x/crypto/cryptobyte"

	"github.com/sealane/sealane/internal/firstline"
)

// maxClientHello is how much of a connection is read before crypto/tls gets it. A ClientHello with a post-quantum key share and a
// session ticket has about 2 KiB. A longer one is read by crypto/tls, and only what is in here of it is looked at.
const maxClientHello = 4 << 10

// recordHeader is the size of the header of a TLS record: type, version, length (RFC 8446, section 5.1).
const recordHeader = 5

// clientHello is what the gateway wants to know of a ClientHello before crypto/tls reads it.
type clientHello struct {
	resumes     bool   // it has a session ticket, which may be worth nothing
	version     uint16 // the newest that the client offers; 0: the message was not understood
	trailingDot bool   // its server name ends in a dot
}

// parseClientHello looks at the first bytes of a connection. complete says that more bytes would not change the answer: the
// ClientHello is all there, or what came is none, or it is longer than maxClientHello. Nothing is allocated, whatever the lengths in
// the message say.
func parseClientHello(b []byte) (h clientHello, complete bool) {
	if len(b) < recordHeader {
		return h, len(b) > 0 && b[0] != firstline.Handshake
	}
	if b[0] != firstline.Handshake {
		return h, true
	}
	size := int(b[3])<<8 | int(b[4])
	if recordHeader+size > maxClientHello {
		return h, true
	}
	if len(b) < recordHeader+size {
		return h, false
	}
	if !h.parse(b[recordHeader : recordHeader+size]) {
		return clientHello{}, true
	}
	return h, true
}

// Of RFC 8446, section 4, where no other is named.
const (
	typeClientHello = 1

	extensionServerName        = 0  // RFC 6066, section 3
	extensionSessionTicket     = 35 // RFC 5077, section 3.2
	extensionPreSharedKey      = 41
	extensionSupportedVersions = 43

	serverNameHost = 0 // RFC 6066, section 3
)

// parse reads the fragment of one record. A ClientHello that is spread over several records is not understood.
func (h *clientHello) parse(record cryptobyte.String) (ok bool) {
	var message uint8
	var hello, sessionID, suites, compressions, extensions cryptobyte.String
	if !record.ReadUint8(&message) || message != typeClientHello || !record.ReadUint24LengthPrefixed(&hello) ||
		!hello.ReadUint16(&h.version) || !hello.Skip(32) || // the random
		!hello.ReadUint8LengthPrefixed(&sessionID) || !hello.ReadUint16LengthPrefixed(&suites) || !hello.ReadUint8LengthPrefixed(&compressions) {
		return false
	}
	if hello.Empty() { // TLS 1.2 does not ask for extensions
		return true
	}
	if !hello.ReadUint16LengthPrefixed(&extensions) {
		return false
	}
	for !extensions.Empty() {
		var name uint16
		var body cryptobyte.String
		if !extensions.ReadUint16(&name) || !extensions.ReadUint16LengthPrefixed(&body) || !h.parseExtension(name, body) {
			return false
		}
	}
	return true
}

func (h *clientHello) parseExtension(name uint16, body cryptobyte.String) (ok bool) {
	switch name {
	case extensionServerName:
		return h.parseServerName(body)
	case extensionSessionTicket: // empty where the client has no ticket yet
		h.resumes = h.resumes || !body.Empty()
	case extensionPreSharedKey:
		h.resumes = true
	case extensionSupportedVersions:
		return h.parseVersions(body)
	}
	return true
}

func (h *clientHello) parseServerName(body cryptobyte.String) (ok bool) {
	var names cryptobyte.String
	if !body.ReadUint16LengthPrefixed(&names) {
		return false
	}
	for !names.Empty() {
		var kind uint8
		var name cryptobyte.String
		if !names.ReadUint8(&kind) || !names.ReadUint16LengthPrefixed(&name) {
			return false
		}
		if kind == serverNameHost && bytes.HasSuffix(name, []byte(".")) {
			h.trailingDot = true
		}
	}
	return true
}

func (h *clientHello) parseVersions(body cryptobyte.String) (ok bool) {
	var versions cryptobyte.String
	if !body.ReadUint8LengthPrefixed(&versions) {
		return false
	}
	h.version = 0
	for !versions.Empty() {
		var v uint16
		if !versions.ReadUint16(&v) {
			return false
		}
		// Some clients offer numbers that mean nothing (GREASE, RFC 8701).
		if v <= tls.VersionTLS13 {
			h.version = max(h.version, v)
		}
	}
	return true
}
