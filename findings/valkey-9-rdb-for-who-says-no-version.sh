#!/bin/sh
# Valkey 9 writes an old RDB format to a replica that doesn't say its version, and breaks off at the first hash with a field that expires.
#
# Version: valkey-server 9.1.2-1 of Debian unstable, asked by redis-cli of Redis 7.0 and newer.
# Behaviour: `redis-cli --rdb FILE` (SYNC after REPLCONF capa eof and rdb-only) gets RDB version 11, while SAVE writes VALKEY080. With one
# field that has a time to live (HEXPIRE) there is no file: the server logs "Can't store key (db 0) in RDB version 11" and closes, and the
# client says "Error reading bulk length while SYNCing", or waits. After REPLCONF version 9.1.2, which Valkey's own replicas send, it is sent
# whole, as VALKEY080.
# For whoever takes backups over the replication protocol: send REPLCONF version, and ignore the error of engines that don't know it.
#
# Output seen:
#   without a version, no field expires: REDIS0011
#   without a version, a field expires: nothing
#   with a version, a field expires: VALKEY080
#   the log: Can't store key (db 0) in RDB version 11
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; } 2>/dev/null; rm -rf "$dir"' EXIT
cat >"$dir/sync.py" <<'P'
import socket, sys

def sync(*options):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    s.settimeout(5)
    f = s.makefile("rb")
    for o in (b"capa eof", b"rdb-only 1") + options:
        s.sendall(b"REPLCONF " + o + b"\r\n")
        assert f.readline() == b"+OK\r\n"
    s.sendall(b"SYNC\r\n")
    try:
        line = f.readline()
        while line == b"\n":
            line = f.readline()
        return f.read(9).decode() if line else "nothing"
    except (socket.timeout, ConnectionResetError):
        return "nothing"

if sys.argv[2] == "expires":
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    s.sendall(b"HSET h f v\r\nHEXPIRE h 1000 FIELDS 1 f\r\n")
    s.recv(100)
    print("without a version, a field expires:", sync())
    print("with a version, a field expires:", sync(b"version 9.1.2"))
else:
    print("without a version, no field expires:", sync())
P
program=$(SEALANE_ENGINES="$dir/packages" "$here/../scripts/debian.sh" unstable valkey-server=9.1.2-1)/valkey-server
"$program" --port 0 --unixsocket "$dir/sock" --save "" --repl-diskless-sync yes --repl-diskless-sync-delay 0 --dir "$dir" --logfile "$dir/log" &
pid=$!
while [ ! -S "$dir/sock" ]; do sleep 0.05; done
said=$(python3 "$dir/sync.py" "$dir/sock" plain && python3 "$dir/sync.py" "$dir/sock" expires)
echo "$said"
echo "the log: $(sed -n "s/.*\(Can't store key.*\)/\1/p" "$dir/log" | head -1)"
want="without a version, no field expires: REDIS0011
without a version, a field expires: nothing
with a version, a field expires: VALKEY080"
[ "$said" = "$want" ] || { echo "it has changed"; exit 1; }
