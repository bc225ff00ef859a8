#!/bin/sh
# A primary takes a new replication ID when its first replica comes, although nothing has been lost and nobody has been promoted.
#
# Version: redis-server 8.0.2 and valkey-server 8.1.1 of Debian 13; also Redis 7.0.15 and Valkey 9.1.2.
# Behaviour: master_replid of INFO is the name of a history of changes, by which it can be seen whether an engine has lost its data. An engine
# that has never had a replica, nor a backlog, shows one, and replaces it by another when the first replica connects. The second
# replica changes nothing.
# For whoever keeps the ID to recognise a primary that has come back empty: read it again once a replica is linked, or every new primary
# looks as if it had lost its data.
#
# Output seen (the same for both):
#   with the first replica: another ID
#   with the second: the same ID
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
elif sys.argv[1] == "id":
    info = dict(l.split(":", 1) for l in ask(int(sys.argv[2]), "INFO", "replication").split("\r\n") if ":" in l)
    print(info["master_replid"])
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
	rm -rf "$dir/a" "$dir/b" "$dir/c"
	primary=$(ask port) first=$(ask port) second=$(ask port)
	start a "$primary"
	ask await "$primary" role:master
	alone=$(ask id "$primary")
	start b "$first" --replicaof 127.0.0.1 "$primary"
	ask await "$first" master_link_status:up
	one=$(ask id "$primary")
	start c "$second" --replicaof 127.0.0.1 "$primary"
	ask await "$second" master_link_status:up
	two=$(ask id "$primary")
	if [ "$alone" = "$one" ]; then echo "with the first replica: the same ID"; else echo "with the first replica: another ID"; fi
	if [ "$one" = "$two" ]; then echo "with the second: the same ID"; else echo "with the second: another ID"; fi
}

want="with the first replica: another ID
with the second: the same ID"
for package in redis-server valkey-server; do
	program=$(SEALANE_ENGINES="$dir/packages" "$here/../scripts/debian.sh" trixie "$package")/$package
	try "$program" >"$dir/said"
	echo "$package: $("$program" --version | cut -d ' ' -f 3)"
	cat "$dir/said"
	[ "$(cat "$dir/said")" = "$want" ] || { echo "it has changed"; exit 1; }
done
