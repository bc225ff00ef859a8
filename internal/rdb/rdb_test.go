package rdb_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sealane/sealane/internal/rdb"
)

// dump is what Redis 7.0.15 wrote of SET key value.
const dump = "REDIS0010\xfa\tredis-ver\x067.0.15\xfa\nredis-bits\xc0@\xfa\x05ctime\xc2\x65\xc8\x61\x6a\xfa\x08used-mem\xc2\xb0\xd3\x10\x00" +
	"\xfa\x08aof-base\xc0\x00\xfe\x00\xfb\x01\x00\x00\x03key\x05value"

// sealed is a file with its end.
func sealed(body string) []byte {
	file := []byte(body + "\xff")
	return binary.LittleEndian.AppendUint64(file, checksum(file))
}

// checksum is the definition of the CRC, bit by bit.
func checksum(p []byte) (sum uint64) {
	for _, b := range p {
		sum ^= uint64(b)
		for range 8 {
			if sum&1 == 1 {
				sum = sum>>1 ^ 0x95ac9329ac4bc9b5
			} else {
				sum >>= 1
			}
		}
	}
	return sum
}

func TestTheChecksumIsTheEngines(t *testing.T) {
	t.Parallel()
	if got := checksum([]byte("123456789")); got != 0xe9c6d914c4b8d9ca { // the check value in Redis's crc64.c
		t.Errorf("%#x", got)
	}
}

func TestHeader(t *testing.T) {
	t.Parallel()
	r, err := rdb.Check(bytes.NewReader(sealed(dump)))
	want := rdb.Header{Version: 10, Writer: "Redis 7.0.15", Created: time.Unix(0x6a61c865, 0).UTC(), UsedMemory: 0x10d3b0}
	if err != nil || r.Header != want || !r.Checksummed() {
		t.Errorf("%+v, %v; want %+v", r, err, want)
	}
	for body, want := range map[string]rdb.Header{
		"VALKEY080\xfa\x0avalkey-ver\x059.1.2\xfa\x08used-mem\x0a4294967296": {Valkey: true, Version: 80, Writer: "Valkey 9.1.2", UsedMemory: 1 << 32},
		"REDIS0009\xfa\x0caof-preamble\xc0\x01":                              {Version: 9, AOF: true},
		"REDIS0009\xfa\x40\x08used-mem\x80\x00\x00\x00\x0212":                {Version: 9, UsedMemory: 12},
		"REDIS0009\xfa\x08used-mem\xc1\xff\xff":                              {Version: 9}, // negative
		"REDIS0009\xfa\x09redis-ver\x05\x1b[31m":                             {Version: 9},
		"REDIS0009\xfa\x05ctime\x81\xff\xff\xff\xff\xff\xff\xff\xff":         {Version: 9}, // longer than the file
		"REDIS0009\xfa\x08used-mem":                                          {Version: 9},
	} {
		if r, err := rdb.Check(bytes.NewReader(sealed(body))); err != nil || r.Header != want {
			t.Errorf("%q: %+v, %v; want %+v", body, r, err, want)
		}
	}
}

