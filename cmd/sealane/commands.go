package main

import "github.com/sealane/sealane/internal/instance"

// commands are the command lines of this program that the server's messages to users name.
func commands() instance.Commands {
	of := func(n instance.Name) string { return n.ID + parentFlags{n.Project, n.Location}.flags() }
	return instance.Commands{
		CABundle:     func(n instance.Name) string { return "sealane ca bundle " + of(n) },
		ForceRestart: func(n instance.Name) string { return "sealane instances restart " + of(n) + " --force" },
		ForceStop:    "sealane stop --force",
	}
}
