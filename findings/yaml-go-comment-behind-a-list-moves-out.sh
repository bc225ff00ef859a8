#!/bin/sh
# go.yaml.in/yaml moves a comment that stands behind the last item of a list out of the list, when it reads and writes a file as nodes.
#
# Version: go.yaml.in/yaml/v3 v3.0.6 (gopkg.in/yaml.v3 v3.0.1 is the code that it continues).
# Behaviour: nodes are there so that a program can change a file and keep its comments. One that is indented as the items are, behind the
# last of them, becomes the foot comment of the list's key, and is written at the key's indentation, in the column of what contains it. The
# last item may well be one that is commented out: it is then no longer one of the list, and whoever takes the # away has another
# document. One between two items stays where it was. No node has a place for a comment that ends a list: as the foot comment of
# the item, or of the list itself, it is written at the key's indentation too, behind an empty line.
#
# Output seen:
#   servers:
#     - name: one
#     # - name: two
#     - name: three
#   # - name: four
set -eu
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
cat >go.mod <<'M'
module finding
go 1.25
require go.yaml.in/yaml/v3 v3.0.6
M
cat >main.go <<'G'
package main

import (
	"bytes"
	"fmt"
	"os"

	"go.yaml.in/yaml/v3"
)

const in = "servers:\n  - name: one\n  # - name: two\n  - name: three\n  # - name: four\n"
const seen = "servers:\n  - name: one\n  # - name: two\n  - name: three\n# - name: four\n"

func main() {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(in), &document); err != nil {
		panic(err)
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2) // as the file has it
	if err := e.Encode(&document); err != nil {
		panic(err)
	}
	fmt.Print(out.String())
	if out.String() != seen {
		fmt.Println("it has changed")
		os.Exit(1)
	}
}
G
GOFLAGS=-mod=mod go mod tidy >/dev/null 2>&1
go run .
