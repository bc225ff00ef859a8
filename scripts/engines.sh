#!/bin/sh
# engines.sh [-u] [--strict]: the engines that the tests use besides the one in PATH: Redis and Valkey of Debian 13 and of
# unstable, unpacked in a folder by debian.sh. The tests take those that are there. It says which ones are, and which are
# left out; only --strict makes that an error. -u looks for newer ones.
#
# engines.sh --list prints the paths of those that are there, separated by colons, and fetches nothing.
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
