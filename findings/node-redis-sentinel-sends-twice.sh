#!/bin/sh
# node-redis with createSentinel executes a command twice when its connection ends before the reply.
#
# Version: redis 6.3.1 (node-redis), Node.js 20, with redis-server 7.0.15 of Debian 12.
# Behaviour: RPUSH reaches the primary and is executed, and the connection ends before the reply arrives. A client of createClient
# rejects the promise with "Socket closed unexpectedly": nobody knows whether it was executed, and the program decides. A client of
# createSentinel sends the command once more, over the next connection, and resolves the promise. The list has the element twice.
# For whoever counts, queues or pays by way of a Sentinel: a failover is just when connections end before replies. maxCommandRediscovers
# bounds the repetitions, but with 0 the client doesn't find a new primary either.
#
# Output seen:
#   createClient: rejected: Socket closed unexpectedly; the list has 1 element
#   createSentinel: resolved with 2; the list has 2 elements
set -eu
dir=$(mktemp -d)
pids=
trap 'for p in $pids; do kill -9 "$p" 2>/dev/null || true; done; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
npm install --no-audit --no-fund --ignore-scripts --silent redis@6.3.1 >/dev/null
free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
primary=$(free) sentinel=$(free)
printf 'bind 127.0.0.1\nport %s\nsentinel monitor m 127.0.0.1 %s 1\n' "$sentinel" "$primary" >sentinel.conf
library=$(dirname "$(find "$dir/root" -name 'liblzf.so*' | head -n 1)")
LD_LIBRARY_PATH=$library root/usr/bin/redis-server --bind 127.0.0.1 --port "$primary" --save "" >/dev/null &
pids=$!
LD_LIBRARY_PATH=$library root/usr/bin/redis-server sentinel.conf --sentinel >/dev/null &
pids="$pids $!"
cat >client.mjs <<'J'
import net from 'node:net'
import { createClient, createSentinel } from 'redis'

const [primary, sentinel] = process.argv.slice(2).map(Number)
let cut // whether the next reply to RPUSH is kept back, and its connection closed
const network = net.createServer((client) => {
  const server = net.connect(primary, '127.0.0.1')
  let asked = false
  client.on('data', (d) => { asked ||= d.includes('RPUSH'); server.write(d) })
  server.on('data', (d) => {
    if (!asked || !cut) return client.write(d)
    cut = false
    client.destroy()
    server.destroy()
  })
  for (const [a, b] of [[client, server], [server, client]]) a.on('close', () => b.destroy()).on('error', () => {})
})
await new Promise((done) => network.listen(0, '127.0.0.1', done))
const port = network.address().port
const wait = (ms) => new Promise((done) => setTimeout(done, ms))

async function reached(make) {
  for (let i = 0; ; i++) {
    try {
      const c = make().on('error', () => {})
      await c.connect()
      return c
    } catch (e) {
      if (i === 50) throw e
      await wait(100)
    }
  }
}
const direct = await reached(() => createClient({ socket: { host: '127.0.0.1', port: primary } }))
async function push(name, client) {
  await client.ping()
  cut = true
  const what = await client.rPush(name, 'element').then((n) => 'resolved with ' + n, (e) => 'rejected: ' + e.message)
  const n = await direct.lLen(name)
  console.log(`${name}: ${what}; the list has ${n} element${n === 1 ? '' : 's'}`)
  return n
}
const plain = await push('createClient', await reached(() => createClient({ socket: { host: '127.0.0.1', port } })))
const twice = await push('createSentinel', await reached(() => createSentinel({
  name: 'm', sentinelRootNodes: [{ host: '127.0.0.1', port: sentinel }],
  nodeAddressMap: (a) => (a.endsWith(':' + primary) ? { host: '127.0.0.1', port } : undefined),
})))
if (plain !== 1 || twice !== 2) {
  console.log('it has changed')
  process.exit(1)
}
process.exit(0)
J
timeout 60 node client.mjs "$primary" "$sentinel"
