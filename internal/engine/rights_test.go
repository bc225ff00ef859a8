package engine_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/engine"
	"github.com/sealane/sealane/internal/enginetest"
	"github.com/sealane/sealane/internal/resp"
)

// allowed are the commands of the categories @admin and @dangerous that clients may run, each looked at. An engine that has
// another one makes TestDefaultUserHasNoUnknownPower red: decide, and then name it here or in defaultUserRules.
var allowed = strings.Fields(`
	client|kill client|list client|no-evict client|pause client|unblock client|unpause
	commandlog|get commandlog|len commandlog|reset config|get config|resetstat
	flushall flushdb info keys lastsave
	latency|doctor latency|graph latency|histogram latency|history latency|latest latency|reset
	monitor pfdebug pfselftest restore restore-asking role
	slowlog|get slowlog|len slowlog|reset sort sort_ro swapdb`)

func TestDefaultUserHasNoUnknownPower(t *testing.T) { enginetest.Each(t, unknownPower) }

func unknownPower(t *testing.T, b engine.Binary) {
	t.Parallel()
	if b.Version.Compare(engine.Version{Major: 7}) < 0 {
		t.Skip("engines before 7.0 have no ACL DRYRUN")
	}
	cfg := config(t)
	e := startOf(t, b, cfg)
	all, err := engine.Call(e, deadline(t), []string{"COMMAND"})
	if err != nil {
		t.Fatal(err)
	}
	powers := powersOf(all[0].Elems)
	if len(powers) < 20 {
		t.Fatalf("found only %v", powers)
	}
	for _, c := range powers {
		name := strings.Split(c.name, "|")
		args := append([]string{"ACL", "DRYRUN", "default"}, append(name, slices.Repeat([]string{"x"}, max(0, c.words-len(name)))...)...)
		got, err := engine.Call(e, deadline(t), args)
		if err == nil && got[0].Str == "OK" && !slices.Contains(allowed, c.name) {
			t.Errorf("clients may run %s, which is in %v", c.name, c.categories)
		}
	}
}

// power is a command that an administrator is to think about.
type power struct {
	name       string // with its subcommand: "config|set"
	words      int    // how many it takes at least
	categories []string
}

// powersOf reads the reply of COMMAND.
func powersOf(commands []resp.Value) (all []power) {
	for _, c := range commands {
		const name, arity, categories, subcommands = 0, 1, 6, 9
		f := c.Elems
		if len(f) > subcommands && len(f[subcommands].Elems) > 0 {
			all = append(all, powersOf(f[subcommands].Elems)...)
			continue
		}
		p := power{name: strings.ToLower(f[name].Str), words: int(max(f[arity].Int, -f[arity].Int))}
		for _, category := range f[categories].Elems {
			p.categories = append(p.categories, category.Str)
		}
		if slices.Contains(p.categories, "@admin") || slices.Contains(p.categories, "@dangerous") {
			all = append(all, p)
		}
	}
	return all
}
