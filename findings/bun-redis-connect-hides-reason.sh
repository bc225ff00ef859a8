#!/bin/sh
# Bun's Redis client keeps to itself why a TLS connection failed, unless a command is what waits for it.
#
# Version: Bun 1.4.5.
# Behaviour: the server's certificate is of a CA that the client doesn't trust. A command rejects with the reason,
# UNABLE_TO_VERIFY_LEAF_SIGNATURE. connect() and onclose, which are there to tell whether the connection came about, say
# ERR_REDIS_CONNECTION_CLOSED, "Connection closed", as for a server that has hung up, and the error has no cause.
# For whoever reads a Bun program's log: behind "Connection closed" may be a certificate. node:tls in the same Bun says which.
#
# Output seen:
#   ping(): UNABLE_TO_VERIFY_LEAF_SIGNATURE, cause: undefined
#   connect(): ERR_REDIS_CONNECTION_CLOSED, cause: undefined
#   onclose: ERR_REDIS_CONNECTION_CLOSED, cause: undefined
#   node:tls: UNABLE_TO_VERIFY_LEAF_SIGNATURE, cause: undefined
set -eu
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; } 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir"
npm install --no-audit --no-fund --ignore-scripts --silent bun@1.4.5 >/dev/null
bun=$dir/node_modules/@oven/bun-linux-x64/bin/bun
[ -x "$bun" ] || { echo "Bun's program for Linux on x86-64 is not in the package"; exit 2; }
echo "Bun $("$bun" --version)"

key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
for ca in right other; do openssl req -x509 $key -keyout "$ca.key" -out "$ca.pem" -days 2 -subj "/CN=the $ca CA" 2>/dev/null; done
openssl req $key -keyout server.key -out server.csr -subj "/CN=a server" 2>/dev/null
echo "subjectAltName=IP:127.0.0.1" >ext
openssl x509 -req -in server.csr -out server.pem -CA right.pem -CAkey right.key -CAcreateserial -days 2 -extfile ext 2>/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
openssl s_server -accept "127.0.0.1:$port" -cert server.pem -key server.key -www -quiet >/dev/null 2>&1 &
pid=$!
cat >client.mjs <<'J'
import { RedisClient } from 'bun'
import { readFileSync } from 'node:fs'
import net from 'node:net'
import { connect } from 'node:tls'

const port = Number(process.argv[2]), ca = readFileSync('other.pem', 'utf8')
for (let up = false; !up;) {
  up = await new Promise((done) => net.connect(port, '127.0.0.1', function () { this.destroy(); done(true) }).on('error', () => setTimeout(done, 50, false)))
}
const client = () => new RedisClient(`rediss://127.0.0.1:${port}`, { tls: { ca }, autoReconnect: false })
const got = []
function show(label, e) {
  console.log(`${label}: ${e?.code}, cause: ${e?.cause}`)
  got.push(e?.code)
}
await client().ping().then(() => show('ping()'), (e) => show('ping()', e))
await client().connect().then(() => show('connect()'), (e) => show('connect()', e))
await new Promise((done) => {
  const c = client()
  c.onclose = (e) => { show('onclose', e); done() }
  c.ping().catch(() => {})
})
await new Promise((done) => connect({ port, host: '127.0.0.1', ca }, done).on('error', (e) => { show('node:tls', e); done() }))
const reason = 'UNABLE_TO_VERIFY_LEAF_SIGNATURE', closed = 'ERR_REDIS_CONNECTION_CLOSED'
if (String(got) !== String([reason, closed, closed, reason])) {
  console.log('it has changed')
  process.exit(1)
}
process.exit(0)
J
BUN_RUNTIME_TRANSPILER_CACHE_PATH=0 "$bun" --no-install client.mjs "$port"
