#!/bin/sh
# vulncheck.sh PACKAGE@VERSION [DIR]: fails when the module in DIR (this one) calls code that has a known vulnerability.
# PACKAGE@VERSION is govulncheck.
#
# The database is that of the Go project, or GOVULNDB, such as file:///srv/vulndb. Without a network the check can't be made.
# This says so and does not fail, because a test must not need the network. Whoever sets GOVULNDB wants the check, so then it
# fails when it can't be made.
set -eu

tool=$1
go=${GO:-go}
cd "${2:-.}"
# Where no proxy answers, a copy of govulncheck of an earlier run will do.
GOPROXY="$("$go" env GOPROXY)|file://$("$go" env GOMODCACHE)/cache/download"
export GOPROXY
# go run ends with 1 whatever the program ends with, and says the program's own status in its last line.
if out=$("$go" run "$tool" ${GOVULNDB:+-db "$GOVULNDB"} ./... 2>&1); then
	echo "govulncheck: no known vulnerability in what is called"
	exit 0
fi
why=
case "$out" in
*"exit status 3") ;; # vulnerabilities were found
*"fetching vulnerabilities: "*) why="the database can't be reached: ${out#*fetching vulnerabilities: }" ;;
*"dial tcp"* | *"GOPROXY=off"*) why="govulncheck can't be downloaded: $out" ;;
esac
if [ -z "$why" ] || [ -n "${GOVULNDB:-}" ]; then
	echo "$out" >&2
	exit 1
fi
echo "NOT CHECKED FOR KNOWN VULNERABILITIES: $(echo "$why" | head -1)" >&2
echo "(with a copy of the database: GOVULNDB=file:///FOLDER make check)" >&2
