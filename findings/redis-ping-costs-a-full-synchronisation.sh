#!/bin/sh
# In a planned failover without any write, the PING that a primary sends its replicas can cost it a full synchronisation.
#
# Version: redis-server 8.0.2 and valkey-server 8.1.1 of Debian 13; also Redis 7.0.15 and Valkey 9.1.2.
# Behaviour: a primary has two replicas, and nobody writes. One replica is promoted. The other one is still linked to the old primary, which
# sends it a PING every repl-ping-replica-period (10 s by default; 1 s here). PINGs count in the offset. After the first of them, both
# know 14 bytes more of the common history than the new primary, so that it refuses them a partial resynchronisation (PSYNC) and
# sends both all data. With REPLICAOF at once after the promotion both go on where they were.
# For whoever fails over by REPLICAOF and not by FAILOVER: raise repl-ping-replica-period on the old primary before its offset is compared.
#
# Output seen (the same for both):
#   at once: 0 full, 2 partial
#   after a PING: 2 full, 0 partial
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
pids=
trap 'for p in $pids; do kill "$p" && wait "$p" || true; done 2>/dev/null; rm -rf "$dir"' EXIT
cat >"$dir/ask.py" <<'P'
import socket, sys, time

def ask(port, *words):
    with socket.create_connection(("127.0.0.1", port), 5) as s:
        s.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
        out = b""
        while True:
            got = s.recv(65536)
            out += got
            head, _, rest = out.partition(b"\r\n")
            if not got or head[:1] != b"$" or len(rest) >= int(head[1:]) + 2:
                return out.decode()

if sys.argv[1] == "port":
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        print(s.getsockname()[1])
elif sys.argv[1] == "await":
    for _ in range(200):
        try:
            if sys.argv[3] in ask(int(sys.argv[2]), "INFO"):
                break
        except OSError:
            pass
        time.sleep(0.05)
    else:
        sys.exit("no " + sys.argv[3])
elif sys.argv[1] == "syncs":
    info = dict(l.split(":", 1) for l in ask(int(sys.argv[2]), "INFO", "stats").split("\r\n") if ":" in l)
    print(info["sync_full"] + " full, " + info["sync_partial_ok"] + " partial")
else:
    ask(int(sys.argv[2]), *sys.argv[3:])
P
ask() { python3 "$dir/ask.py" "$@"; }

start() { # start FOLDER PORT ARGUMENTS
	folder=$dir/$1 port=$2
	shift 2
	mkdir "$folder"
	"$program" --port "$port" --bind 127.0.0.1 --dir "$folder" --save "" --repl-diskless-sync-delay 0 --logfile "$folder/log" "$@" &
	pids="$pids $!"
}

try() {
	program=$1
	for how in "at once" "after a PING"; do
		rm -rf "$dir/a" "$dir/b" "$dir/c"
		primary=$(ask port) first=$(ask port) second=$(ask port)
		# PINGs come every hour until they are wanted, so that none comes in between.
		start a "$primary" --repl-ping-replica-period 3600
		ask await "$primary" role:master
		start b "$first" --replicaof 127.0.0.1 "$primary"
		start c "$second" --replicaof 127.0.0.1 "$primary"
		ask await "$primary" connected_slaves:2
		ask await "$first" master_link_status:up
		ask await "$second" master_link_status:up
		ask say "$first" REPLICAOF NO ONE
		if [ "$how" = "after a PING" ]; then
			ask say "$primary" CONFIG SET repl-ping-replica-period 1
			sleep 2
		fi
		# The replica first: otherwise the old primary, on its way, is what it copies all data from.
		ask say "$second" REPLICAOF 127.0.0.1 "$first"
		ask say "$primary" REPLICAOF 127.0.0.1 "$first"
		ask await "$primary" master_link_status:up
		ask await "$second" "master_port:$first"
		ask await "$second" master_link_status:up
		echo "$how: $(ask syncs "$first")"
	done
}

want="at once: 0 full, 2 partial
after a PING: 2 full, 0 partial"
for package in redis-server valkey-server; do
	program=$(SEALANE_ENGINES="$dir/packages" "$here/../scripts/debian.sh" trixie "$package")/$package
	try "$program" >"$dir/said"
	echo "$package: $("$program" --version | cut -d ' ' -f 3)"
	cat "$dir/said"
	[ "$(cat "$dir/said")" = "$want" ] || { echo "it has changed"; exit 1; }
done
