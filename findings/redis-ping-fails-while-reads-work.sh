#!/bin/sh
# A Redis whose last snapshot failed answers PING with an error, and reads as if nothing had happened.
#
# Version: redis-server 7.0.15 of Debian 12.
# Behaviour: with snapshots on (save 3600 1) and stop-writes-on-bgsave-error at its default, BGSAVE fails because the folder is gone.
# From then on SET is refused with -MISCONF, as documented. PING, which writes nothing, is refused with the same words; GET and
# ECHO are served.
# Why: the check for commands that write names PING too, so that who watches a server by PING hears of it.
# For whoever decides by PING whether a server serves: this error is no reason to take it away from readers. -LOADING and
# -MASTERDOWN in reply to PING, on the other hand, mean that reads fail too.
#
# Output seen:
#   SET: MISCONF
#   PING: MISCONF
#   GET: before
#   ECHO: hello
set -eu
dir=$(mktemp -d)
pid=
# kill -9: asked to end, it would try to save, fail, and stay.
trap '[ -z "$pid" ] || { kill -9 "$pid"; wait "$pid" 2>/dev/null || true; }; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$dir/root" -name 'liblzf.so*' | head -n 1)")
export LD_LIBRARY_PATH
server=root/usr/bin/redis-server
$server --version | tee version
grep -q "v=7\.0\.15" version || { echo "want redis-server 7.0.15 of Debian 12"; exit 2; }
mkdir data
$server --port 0 --unixsocket "$dir/s" --dir "$dir/data" --save 3600 1 --logfile "$dir/log" &
pid=$!
cli() { root/usr/bin/redis-cli -s "$dir/s" "$@" 2>&1; }
until [ "$(cli PING)" = PONG ]; do sleep 0.05; done
cli SET key before >/dev/null
rmdir data
cli BGSAVE >/dev/null
until cli INFO persistence | grep -q "rdb_last_bgsave_status:err"; do sleep 0.05; done
{
	echo "SET: $(cli SET key after | cut -d ' ' -f 1)"
	echo "PING: $(cli PING | cut -d ' ' -f 1)"
	echo "GET: $(cli GET key)"
	echo "ECHO: $(cli ECHO hello)"
} | tee output
printf 'SET: MISCONF\nPING: MISCONF\nGET: before\nECHO: hello\n' | cmp -s - output || { echo "it has changed"; exit 1; }
