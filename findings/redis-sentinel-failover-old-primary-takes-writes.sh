#!/bin/sh
# SENTINEL FAILOVER of a healthy primary loses what clients write for some ten seconds afterwards.
#
# Version: redis-server 7.0.15 of Debian 12, one primary, one replica, one sentinel, everything reachable.
# Behaviour: the sentinel promotes the replica and names it the primary at once. The old primary is not told: it remains a primary and
# acknowledges writes, until the sentinel notices its role some ten seconds later and makes it a replica. All that it acknowledged in
# that time is dropped. Nothing is paused and no offset is awaited, as CLUSTER FAILOVER and FAILOVER do.
# For whoever makes a planned failover by SENTINEL FAILOVER: a client that doesn't listen to +switch-master (redigo, redis-py, ioredis by
# default) keeps its connection to the old primary and loses all its writes, although each was answered with OK. Send FAILOVER to the
# primary instead, or CLIENT PAUSE … WRITE before.
#
# Output seen:
#   the sentinel names the new primary after 1 s
#   the old primary acknowledged 93 writes in the 10 s after that
#   93 of them are lost
set -eu
dir=$(mktemp -d)
pids=
trap 'for p in $pids; do kill -9 "$p" 2>/dev/null || true; done; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
LD_LIBRARY_PATH=$(dirname "$(find "$dir/root" -name 'liblzf.so*' | head -n 1)")
export LD_LIBRARY_PATH
root/usr/bin/redis-server --version | grep -q "v=7\.0\.15" || { echo "want redis-server 7.0.15 of Debian 12"; exit 2; }
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
old=$(free) new=$(free) sentinel=$(free)
cli() { p=$1; shift; root/usr/bin/redis-cli -p "$p" "$@"; }
printf 'bind 127.0.0.1\nport %s\nsentinel monitor m 127.0.0.1 %s 1\n' "$sentinel" "$old" >sentinel.conf
printf 'bind 127.0.0.1\nport %s\nsave ""\nrepl-diskless-sync-delay 0\n' "$old" >old.conf
printf 'bind 127.0.0.1\nport %s\nsave ""\nreplicaof 127.0.0.1 %s\n' "$new" "$old" >new.conf
for conf in old.conf new.conf "sentinel.conf --sentinel"; do
	# shellcheck disable=SC2086
	root/usr/bin/redis-server $conf >/dev/null &
	pids="$pids $!"
done
wait_for() { # COMMAND…: until it succeeds
	for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
	echo "not within a minute: $*"
	exit 2
}
ready() { cli "$sentinel" SENTINEL REPLICAS m | grep -q '^ok$'; }
wait_for ready
[ "$(cli "$sentinel" SENTINEL FAILOVER m)" = OK ] || { echo "no failover"; exit 2; }
begin=$(date +%s)
named() { cli "$sentinel" SENTINEL GET-MASTER-ADDR-BY-NAME m | grep -qx "$new"; }
wait_for named
echo "the sentinel names the new primary after $(($(date +%s) - begin)) s"
begin=$(date +%s) acknowledged=0
while [ "$(cli "$old" RPUSH list "$acknowledged")" = $((acknowledged + 1)) ]; do
	acknowledged=$((acknowledged + 1))
	sleep 0.1
done
echo "the old primary acknowledged $acknowledged writes in the $(($(date +%s) - begin)) s after that"
synced() { cli "$old" INFO replication | grep -q master_link_status:up; }
wait_for synced
lost=$((acknowledged - $(cli "$new" LLEN list)))
echo "$lost of them are lost"
[ "$acknowledged" -gt 10 ] && [ "$lost" = "$acknowledged" ] || { echo "it has changed"; exit 1; }
