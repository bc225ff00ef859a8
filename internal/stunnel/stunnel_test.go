package stunnel_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/stunnel"
)

const sample = "\xef\xbb\xbf; a comment\n# another\noutput = /tmp/stunnel.log\r\nClient=yes\n\n[redis]\n  accept  =  127.0.0.1:6378  \nconnect = 10.0.0.5:6378\noptions = NO_SSLv2\noptions = NO_SSLv3\n[ other ]\n"

func TestAConfigurationIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	got, err := stunnel.Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	want := stunnel.File{
		Global: []stunnel.Option{{3, "output", "/tmp/stunnel.log"}, {4, "client", "yes"}},
		Services: []stunnel.Service{
			{6, "redis", []stunnel.Option{{7, "accept", "127.0.0.1:6378"}, {8, "connect", "10.0.0.5:6378"}, {9, "options", "NO_SSLv2"}, {10, "options", "NO_SSLv3"}}},
			{11, "other", nil},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if v := stunnel.Get(got.Services[0].Options, "options"); v != "NO_SSLv3" {
		t.Errorf("the last of several is %q", v)
	}
}

func TestWhatIsNoConfigurationIsRefusedWithItsLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"client = yes\nnonsense\n":      `line 2: "nonsense": want OPTION = VALUE`,
		"[redis\n":                      `line 1: "[redis": want [SERVICE]`,
		"[]\n":                          "want [SERVICE]",
		"[a] b\n":                       "want [SERVICE]",
		"two words = x\n":               "want OPTION = VALUE",
		"= x\n":                         "want OPTION = VALUE",
		"\x00":                          "no text",
		"\xff\xfe":                      "no text",
		strings.Repeat("a=b\n", 300000): "bytes, which is no",
	} {
		if _, err := stunnel.Parse([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v; want %q", in, err, want)
		}
	}
}

// What is read, written and read again is the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("[a]\nb=c=d\n"))
	f.Add([]byte("[a]\r\n\tb =\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		first, err := stunnel.Parse(raw)
		if err != nil {
			return
		}
		var b strings.Builder
		write := func(options []stunnel.Option) {
			for _, o := range options {
				fmt.Fprintf(&b, "%s=%s\n", o.Name, o.Value)
			}
		}
		write(first.Global)
		for _, s := range first.Services {
			fmt.Fprintf(&b, "[%s]\n", s.Name)
			write(s.Options)
		}
		second, err := stunnel.Parse([]byte(b.String()))
		if err != nil {
			t.Fatalf("%q becomes %q: %v", raw, b.String(), err)
		}
		if got, want := plain(second), plain(first); got != want {
			t.Errorf("%q: %q, then %q", raw, want, got)
		}
	})
}

// plain is a file without its line numbers.
func plain(f stunnel.File) string {
	var b strings.Builder
	show := func(options []stunnel.Option) {
		for _, o := range options {
			fmt.Fprintf(&b, "%q=%q ", o.Name, o.Value)
		}
	}
	show(f.Global)
	for _, s := range f.Services {
		fmt.Fprintf(&b, "[%q] ", s.Name)
		show(s.Options)
	}
	return b.String()
}
