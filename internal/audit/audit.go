// Package audit is the log of every certificate that was signed and of what operators did to certificates, and beside it the log of
// the API's calls (calls.go), which is kept in the same way.
//
// It is two files of the state folder: audit.log, one line of JSON per entry, and audit.head, the number and hash of
// the last entry. Each entry holds the hash of the one before it and its own: the SHA-256 of the line's bytes before
// `,"hash":`. Nothing is encoded anew to check it, so that later versions can add fields, and anybody can check it with
// a shell and sha256sum.
//
// Guaranteed:
//   - When Append returns nil the entry is on disk. After an error it may be there or not; appending again is safe.
//   - A certificate that was signed is in the log once, however often it is appended: its fingerprints are kept in
//     memory, some 50 bytes each, from Open on.
//   - A crash loses no entry that was acknowledged and needs no repair by hand. The line is written and synced before
//     the head, and no entry is begun before the head has caught up, so at most one line stands behind the head. Open
//     keeps it when it is whole, and otherwise cuts it off and says so: it was never acknowledged.
//   - After a failed write, as on a full disk, the file is cut back to its last whole entry, at the latest before the next
//     entry is written.
//   - Verify finds an entry that was altered, removed, inserted, moved or torn, and an end that was cut off, and names
//     the first entry that is wrong. It needs the same memory for a log of any length, and may run while another process
//     appends.
//
// Not guaranteed: who can write both files can write another log, or a shorter one, with hashes that fit. Only a head
// hash that was kept elsewhere shows that, and only for the entries up to it. Nor does the log know of a certificate
// that somebody else signed with a stolen CA key.
//
// One process at a time may append: whoever calls Open holds the state folder.
package audit

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Action is what an entry reports.
type Action string

const (
	Begin      Action = "begin"      // this log begins here
	Sign       Action = "sign"       // a certificate was signed
	Rotate     Action = "rotate"     // an operator asked for a new leaf, or for the next CA generation
	Activate   Action = "activate"   // an operator let a CA generation sign
	Retire     Action = "retire"     // an operator withdrew a CA generation
	Compromise Action = "compromise" // an operator declared a CA's key stolen
	Force      Action = "force"      // an operator overrode a refusal; the reason says which
)

// Kind is what a certificate is for.
type Kind string

const (
	CA       Kind = "ca"
	Cross    Kind = "cross" // a CA signed by the one before it
	Leaf     Kind = "leaf"
	LeafNext Kind = "leaf-next" // signed by the next CA, for the name ca-next.sealane.invalid
	Peer     Kind = "peer"      // what the nodes of an instance show each other
)

// Entry is one line of the log.
type Entry struct {
	Seq      uint64    `json:"seq"`  // 1 for the first; Append sets it
	Time     time.Time `json:"time"` // in whole seconds
	Instance string    `json:"instance,omitempty"`
	Action   Action    `json:"action"`
	Actor    string    `json:"actor,omitempty"` // who asked for it; empty: Sealane's own plan
	Reason   string    `json:"reason,omitempty"`
	// Certificate is the one that was signed or that the action is about.
	Certificate *Certificate `json:"certificate,omitempty"`
	// Call is of entries in the log of calls only.
	Call *Call `json:"call,omitempty"`
	Prev Hash  `json:"prev"` // of the entry before, zeros for the first; Append sets it
	Hash Hash  `json:"hash"` // Append sets it; the line ends with it
}

// Certificate is what an entry says of a certificate.
type Certificate struct {
	Kind              Kind      `json:"kind"`
	Generation        int       `json:"generation,omitempty"` // of a CA
	IssuerGeneration  int       `json:"issuerGeneration"`     // of the CA that signed it
	Serial            string    `json:"serial"`               // decimal
	Subject           string    `json:"subject"`
	Names             []string  `json:"names,omitempty"` // its subject alternative names
	NotBefore         time.Time `json:"notBefore"`
	NotAfter          time.Time `json:"notAfter"`
	SHA256Fingerprint Hash      `json:"sha256Fingerprint"` // of the DER
}

