#!/bin/sh
# run.sh [FLAG...]: runs the server in the foreground with these flags of `sealane serve`. Once the server answers, the
# script creates an instance called "first" if there is none. STATE names the state folder; empty means the default.
set -eu
if [ -n "${STATE:-}" ]; then
	set -- --state "$STATE" "$@"
	sealane() { bin/sealane --state "$STATE" "$@"; }
else
	sealane() { bin/sealane "$@"; }
fi

# This process becomes the server by exec, so $$ is the server's pid.
alive() { kill -0 $$ 2>/dev/null; }

first() {
	until sealane instances list >/dev/null 2>&1; do
		alive || exit 0
		sleep 0.1
	done
	sealane instances describe first >/dev/null 2>&1 || sealane instances create first >/dev/null || exit 0
	tries=0
	until connect=$(sealane connect first 2>&1); do
		alive || exit 0
		tries=$((tries + 1))
		if [ "$tries" -ge 100 ]; then
			echo "$connect" >&2
			exit 0
		fi
		sleep 0.1
	done
	cat <<EOF

An encrypted Redis is up: "first", with a certificate authority of its own. It stays up until Ctrl-C, and its data
are there again next time. Snippets for client libraries: bin/sealane connect first

In another terminal, this prints PONG over verified TLS:

$(echo "$connect" | grep '^redis-cli ')
EOF
}

first &
exec bin/sealane serve "$@"
