#!/bin/sh
# fuzz.sh TIME: runs each fuzz test of the module for TIME, starting from the seeds and corpora that are committed.
#
# Go's fuzzer sometimes reports the end of TIME as a failure: "context deadline exceeded", without an input that fails. Its coordinator
# (internal/fuzz, Go 1.26) may see the deadline before its workers' context has it, and then takes it for an error. It is no failure of the test.
set -eu
out=$(mktemp)
trap 'rm -f "$out"' EXIT

ended_by_time() { # whether the fuzzer failed by nothing but the end of its time
	grep -q '^    context deadline exceeded$' "$out" && ! grep -q -e 'Failing input' -e 'panic:' -e '_test\.go:[0-9]' "$out"
}

for package in $(go list ./...); do
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "fuzz $package $target"
		if go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$package" >"$out" 2>&1; then
			cat "$out"
		else
			cat "$out"
			ended_by_time || exit 1
		fi
	done
done
