#!/bin/sh
# Redis answers EXEC with EXECABORT on a connection that has not logged in, also where there was no MULTI. All other commands are
# answered with NOAUTH.
#
# Version: redis-server 7.0.15 of Debian 12 (6.0 to 8.0 and Valkey 8.1.1, 9.1.2 do the same; Redis 5.0 and older answer NOAUTH).
# Behaviour: with requirepass, EXEC is answered with "-EXECABORT Transaction discarded because of: NOAUTH Authentication required.",
# although no transaction was begun, and "-ERR EXEC without MULTI" would be the answer after a login.
# Why: whatever keeps EXEC from being executed is worded as the end of a transaction (rejectCommand in server.c).
# For whoever recognises by an error's code that a client has to log in (again): NOAUTH is not always the first word.
#
# Output seen:
#   -NOAUTH Authentication required. -EXECABORT Transaction discarded because of: NOAUTH Authentication required. +OK -ERR EXEC without MULTI
set -eu
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; }; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson >/dev/null 2>&1
for deb in *.deb; do dpkg -x "$deb" root; done
LD_LIBRARY_PATH=$dir/root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo x86_64-linux-gnu)
export LD_LIBRARY_PATH
version=$(root/usr/bin/redis-server --version)
echo "$version"
case $version in *v=7.0.15*) ;; *) echo "want redis-server 7.0.15 of Debian 12"; exit 2 ;; esac

root/usr/bin/redis-server --port 0 --unixsocket "$dir/socket" --requirepass pass --save "" --dir "$dir" --logfile "$dir/log" &
pid=$!

cat >client.py <<'P'
import socket, time

for attempt in range(200):
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect("socket")
        break
    except OSError:
        time.sleep(0.02)
s.settimeout(5)
s.sendall(b"GET k\r\nEXEC\r\nAUTH pass\r\nEXEC\r\n")
got = b""
while got.count(b"\r\n") < 4:
    got += s.recv(4096)
print(got.decode().strip().replace("\r\n", " "))
P
said=$(python3 client.py)
echo "$said"
case $said in "-NOAUTH "*" -EXECABORT "*"NOAUTH Authentication required. +OK -ERR EXEC without MULTI") ;; *) echo "it has changed" && exit 1 ;; esac
