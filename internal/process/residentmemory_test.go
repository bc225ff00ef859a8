package process

import (
	"os"
	"testing"
)

func TestKilobytesOfProc(t *testing.T) {
	t.Parallel()
	const status = "Name:\tredis-server\nVmSwap:\t       4 kB\nRssAnon:\t    1236 kB\nRssFile:\t    8000 kB\nThreads:\t5\n"
	if got := kilobytes([]byte(status), "RssAnon:", "VmSwap:"); got != 1240<<10 {
		t.Errorf("got %d; want 1240 KiB", got)
	}
	for _, broken := range []string{"", "RssAnon:", "RssAnon: x kB\n", "RssAnon"} {
		if got := kilobytes([]byte(broken), "RssAnon:"); got != 0 {
			t.Errorf("%q: got %d; want 0", broken, got)
		}
	}
}

func TestMemoryOfThisProcess(t *testing.T) {
	t.Parallel()
	before, err := readMemory(os.Getpid())
	if err != nil || before.Own < 1<<20 {
		t.Fatalf("got %+v, %v; want some MiB", before, err)
	}
	b := make([]byte, 64<<20)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	after, err := readMemory(os.Getpid())
	if grown := after.Own - before.Own; err != nil || grown < 48<<20 {
		t.Errorf("after 64 MiB were written it has grown by %d, %v", grown, err)
	}
	if b[0] != 1 {
		t.Error("it is needed up to here")
	}
}