// Describe reads a certificate. generation is that of a CA, 0 for any other; issuer is the generation that signed it.
func Describe(der []byte, kind Kind, generation, issuer int) (*Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse %s certificate: %w", kind, err)
	}
	c := &Certificate{
		Kind: kind, Generation: generation, IssuerGeneration: issuer,
		Serial: cert.SerialNumber.String(), Subject: subject(cert), Names: slices.Clone(cert.DNSNames),
		NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(), SHA256Fingerprint: sha256.Sum256(der),
	}
	for _, ip := range cert.IPAddresses {
		c.Names = append(c.Names, ip.String())
	}
	for _, u := range cert.URIs {
		c.Names = append(c.Names, u.String())
	}
	return c, nil
}

// subject is the subject with the names that people know; x509 prints a dnQualifier as the hexadecimal of its DER.
func subject(cert *x509.Certificate) string {
	var parts []string
	for _, n := range cert.Subject.Names {
		kind := n.Type.String()
		switch kind {
		case "2.5.4.3":
			kind = "CN"
		case "2.5.4.46":
			kind = "dnQualifier"
		}
		parts = append(parts, fmt.Sprintf("%s=%v", kind, n.Value))
	}
	return strings.Join(parts, ", ")
}

// maxLine bounds the length of an entry, and with it the memory that reading needs. The entry of a certificate that fits into a TLS
// handshake is shorter.
const maxLine = 1 << 20

// Every line ends with these. The hash is over all bytes before them.
const (
	hashKey = `,"hash":"`
	lineEnd = "\"}\n"
	endLen  = len(hashKey) + 2*sha256.Size + len(lineEnd)
)

// encode sets the entry's hash and returns its line.
func (e *Entry) encode() ([]byte, error) {
	e.Hash = Hash{}
	line, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	line = append(line, '\n')
	if len(line) > maxLine {
		return nil, fmt.Errorf("the entry has %d bytes, %d more than fit: the certificate has too many names", len(line), len(line)-maxLine)
	}
	body := line[:len(line)-endLen]
	e.Hash = sha256.Sum256(body)
	return append(append(append(body, hashKey...), e.Hash.String()...), lineEnd...), nil
}

var (
	errAltered  = errors.New("its content does not fit its hash")
	errNotWhole = errors.New("it does not end as an entry does")
)

// parse decodes a line, its line feed included, and checks its hash.
func parse(line []byte) (Entry, error) {
	var e Entry
	at := len(line) - endLen
	if at < 0 || !bytes.HasPrefix(line[at:], []byte(hashKey)) || !bytes.HasSuffix(line, []byte(lineEnd)) {
		return e, errNotWhole
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return e, err
	}
	if e.Hash != sha256.Sum256(line[:at]) {
		return e, errAltered
	}
	return e, nil
}

func (e *Entry) head() Head { return Head{Seq: e.Seq, Hash: e.Hash} }

// signs says whether the entry reports that a certificate was signed. Such an entry is made only once per certificate.
func (e *Entry) signs() bool { return e.Action == Sign && e.Certificate != nil }

// Head names an entry, and by its hash all entries before it.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash Hash   `json:"hash"`
}

// Hash is a SHA-256, as text 64 lower-case hexadecimal digits.
type Hash [sha256.Size]byte

// ParseHash reads the text of a hash, in lower or upper case.
func ParseHash(text string) (Hash, error) {
	var h Hash
	err := h.UnmarshalText([]byte(strings.ToLower(text)))
	return h, err
}

// String returns the hash as text.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It takes lower case only: a hash has one text.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != 2*len(h) || strings.ContainsAny(string(text), "ABCDEF") {
		return fmt.Errorf("want %d hexadecimal digits", 2*len(h))
	}
	if _, err := hex.Decode(h[:], text); err != nil {
		return fmt.Errorf("want %d hexadecimal digits", 2*len(h))
	}
	return nil
}