func TestWhatIsWrongWithAFileIsTold(t *testing.T) {
	t.Parallel()
	whole := sealed(dump)
	flipped := bytes.Clone(whole)
	flipped[len(whole)-12] ^= 1
	for name, c := range map[string]struct {
		file    string
		problem rdb.Problem
		says    string
	}{
		"empty":                  {"", rdb.Empty, "the file is empty"},
		"a bit flipped":          {string(flipped), rdb.Damaged, "its checksum is not that of its"},
		"cut in the checksum":    {string(whole[:len(whole)-1]), rdb.Truncated, "no end marker"},
		"cut before the end":     {string(whole[:len(whole)-9]), rdb.Truncated, "no end marker"},
		"cut in the fields":      {string(whole[:14]), rdb.Truncated, "no end marker"},
		"cut after the magic":    {string(whole[:9]), rdb.Truncated, "no end marker"},
		"cut in the magic":       {string(whole[:7]), rdb.Truncated, "it has 7 bytes"},
		"cut in Valkey's magic":  {"VALKEY08", rdb.Truncated, "it has 8 bytes"},
		"cut after a letter":     {"R", rdb.Truncated, "it has 1 bytes"},
		"a newline at the end":   {string(whole) + "\n", rdb.Truncated, "or something was added"},
		"the end marker alone":   {"REDIS0010\xff", rdb.Truncated, "no end marker"},
		"an old one without end": {"REDIS0003", rdb.Truncated, "no end marker"},
		"no version":             {"REDISabcd and more", rdb.NotRDB, "text"},
		"version 0":              {"REDIS0000 and more", rdb.NotRDB, "text"},
		"a sign":                 {"REDIS+010 and more", rdb.NotRDB, "text"},
		"gzip":                   {"\x1f\x8b\x08\x00\x00\x00", rdb.NotRDB, "gunzip"},
		"zstd":                   {"\x28\xb5\x2f\xfd\x00\x00", rdb.NotRDB, "zstd -d"},
		"xz":                     {"\xfd7zXZ\x00\x00", rdb.NotRDB, "xz -d"},
		"zip":                    {"PK\x03\x04\x00", rdb.NotRDB, "a zip archive"},
		"tar":                    {strings.Repeat("\x00", 257) + "ustar\x0000", rdb.NotRDB, "a tar archive"},
		"AOF":                    {"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n", rdb.NotRDB, "append-only file"},
		"AOF with a time":        {"#TS:1700000000\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n", rdb.NotRDB, "append-only file"},
		"AOF's manifest":         {"file appendonly.aof.1.base.rdb seq 1 type b\n", rdb.NotRDB, "manifest"},
		"AOF after an RDB":       {string(sealed("REDIS0009\xfa\x0caof-preamble\xc0\x01")) + "*1\r\n$4\r\nPING\r\n", rdb.NotRDB, "append-only file (AOF) that begins like an RDB"},
		"an error page":          {"<?xml version='1.0'?><Error>", rdb.NotRDB, "HTML or XML"},
		"JSON":                   {`{"error": {}}`, rdb.NotRDB, "JSON"},
		"text":                   {"hällo\n", rdb.NotRDB, "but text"},
		"text of 600 bytes":      {strings.Repeat("ä", 300), rdb.NotRDB, "but text"},
		"other bytes":            {"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09", rdb.NotRDB, "begins with the bytes 00 01 02 03 04 05 06 07:"},
	} {
		_, err := rdb.Check(strings.NewReader(c.file))
		var format *rdb.FormatError
		if !errors.As(err, &format) || format.Problem != c.problem || !strings.Contains(err.Error(), c.says) || format.Hint == "" {
			t.Errorf("%s: %v; want %s and %q", name, err, c.problem, c.says)
		}
	}
}

