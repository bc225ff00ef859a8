#!/bin/sh
# A Redis that has reached maxmemory serves GET, and refuses the same GET between MULTI and EXEC.
#
# Version: redis-server 7.0.15 of Debian 12.
# Behaviour: maxmemory is reached and the policy is noeviction. SET is refused with -OOM, as documented; GET and DEL are served. Behind
# MULTI each of them is refused with -OOM when it is to be queued, GET and DEL too, and EXEC then answers EXECABORT. So a transaction that
# would free memory is refused where the same commands by themselves are not.
# Why: what is queued takes memory of its own, so without memory nothing is queued, whatever it is.
# For whoever cleans up with transactions (client libraries make one of each pipeline by default, redis-py for example): without memory
# ask for one without MULTI.
#
# Output seen:
#   SET: OOM
#   GET: v
#   MULTI, GET: OOM
#   MULTI, DEL: OOM
#   EXEC: EXECABORT
#   DEL: 1
set -eu
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" 2>/dev/null || true; }; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$dir/root" -name 'liblzf.so*' | head -n 1)")
export LD_LIBRARY_PATH
server=root/usr/bin/redis-server
$server --version | tee version
grep -q "v=7\.0\.15" version || { echo "want redis-server 7.0.15 of Debian 12"; exit 2; }
$server --port 0 --unixsocket "$dir/s" --dir "$dir" --save '' --logfile "$dir/log" &
pid=$!
cli() { root/usr/bin/redis-cli -s "$dir/s" "$@" 2>&1; }
until [ "$(cli PING)" = PONG ]; do sleep 0.05; done
cli SET key v >/dev/null
cli CONFIG SET maxmemory 1 >/dev/null
{
	echo "SET: $(cli SET key w | cut -d ' ' -f 1)"
	echo "GET: $(cli GET key)"
	printf 'MULTI\nGET key\nDEL key\nEXEC\n' | cli >transaction
	echo "MULTI, GET: $(sed -n 2p transaction | cut -d ' ' -f 1)"
	echo "MULTI, DEL: $(grep -v '^$' transaction | sed -n 3p | cut -d ' ' -f 1)"
	echo "EXEC: $(grep -v '^$' transaction | sed -n 4p | cut -d ' ' -f 1)"
	echo "DEL: $(cli DEL key)"
} | tee output
printf 'SET: OOM\nGET: v\nMULTI, GET: OOM\nMULTI, DEL: OOM\nEXEC: EXECABORT\nDEL: 1\n' | cmp -s - output || { echo "it has changed"; exit 1; }
