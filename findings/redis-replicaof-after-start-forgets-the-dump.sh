#!/bin/sh
# A replica that is started with its dump and then told REPLICAOF takes all data anew. With replicaof in its configuration it does not.
#
# Version: redis-server 8.0.2-3 and valkey-server 8.1.1 of Debian 13; also Redis 7.0.15 and Valkey 9.1.2.
# Behaviour: a replica that is shut down with SAVE writes the replication ID and the offset into its dump, and has all that its primary has.
# Started again with `replicaof` in its configuration it goes on from there (sync_partial_ok). Started without, and told REPLICAOF a moment
# later, it has taken a random replication ID already: the one of the dump became its second ID, by which it lets others continue
# and never continues itself. The primary sends all data again (sync_full).
# For whoever runs replicas and sets their primary at runtime: write it into the configuration before the start.
#
# Output seen (the same for both):
#   started, then told: 2 full, 0 partial
#   told in its configuration: 2 full, 1 partial
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

try() {
	program=$1
	primary=$(ask port) replica=$(ask port)
	rm -rf "$dir/a" "$dir/b"
	mkdir "$dir/a" "$dir/b"
	"$program" --port "$primary" --bind 127.0.0.1 --dir "$dir/a" --save "" --repl-diskless-sync-delay 0 --logfile "$dir/a/log" &
	pids="$pids $!"
	ask await "$primary" role:master
	start() { # start ARGUMENTS
		"$program" --port "$replica" --bind 127.0.0.1 --dir "$dir/b" --save "" --logfile "$dir/b/log" "$@" &
		pid=$!
		pids="$pids $pid"
	}
	stop() {
		ask say "$replica" SHUTDOWN SAVE
		wait "$pid"
	}
	start --replicaof 127.0.0.1 "$primary"
	ask await "$replica" master_link_status:up
	stop
	start
	ask await "$replica" role:master
	ask say "$replica" REPLICAOF 127.0.0.1 "$primary"
	ask await "$replica" master_link_status:up
	echo "started, then told: $(ask syncs "$primary")"
	stop
	start --replicaof 127.0.0.1 "$primary"
	ask await "$replica" master_link_status:up
	echo "told in its configuration: $(ask syncs "$primary")"
	stop
}

want="started, then told: 2 full, 0 partial
told in its configuration: 2 full, 1 partial"
for package in redis-server valkey-server; do
	program=$(SEALANE_ENGINES="$dir/packages" "$here/../scripts/debian.sh" trixie "$package")/$package
	try "$program" >"$dir/said"
	echo "$package: $("$program" --version | cut -d ' ' -f 3)"
	cat "$dir/said"
	[ "$(cat "$dir/said")" = "$want" ] || { echo "it has changed"; exit 1; }
done
