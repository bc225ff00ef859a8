#!/bin/sh
# Valkey 9.1 reads inline words as a shell does: "x"y is the one word xy. To Redis and older Valkeys a closing quote that no blank
# follows is a protocol error, and they close.
#
# Version: valkey-server 9.1.2-1 of Debian unstable, against valkey-server 8.1.1 of Debian 13 (Redis 7.0.15 and 8.0.x do as 8.1).
# Behaviour: ECHO "x"y as a line of text, without a length, is answered xy by 9.1 and "unbalanced quotes in request" by 8.1.
# For whoever parses inline commands in front of such a server: what the words are depends on the engine's version, so leave lines
# with quotes to it.
#
# Output seen:
#   8.1.1: -ERR Protocol error: unbalanced quotes in request (closed)
#   9.1.2: $2 xy
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
s.sendall(b'ECHO "x"y\r\n')
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
case $older in *"unbalanced quotes in request"*"(closed)") ;; *) echo "it has changed: the older one takes the word" && exit 1 ;; esac
case $newer in *": \$2 xy "*) ;; *) echo "it has changed: the newer one refuses the word, or reads another" && exit 1 ;; esac
