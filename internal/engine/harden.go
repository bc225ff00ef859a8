package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// These directives keep clients from harming the engine, the machine or the secrets. Not among them is what every version has
// right by default and no client can change: protected-mode, stop-writes-on-bgsave-error, tls-* (the engine has no TLS and no
// port).

// startDirectives are written into the configuration of an engine, from the version on that knows them. Most can't be changed
// while it runs.
var startDirectives = []struct {
	since       Version
	name, value string
}{
	// No client may send DEBUG, MODULE LOAD, or CONFIG SET of dir and the like. The ACL forbids them, and so do these.
	{Version{7, 0, 0}, "enable-debug-command", "no"},
	{Version{7, 0, 0}, "enable-module-command", "no"},
	{Version{7, 0, 0}, "enable-protected-configs", "no"},
	// When memory runs out the system is to kill a child that saves, and not the engine.
	{Version{6, 2, 0}, "oom-score-adj", "yes"},
	{Version{6, 2, 0}, "oom-score-adj-values", "0 200 800"},
	// This one is to hold from the first client on. It is among runtimeDirectives too, for engines that an older Sealane started.
	{Version{6, 2, 0}, "sanitize-dump-payload", "yes"},
}

// runtimeDirectives are set with CONFIG SET where CONFIG GET shows that the engine knows them. Its version alone does not always
// tell.
var runtimeDirectives = map[string]string{
	// With this RESTORE checks all of its payload. Without it a damaged payload can bring the engine down, or worse. Valkey always
	// checks from 9.1.2 on: its configuration file may still have the directive, but CONFIG GET no longer knows it.
	"sanitize-dump-payload": "yes",
	// A user who was given no channels sees none. Before 7.0 the default is all of them.
	"acl-pubsub-default": "resetchannels",
	// Keys and values stay out of engine.log, also when the engine crashes. The default is "no" in Redis.
	"hide-user-data-from-log": "yes",
}

// Harden sets the directives that protect the engine from its clients, where the engine knows them and has another value. It is
// for engines that were adopted, too: an older Sealane may have started them.
func (e *Engine) Harden(ctx context.Context) error {
	if e.isHardened.Load() {
		return nil
	}
	names := slices.Sorted(maps.Keys(runtimeDirectives))
	var ask, tell [][]string
	for _, name := range names {
		ask = append(ask, []string{"CONFIG", "GET", name}) // Redis 6.0 takes one name only
	}
	replies, err := e.call(ctx, ask...)
	if err != nil {
		return fmt.Errorf("look at the configuration of engine %s: %w", e.dir, err)
	}
	for i, name := range names {
		if r := replies[i].Elems; len(r) == 2 && r[1].Str != runtimeDirectives[name] {
			tell = append(tell, []string{"CONFIG", "SET", name, runtimeDirectives[name]})
		}
	}
	if len(tell) > 0 {
		if _, err := e.call(ctx, tell...); err != nil {
			return fmt.Errorf("harden engine %s: %w", e.dir, err)
		}
	}
	e.isHardened.Store(true)
	return nil
}