func TestAFileWithoutChecksumHasToHaveItsEnd(t *testing.T) {
	t.Parallel()
	r, err := rdb.Check(strings.NewReader(dump + "\xff" + strings.Repeat("\x00", 8)))
	if err != nil || r.Checksummed() {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := rdb.Check(strings.NewReader("REDIS0003\xff")); err != nil || r.Checksummed() {
		t.Errorf("version 3, which has none: %+v, %v", r, err)
	}
}

func TestCheckLoadable(t *testing.T) {
	t.Parallel()
	redis12, valkey80 := rdb.Header{Version: 12, Writer: "Redis 8.0.2"}, rdb.Header{Valkey: true, Version: 80}
	for _, c := range []struct {
		h            rdb.Header
		kind         string
		major, minor int
		says         string // "": it loads
	}{
		{redis12, "redis", 7, 0, "written by Redis 8.0.2 in RDB version 12, which Redis 7.0 can't load: it loads RDB up to version 10"},
		{redis12, "redis", 7, 4, ""},
		{redis12, "valkey", 9, 1, "which Valkey 9.1 can't load: it loads RDB up to version 11, and Valkey RDB version 80"},
		{valkey80, "redis", 8, 0, "in Valkey RDB version 80, which Redis 8.0 can't load"},
		{valkey80, "redis", 9, 9, "in Valkey RDB version 80"}, // whatever Redis comes
		{valkey80, "valkey", 8, 1, "which Valkey 8.1 can't load"},
		{valkey80, "valkey", 9, 0, ""},
		{rdb.Header{Version: 13}, "redis", 8, 9, ""}, // nobody knows yet
		{rdb.Header{Valkey: true, Version: 81}, "valkey", 10, 0, ""},
		{rdb.Header{Version: 9}, "redis", 6, 2, ""},
		{rdb.Header{Version: 10}, "redis", 6, 2, "it loads RDB up to version 9"},
	} {
		err := c.h.CheckLoadable(c.kind, c.major, c.minor)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s on %s %d.%d: %v; want %q", c.h.Format(), c.kind, c.major, c.minor, err, c.says)
		}
	}
}

func TestCheckSize(t *testing.T) {
	t.Parallel()
	h := rdb.Header{UsedMemory: 5<<30 + 1}
	err := h.CheckSize(4 << 30)
	if err == nil || !strings.Contains(err.Error(), "5.00 GiB (5368709121 bytes)") || !strings.Contains(err.Error(), "4.00 GiB (4294967296 bytes)") ||
		!strings.Contains(err.Error(), "scale the instance to 6 GB") {
		t.Error(err)
	}
	if h.CheckSize(5<<30+1) != nil || (rdb.Header{}).CheckSize(1) != nil {
		t.Error("refused")
	}
}

func TestAFailingSourceIsNoProblemOfTheFile(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	var format *rdb.FormatError
	for n := range len(dump) {
		_, err := rdb.Check(io.MultiReader(strings.NewReader(dump[:n]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || errors.As(err, &format) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// However a file comes in pieces, it is passed on as it is, with the same verdict.
func FuzzReader(f *testing.F) {
	whole := sealed(dump)
	f.Add(whole, uint8(1))
	f.Add(whole[:len(whole)-3], uint8(7))
	f.Add([]byte("VALKEY080\xfa\x0avalkey-ver\x059.1.2\xff\x00\x00\x00\x00\x00\x00\x00\x00"), uint8(3))
	f.Add([]byte("REDIS0003\xff"), uint8(2))
	f.Add([]byte("*2\r\n$6\r\n"), uint8(0))
	f.Add([]byte("\xe4\xf6"), uint8(0))
	f.Fuzz(func(t *testing.T, file []byte, step uint8) {
		checked, want := rdb.Check(bytes.NewReader(file))
		if want == nil && checked.Checksummed() && checksum(file) != 0 {
			t.Fatal("a wrong checksum was taken")
		}
		r, err := rdb.NewReader(iotest.OneByteReader(bytes.NewReader(file)))
		var passed []byte
		for err == nil {
			var n int
			p := make([]byte, int(step)+1)
			n, err = r.Read(p)
			passed = append(passed, p[:n]...)
		}
		if err == io.EOF {
			err = nil
		}
		if (err == nil) != (want == nil) || err != nil && err.Error() != want.Error() {
			t.Fatalf("in pieces: %v; at once: %v", err, want)
		}
		if r != nil && !bytes.Equal(passed, file) {
			t.Fatalf("passed on %q", passed)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	file := sealed("REDIS0010" + strings.Repeat("0123456789abcdef", 4<<20))
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		if _, err := rdb.Check(bytes.NewReader(file)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	file := sealed("REDIS0010" + strings.Repeat("0123456789abcdef", 4<<20))
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		r, err := rdb.NewReader(bytes.NewReader(file))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 32<<10)); err != nil {
			b.Fatal(err)
		}
	}
}
