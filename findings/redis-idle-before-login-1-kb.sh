#!/bin/sh
# A client that has not logged in and was idle for some seconds is disconnected when it is owed more than 1,024 bytes of replies.
# Straight after connecting the same client gets four hundred replies.
#
# Version: redis-server 8.0.2-3 of Debian 13 (Debian's 7.0.15 and 8.0.6, and Valkey 8.1.1 and 9.1.2, do the same).
# Behaviour: with a password set, 400 times GET in one write on a new connection is answered 400 times NOAUTH. After seven idle
# seconds 30 are answered; with 40 the client gets no reply at all, and the end of the stream. The log says "closed for overcoming
# of output buffer limits", though client-output-buffer-limit is 0 for normal clients.
# Why: since CVE-2025-21605 a connection that has not logged in gets no more for its replies than the static buffer. That has 16 kB
# at first and shrinks to 1 kB on a connection that was idle for five seconds (reply-buffer-resizing).
# For whoever puts clients that have not logged in on one connection, or checks the health of a server with a pipeline and no
# password: a few dozen errors at once are too many.
#
# Output seen:
#   at once: 400 of 400 replies
#   after 7 s: 30 of 30 replies
#   after 7 s: 0 of 40 replies, then the end
#   log: closed for overcoming of output buffer limits
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; } 2>/dev/null; rm -rf "$dir"' EXIT
packages=$(SEALANE_ENGINES="$dir/packages" "$here/../scripts/debian.sh" trixie redis-server=5:8.0.2-3+deb13u3)
"$packages/redis-server" --port 0 --unixsocket "$dir/sock" --save "" --dir "$dir" --requirepass pw --logfile "$dir/log" &
pid=$!
cat >"$dir/ask.py" <<'P'
import socket, sys, time

path, idle, n = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
for attempt in range(200):
    try:
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)
        break
    except OSError:
        time.sleep(0.02)
time.sleep(idle)
s.settimeout(5)
s.sendall(b"GET k\r\n" * n)
got, closed = b"", False
while got.count(b"\r\n") < n and not closed:
    try:
        part = s.recv(65536)
    except ConnectionResetError:
        part = b""
    got, closed = got + part, not part
print(f"{got.count(b'NOAUTH')} of {n} replies" + (", then the end" if closed else ""))
P
once=$(python3 "$dir/ask.py" "$dir/sock" 0 400)
few=$(python3 "$dir/ask.py" "$dir/sock" 7 30)
many=$(python3 "$dir/ask.py" "$dir/sock" 7 40)
echo "at once: $once"
echo "after 7 s: $few"
echo "after 7 s: $many"
grep -o "closed for overcoming of output buffer limits" "$dir/log" | sed 's/^/log: /'
[ "$once" = "400 of 400 replies" ] || { echo "it has changed: a new connection doesn't get all" && exit 1; }
[ "$few" = "30 of 30 replies" ] || { echo "it has changed: not even 1 kB after some idle seconds" && exit 1; }
[ "$many" = "0 of 40 replies, then the end" ] || { echo "it has changed: more than 1 kB after some idle seconds" && exit 1; }
