#!/bin/sh
# RESET leaves a connection the target of other clients' CLIENT TRACKING ... REDIRECT: it is sent invalidations again as soon as
# it speaks RESP3.
#
# Version: redis-server 7.0.15 of Debian 12 (8.0.2, 8.0.6 and Valkey 8.1.1, 9.1.2 do the same).
# Behaviour: client A redirects its invalidations to connection B. B sends RESET, which is documented to end tracking, leave Pub/Sub
# and bring a connection to its initial state. When B then says HELLO 3 and asks for PING, it gets an invalidation that it has not
# asked for, of a key that it never read, in between its replies.
# Why: the redirection is kept with A, as the id of B's connection, and only the end of B's connection ends it.
# For whoever pools connections: RESET does not make one as good as new if its id was ever told to anybody.
#
# Output seen:
#   B after RESET: OK RESET hello pushed: [b'invalidate', [b'key']]
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

root/usr/bin/redis-server --port 0 --unixsocket "$dir/socket" --save "" --dir "$dir" --logfile "$dir/log" &
pid=$!

cat >client.py <<'P'
import socket, sys, time


def read(f):
    line = f.readline()
    kind, rest = line[:1], line[1:-2]
    if kind in b"+-":
        return rest.decode()
    if kind == b":":
        return int(rest)
    if kind == b"_":
        return None
    if kind == b"$":
        n = int(rest)
        return None if n < 0 else f.read(n + 2)[:-2]
    items = [read(f) for _ in range(int(rest) * (2 if kind == b"%" else 1))]
    return ("push", items) if kind == b">" else items


class Client:
    def __init__(self):
        for attempt in range(200):
            self.s = socket.socket(socket.AF_UNIX)
            try:
                self.s.connect("socket")
                break
            except OSError:
                time.sleep(0.05)
        self.s.settimeout(10)
        self.f = self.s.makefile("rb")

    def ask(self, words):
        self.s.sendall(words.encode() + b"\r\n")
        return read(self.f)


a, b, writer = Client(), Client(), Client()
a.ask("CLIENT TRACKING on REDIRECT %d" % b.ask("CLIENT ID"))
said = [b.ask("SET unrelated 1"), b.ask("RESET")]
b.ask("HELLO 3")
a.ask("GET key")
writer.ask("SET key value")
got = b.ask("PING")
print("B after RESET:", *said, "hello", "pushed: %s" % (got[1],) if isinstance(got, tuple) else "answered: %s" % got)
sys.exit(0 if got == ("push", [b"invalidate", [b"key"]]) else 1)
P
python3 client.py
