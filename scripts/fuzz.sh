#!/bin/sh
# fuzz.sh TIME: runs each fuzz test of the module for TIME, starting from the seeds and corpora that are committed.
set -eu
for package in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "fuzz $package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$package"
	done
done
