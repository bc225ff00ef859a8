package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/sealane/sealane/internal/durable"
	"github.com/sealane/sealane/internal/resp"
)

// startOnly are the directives that an engine takes at its start and never again.
var startOnly = []string{"databases"}

// openFiles is the directive that an engine may be unable to follow for want of open files. At its start it takes what it can have
// instead; while it runs it refuses, and keeps what it has. The gateway's own limit tells users why there is room for fewer clients.
const openFiles = "maxclients"

// ConfigError says that the engine refused a directive.
type ConfigError struct {
	Name, Value string
	Reply       resp.ReplyError
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("the engine refuses %s %q: %s", e.Name, e.Value, e.Reply)
}

func (e *ConfigError) Unwrap() error { return e.Reply }

// Configure gives the directives to the running engine (CONFIG SET), except for those that it already has and those that count at a
// start only. The error is a *ConfigError where the engine refuses one; those before it, in alphabetical order, are set.
func (e *Engine) Configure(ctx context.Context, directives map[string]string) error {
	e.configMu.Lock()
	defer e.configMu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(directives)) {
		value := directives[name]
		if have, ok := e.configured[name]; ok && have == value || slices.Contains(startOnly, name) {
			continue
		}
		_, err := e.call(ctx, []string{"CONFIG", "SET", name, value})
		var reply resp.ReplyError
		switch {
		case err == nil, name == openFiles && errors.As(err, &reply):
		case errors.As(err, &reply) && reply.Code() == "ERR":
			return &ConfigError{Name: name, Value: value, Reply: reply}
		default:
			return fmt.Errorf("configure engine %s: %w", e.dir, err)
		}
		if e.configured == nil {
			e.configured = make(map[string]string)
		}
		e.configured[name] = value
	}
	return nil
}

// KeepDump changes Config.KeepDump of a running engine. Where the dump is no longer to be kept, the one that there is is put aside: a
// crash later must not bring its data back.
func (e *Engine) KeepDump(keep bool) error {
	path := filepath.Join(e.dir, confName)
	have, err := keepsDump(path)
	if err != nil || have == keep {
		return err
	}
	conf, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the configuration of engine %s: %w", e.dir, err)
	}
	if keep {
		conf = bytes.Replace(conf, []byte("\n"+retireMark), []byte("\n"), 1)
	} else {
		first := bytes.IndexByte(conf, '\n') + 1
		conf = slices.Concat(conf[:first], []byte(retireMark), conf[first:])
	}
	if err := durable.WriteFile(path, conf, 0o600); err != nil {
		return fmt.Errorf("write the configuration of engine %s: %w", e.dir, err)
	}
	return e.retireDump()
}
