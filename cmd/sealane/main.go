// Command sealane gives the Redis or Valkey that you run yourself the in-transit encryption of a managed service.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/internal/hint"
	"github.com/sealane/sealane/internal/statedir"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// stdio is what a command reads from and writes to.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

const (
	exitFailed = 1
	exitUsage  = 2
)

// run is the whole program; it returns the exit code.
func run(ctx context.Context, args []string, std stdio) int {
	root := newRoot(std)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(std.err, "sealane: error: %s\n", oneLine(err.Error()))
	if h := hint.Of(err); h != "" {
		fmt.Fprintf(std.err, "sealane: hint: %s\n", h)
	}
	var u *usageError
	if errors.As(err, &u) {
		return exitUsage
	}
	return exitFailed
}

func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ") }

func newRoot(std stdio) *cobra.Command {
	e := &env{stdio: std}
	root := &cobra.Command{
		Use:   "sealane",
		Short: "Managed in-transit encryption for the Redis or Valkey that you run yourself",
		Long: `Sealane gives every Redis instance a certificate authority of its own and a TLS-only port, and speaks the
Memorystore for Redis API.

Environment:
  SEALANE_API    the server's address, such as http://127.0.0.1:7378
  SEALANE_TOKEN  the bearer token; by default the one in the state folder of this machine's server`,
		Example:       "  sealane serve\n  sealane instances create first\n  sealane connect first",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(c, "%v", err)
	})
	root.PersistentFlags().StringVar(&e.stateDir, "state", "", "the server's state folder (default "+string(statedir.Default())+")")
	root.AddCommand(
		newServe(e), newStop(e), newInstances(e), newEncryption(e), newCA(e), newCertificates(e), newTokens(e), newAudit(e), newConnect(e), newDoctor(e), newSidecar(e),
		newRehearse(e), newOperations(e), newVersion(e), newGateway(e),
	)
	return root
}

// env is what all commands share.
type env struct {
	stdio
	stateDir string // the flag --state
}

// state is the folder of the server that is meant.
func (e *env) state() statedir.Dir {
	if e.stateDir != "" {
		return statedir.Dir(e.stateDir)
	}
	return statedir.Default()
}

// group makes a command that only has sub-commands.
func group(use, short, example string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Example: example, Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(sub...)
	return c
}

func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, s := range c.Commands() {
		if s.IsAvailableCommand() {
			names = append(names, s.Name())
		}
	}
	return usage(c, "unknown command %q: want %s", args[0], strings.Join(names, ", "))
}

// exactly checks the number of arguments and names the one that is missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage(c, "%s is missing", names[len(args)])
		case len(args) > len(names):
			return usage(c, "unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// usageError is a wrong command line.
type usageError struct{ error }

func (u *usageError) Unwrap() error { return u.error }

func usage(c *cobra.Command, format string, args ...any) error {
	return &usageError{withHint(fmt.Errorf(format, args...), "see `%s --help`", c.CommandPath())}
}

func withHint(err error, format string, args ...any) error { return hint.Wrap(err, format, args...) }
