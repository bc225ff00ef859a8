#!/bin/sh
# Valkey 9.1 closes a connection where the two bytes behind a value of a request are not CR LF. Redis and older Valkeys pass over
# whatever two bytes are there.
#
# Version: valkey-server 9.1.2-1 of Debian unstable, against valkey-server 8.1.1 of Debian 13 (Redis 7.0.15 and 8.0.x do as 8.1).
# Behaviour: a request whose last value is followed by "xx" is answered by 8.1, and so is the request behind it; 9.1 says
# "Protocol error: invalid CRLF in request" and closes.
# For whoever stands in front of such a server and puts the requests of several clients on one connection: finding a request's end
# by its lengths alone is no longer enough. One client's wrong bytes close the connection for all.
#
# Output seen:
#   8.1.1: +PONG +PONG
#   9.1.2: -ERR Protocol error: invalid CRLF in request (closed)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; } 2>/dev/null; rm -rf "$dir"' EXIT
cat >"$dir/ask.py" <<'P'
import socket, sys, time

for attempt in range(200):
    try:
        s = socket.socket(socket.AF_UNIX)
        s.connect(sys.argv[1])
        break
    except OSError:
        time.sleep(0.02)
s.settimeout(2)
s.sendall(b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n")
got, closed = b"", False
while got.count(b"\r\n") < 2 and not closed:
    try:
        part = s.recv(4096)
    except ConnectionResetError:
        part = b""
    got, closed = got + part, not part
print(got.decode().replace("\r\n", " ") + ("(closed)" if closed else ""))
P

# answer asks the engine of a suite's package.
answer() {
	program=$(SEALANE_ENGINES="$dir/packages" "$here/../scripts/debian.sh" "$1" "$2")/valkey-server
	"$program" --port 0 --unixsocket "$dir/$1.sock" --save "" --dir "$dir" --logfile "$dir/log" &
	pid=$!
	said=$(python3 "$dir/ask.py" "$dir/$1.sock")
	kill "$pid"
	wait "$pid" || true
	pid=
	echo "$("$program" --version | sed 's/.* v=\([^ ]*\).*/\1/'): $said"
}

older=$(answer trixie valkey-server)
newer=$(answer unstable valkey-server=9.1.2-1)
echo "$older"
echo "$newer"
case $older in *": +PONG +PONG "*) ;; *) echo "it has changed: the older one doesn't pass over the two bytes" && exit 1 ;; esac
case $newer in *"invalid CRLF in request"*"(closed)") ;; *) echo "it has changed: the newer one takes them" && exit 1 ;; esac
