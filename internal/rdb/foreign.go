package rdb

import (
	"bytes"
	"fmt"
	"regexp"
	"unicode/utf8"
)

// signatures are the beginnings of files that people take for RDB files.
var signatures = []struct {
	begins string
	what   string
	hint   string
}{
	{"\x1f\x8b", "gzip-compressed data", "decompress it first: gunzip FILE"},
	{"\x28\xb5\x2f\xfd", "zstd-compressed data", "decompress it first: zstd -d FILE"},
	{"BZh", "bzip2-compressed data", "decompress it first: bunzip2 FILE"},
	{"\xfd7zXZ\x00", "xz-compressed data", "decompress it first: xz -d FILE"},
	{"\x04\x22\x4d\x18", "lz4-compressed data", "decompress it first: lz4 -d FILE"},
	{"PK\x03\x04", "a zip archive", "unpack it and import the .rdb file in it"},
	{"age-encryption.org/", "a file that age has encrypted", "decrypt it first: age -d FILE"},
	{"-----BEGIN PGP", "a file that PGP has encrypted", "decrypt it first: gpg -d FILE"},
	{"Salted__", "a file that openssl enc has encrypted", "decrypt it first"},
	{"file appendonly", "the manifest of an append-only file (AOF)", "start an engine with the AOF, and take the dump.rdb that its BGSAVE writes"},
	{"<", "HTML or XML, perhaps a server's error message in place of the file", "look into it, and download the RDB file again"},
	{"{", "JSON", "an RDB file is what BGSAVE, redis-cli --rdb or an export writes"},
}

// An append-only file is a series of commands: arrays of RESP, and in newer versions comments with a time.
var aofCommand = regexp.MustCompile(`^(?:#TS:\d+\r\n)?\*\d+\r\n\$\d+\r\n`)

const otherwise = "an RDB file is what BGSAVE, redis-cli --rdb or an export writes; it begins with REDIS or VALKEY and its version"

// foreign says what a file is that is no RDB file.
func foreign(head []byte) *FormatError {
	if len(head) == 0 {
		return &FormatError{Problem: Empty, Text: "the file is empty", Hint: "copy it again; even an RDB file without keys has some 90 bytes"}
	}
	for _, magic := range []string{"REDIS", "VALKEY"} {
		if len(head) < magicSize && bytes.HasPrefix([]byte(magic), head[:min(len(head), len(magic))]) {
			return &FormatError{Problem: Truncated, Text: fmt.Sprintf("the file is cut off: it has %d bytes and begins like an RDB file", len(head)), Hint: "copy it again"}
		}
	}
	is := func(what, hint string) *FormatError {
		return &FormatError{Problem: NotRDB, Text: fmt.Sprintf("the file is no RDB file but %s", what), Hint: hint}
	}
	if aofCommand.Match(head) {
		return is("an append-only file (AOF)", "start an engine with it, and take the dump.rdb that its BGSAVE writes")
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return is("a tar archive", "unpack it and import the .rdb file in it")
	}
	for _, s := range signatures {
		if bytes.HasPrefix(head, []byte(s.begins)) {
			return is(s.what, s.hint)
		}
	}
	begin := head[:min(len(head), 512)]
	for n := 0; n < utf8.UTFMax-1 && !utf8.Valid(begin); n++ { // the last character may be cut
		begin = begin[:max(len(begin)-1, 0)]
	}
	if len(begin) > 0 && utf8.Valid(begin) && !bytes.ContainsFunc(begin, func(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' }) {
		return is("text", otherwise)
	}
	// The bytes are no secret: a key or value is nothing that a file begins with, and eight of them are all that is shown.
	return is(fmt.Sprintf("something that begins with the bytes % x", head[:min(len(head), 8)]), otherwise)
}
