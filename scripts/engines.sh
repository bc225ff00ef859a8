#!/bin/sh
# engines.sh [-u] [--strict]: unpacks the engines that the tests use besides the one in PATH, with debian.sh: Redis and
# Valkey of Debian 13 and of unstable. The tests use those that are there. The script says which ones those are, and which
# are missing. A missing one is an error only with --strict. -u looks for newer versions.
#
# engines.sh --list prints the paths of the engines that are there, separated by colons, and fetches nothing.
set -eu
cd "$(dirname "$0")"

update= strict=
if [ "${1:-}" = --list ]; then
	cache=${SEALANE_ENGINES:-${XDG_CACHE_HOME:-$HOME/.cache}/sealane/engines}
	all=
	for program in "$cache"/*/redis-server/redis-server "$cache"/*/valkey-server/valkey-server; do
		[ ! -x "$program" ] || all=$all${all:+:}$program
	done
	echo "$all"
	exit
fi
for flag in "$@"; do
	case "$flag" in
	-u) update=-u ;;
	--strict) strict=yes ;;
	*)
		echo "usage: engines.sh [-u] [--strict], or engines.sh --list" >&2
		exit 2
		;;
	esac
done

missing=
for suite in trixie unstable; do
	for package in redis-server valkey-server; do
		if ! folder=$(./debian.sh $update "$suite" "$package"); then
			missing="$missing $suite/$package"
		elif version=$("$folder/$package" --version); then
			echo "engine for the tests: $(echo "$version" | cut -d ' ' -f 1-3), $folder/$package"
		else
			echo "$folder/$package doesn't run here" >&2
			missing="$missing $suite/$package"
		fi
	done
done
[ -n "$missing" ] || exit 0
echo "NOT TESTED WITH:$missing (see above why)" >&2
[ -z "$strict" ]
