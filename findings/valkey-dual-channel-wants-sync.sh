#!/bin/sh
# A Valkey replica with dual-channel replication never synchronises as a user who has the commands that the ACL page says a replica needs.
#
# Version: valkey-server 9.1.2-1 of Debian unstable (8.1.1 of Debian 13 does the same).
# Behaviour: valkey.io/topics/acl gives a replica's user the rules +psync +replconf +ping. With dual-channel-replication-enabled yes, a replica
# asks for the RDB file over a second connection, with SYNC. That is refused with NOPERM, and the replica begins again every second, for
# ever. The primary shows a full synchronisation each time. With +sync in addition it synchronises at once; without dual channel the three
# commands are enough.
# For whoever gives replicas a user of their own: add +sync before dual-channel replication is turned on, or replicas don't come back.
#
# Output seen:
#   one channel, +psync +replconf +ping: up
#   two channels, +psync +replconf +ping: down
#   two channels, and +sync: up
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
pids=
trap 'for p in $pids; do kill -9 "$p"; done 2>/dev/null; wait 2>/dev/null; rm -rf "$dir"' EXIT
packages=$(SEALANE_ENGINES="$dir/packages" "$here/../scripts/debian.sh" unstable valkey-server=9.1.2-1 valkey-tools=9.1.2-1)
server=$(echo "$packages" | head -n 1)/valkey-server
cli=$(echo "$packages" | tail -n 1)/valkey-cli
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

# start NAME DUAL ARGUMENT... starts an engine and waits until it answers.
start() {
	name=$1 dual=$2
	shift 2
	mkdir -p "$dir/$name"
	"$server" --unixsocket "$dir/$name.sock" --save "" --repl-diskless-sync yes --repl-diskless-sync-delay 0 \
		--dual-channel-replication-enabled "$dual" --dir "$dir/$name" --logfile "$dir/$name.log" "$@" &
	pids="$pids $!"
	until "$cli" -s "$dir/$name.sock" PING >/dev/null 2>&1; do sleep 0.05; done
}

# link NAME prints whether a replica has synchronised within five seconds.
link() {
	for _ in $(seq 50); do
		"$cli" -s "$dir/$1.sock" INFO replication | grep -q master_link_status:up && { echo up; return; }
		sleep 0.1
	done
	echo down
}

start primary yes --bind 127.0.0.1 --port "$port"
"$cli" -s "$dir/primary.sock" ACL SETUSER replica on '>word' +psync +replconf +ping >/dev/null
start one no --port 0 --masteruser replica --masterauth word --replicaof "127.0.0.1 $port"
start two yes --port 0 --masteruser replica --masterauth word --replicaof "127.0.0.1 $port"
{
	echo "one channel, +psync +replconf +ping: $(link one)"
	echo "two channels, +psync +replconf +ping: $(link two)"
	"$cli" -s "$dir/primary.sock" ACL SETUSER replica +sync >/dev/null
	echo "two channels, and +sync: $(link two)"
} | tee "$dir/output"
grep -h NOPERM "$dir/two.log" | tail -n 1
printf 'one channel, +psync +replconf +ping: up\ntwo channels, +psync +replconf +ping: down\ntwo channels, and +sync: up\n' | cmp -s - "$dir/output" ||
	{ echo "it has changed"; exit 1; }
