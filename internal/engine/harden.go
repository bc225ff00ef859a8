package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Directives that keep clients from harming the engine, its data's neighbours or its secrets. What may be missing here is
// what is right by default in every version and can't be changed by a client: protected-mode, stop-writes-on-bgsave-error,
// tls-* (the engine has no TLS and no port).

// fixed are written into the configuration, because they can't be changed later, by the version that knows them first.
var fixed = []struct {
	since       Version
	name, value string
}{
	// No client gets DEBUG, MODULE LOAD and CONFIG SET of dir and the like: the ACL forbids them, and so does this.
	{Version{7, 0, 0}, "enable-debug-command", "no"},
	{Version{7, 0, 0}, "enable-module-command", "no"},
	{Version{7, 0, 0}, "enable-protected-configs", "no"},
	// When memory runs out the system is to end a child that saves, and not the engine that it saves.
	{Version{6, 2, 0}, "oom-score-adj", "yes"},
	{Version{6, 2, 0}, "oom-score-adj-values", "0 200 800"},
	// From the first client on; hardened has it too, for engines that an older Sealane has started.
	{Version{6, 2, 0}, "sanitize-dump-payload", "yes"},
}

// hardened are those that the engine is asked for, and told where it knows them: which version does is not always to be
// told from its number.
var hardened = map[string]string{
	// RESTORE checks all of what it is given: without it a damaged payload can bring the engine down, or worse. Valkey checks
	// in any case from 9.1.2 on: a configuration may still say so, and CONFIG GET no longer knows it.
	"sanitize-dump-payload": "yes",
	// A user whom nobody gave channels sees none. The default before 7.0 is all of them.
	"acl-pubsub-default": "resetchannels",
	// Keys and values stay out of engine.log also when the engine crashes. The default is "no" in Redis.
	"hide-user-data-from-log": "yes",
}

// Harden sets the directives that protect the engine from its clients, as far as it knows them, where they are not set. An
// engine that was adopted may have been started by an older Sealane.
func (e *Engine) Harden(ctx context.Context) error {
	if e.hard.Load() {
		return nil
	}
	names := slices.Sorted(maps.Keys(hardened))
	var ask, tell [][]string
	for _, name := range names {
		ask = append(ask, []string{"CONFIG", "GET", name}) // one each: 6.0 takes no more
	}
	replies, err := e.call(ctx, ask...)
	if err != nil {
		return fmt.Errorf("look at the configuration of engine %s: %w", e.dir, err)
	}
	for i, name := range names {
		if r := replies[i].Elems; len(r) == 2 && r[1].Str != hardened[name] {
			tell = append(tell, []string{"CONFIG", "SET", name, hardened[name]})
		}
	}
	if len(tell) > 0 {
		if _, err := e.call(ctx, tell...); err != nil {
			return fmt.Errorf("harden engine %s: %w", e.dir, err)
		}
	}
	e.hard.Store(true)
	return nil
}
