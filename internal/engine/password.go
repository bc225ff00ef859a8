package engine

import (
	"context"
	"fmt"
	"slices"
)

// SetPasswords gives the default user these passwords and no others, by their SHA-256 in hexadecimal. Without any, the user needs
// no password. It returns nil once the engine has shown that it has them. Clients that are logged in stay logged in.
func (e *Engine) SetPasswords(ctx context.Context, hashes []string) error {
	same, err := e.hasPasswords(ctx, hashes)
	if err != nil || same {
		return err
	}
	if _, err := e.call(ctx, append([]string{"ACL", "SETUSER", "default", "resetpass"}, passwordRules(hashes)...)); err != nil {
		return fmt.Errorf("set the password of engine %s: %w", e.dir, err)
	}
	if same, err = e.hasPasswords(ctx, hashes); err == nil && !same {
		err = fmt.Errorf("set the password of engine %s: it shows other passwords than it was given", e.dir)
	}
	return err
}

func (e *Engine) hasPasswords(ctx context.Context, hashes []string) (bool, error) {
	replies, err := e.call(ctx, []string{"ACL", "GETUSER", "default"})
	if err != nil {
		return false, fmt.Errorf("look at the password of engine %s: %w", e.dir, err)
	}
	field := func(name string) (words []string) {
		for i := 0; i+1 < len(replies[0].Elems); i += 2 {
			if replies[0].Elems[i].Str == name {
				for _, v := range replies[0].Elems[i+1].Elems {
					words = append(words, v.Str)
				}
			}
		}
		slices.Sort(words)
		return words
	}
	return slices.Equal(field("passwords"), slices.Sorted(slices.Values(hashes))) &&
		slices.Contains(field("flags"), "nopass") == (len(hashes) == 0), nil
}
