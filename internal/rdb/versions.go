package rdb

import "fmt"

// Formats are the versions of the format that an engine loads, all older ones included. Engines refuse a newer version, and so does
// each fork what the other has changed since they parted (Redis 7.2, RDB version 11).
type Formats struct {
	Redis                int // the newest of those that begin with REDIS
	ValkeyMin, ValkeyMax int // those that begin with VALKEY, 0 for none
}

// formats are those of the engines, from an engine's version on. versions_test.go tries each engine that is there: Redis 7.0 and 8.0,
// Valkey 8.1 and 9.1. The others are RDB_VERSION of their source; Valkey 9.0 is taken to be as 9.1.
var formats = []struct {
	kind         string
	major, minor int
	Formats
}{
	{"redis", 5, 0, Formats{Redis: 9}},
	{"redis", 7, 0, Formats{Redis: 10}},
	{"redis", 7, 2, Formats{Redis: 11}},
	{"redis", 7, 4, Formats{Redis: 12}},
	{"valkey", 7, 2, Formats{Redis: 11}},
	{"valkey", 8, 1, Formats{Redis: 11, ValkeyMin: 1, ValkeyMax: 11}},
	{"valkey", 9, 0, Formats{Redis: 11, ValkeyMin: 80, ValkeyMax: 80}},
}

// newestKnown are the engines up to which the table is right. Newer ones may load more than it says.
var newestKnown = map[string][2]int{"redis": {8, 0}, "valkey": {9, 1}}

// FormatsOf returns what an engine loads. It is not known for an engine that is newer than this table, and then Formats has what the
// newest engine of the table loads.
func FormatsOf(kind string, major, minor int) (f Formats, known bool) {
	for _, row := range formats {
		if row.kind == kind && (row.major < major || row.major == major && row.minor <= minor) {
			f = row.Formats
		}
	}
	newest, ok := newestKnown[kind]
	return f, ok && f != Formats{} && (major < newest[0] || major == newest[0] && minor <= newest[1])
}

// CheckLoadable returns a *FormatError when the engine would refuse the file's version of the format. Where it isn't known, there is no
// error, and the engine decides.
func (h Header) CheckLoadable(kind string, major, minor int) error {
	f, known := FormatsOf(kind, major, minor)
	name := map[string]string{"redis": "Redis", "valkey": "Valkey"}[kind]
	switch {
	case !h.Valkey && h.Version <= f.Redis, h.Valkey && h.Version >= f.ValkeyMin && h.Version <= f.ValkeyMax:
		return nil
	case !known && (!h.Valkey || kind != "redis"):
		return nil
	}
	by := ""
	if h.Writer != "" {
		by = " by " + h.Writer
	}
	loads := fmt.Sprintf("RDB up to version %d", f.Redis)
	if f.ValkeyMax > 0 && f.ValkeyMax != f.Redis {
		loads += fmt.Sprintf(", and Valkey RDB version %d", f.ValkeyMax)
	}
	return &FormatError{Problem: NotLoadable,
		Text: fmt.Sprintf("the file was written%s in %s, which %s %d.%d can't load", by, h.Format(), name, major, minor),
		Hint: fmt.Sprintf("it loads %s; take a file of an engine that is no newer, or import into an instance with the engine of the file", loads)}
}

// CheckSize returns a *FormatError when what the file says of its writer's memory is more than an instance has. A file that doesn't say
// passes.
func (h Header) CheckSize(limit int64) error {
	if h.UsedMemory <= limit {
		return nil
	}
	const gib = 1 << 30
	return &FormatError{Problem: TooLarge,
		Text: fmt.Sprintf("the data in the file took %.2f GiB (%d bytes) where they were saved, and the instance has %.2f GiB (%d bytes)",
			float64(h.UsedMemory)/gib, h.UsedMemory, float64(limit)/gib, limit),
		Hint: fmt.Sprintf("scale the instance to %d GB or more first", (h.UsedMemory+gib-1)/gib)}
}
