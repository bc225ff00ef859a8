#!/bin/sh
# ioredis with failoverDetector: a failover ends some clients for ever.
#
# Version: ioredis 6.0.0, Node.js 20, with redis-server 7.0.15 of Debian 12: a primary, a replica, one sentinel.
# Behaviour: the primary is killed, and all clients begin to reconnect. When the sentinel announces the new primary (+switch-master), the
# detector disconnects what is connecting. A client that is asking a sentinel for the primary at that moment gets the status "end",
# which ioredis gives to clients that were closed by their owner. It never connects again: each command is rejected with "Connection
# is closed." while Redis is up and all other clients work. retryStrategy is not asked. Without failoverDetector no client ends.
# For whoever turns it on so that a client leaves a primary that hangs: watch for the event "end" and make a new client, or leave it off
# and set socketTimeout.
#
# Output seen (how many of the 300 end differs):
#   without failoverDetector: 0 of 300 clients ended
#   with failoverDetector: 20 of 300 clients ended
#   SET of one of them, ten seconds later: Connection is closed.
set -eu
dir=$(mktemp -d)
pids=
trap 'for p in $pids; do kill -9 "$p" 2>/dev/null || true; done; rm -rf "$dir"' EXIT
cd "$dir"
apt-get download -qq redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-bitop lua-cjson >/dev/null 2>&1
for package in *.deb; do dpkg -x "$package" root; done
LIBRARY=$(dirname "$(find "$dir/root" -name 'liblzf.so*' | head -n 1)")
export LIBRARY
npm install --no-audit --no-fund --ignore-scripts --silent ioredis@6.0.0 >/dev/null
cat >client.mjs <<'J'
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import net from 'node:net'
import { Redis } from 'ioredis'

const clients = 300
const wait = (ms) => new Promise((done) => setTimeout(done, ms))
const running = []
process.on('exit', () => running.forEach((p) => p.kill('SIGKILL')))
function redis(name, conf, ...flags) {
  writeFileSync(name + '.conf', conf)
  const p = spawn('root/usr/bin/redis-server', [name + '.conf', ...flags], { stdio: 'ignore', env: { ...process.env, LD_LIBRARY_PATH: process.env.LIBRARY } })
  running.push(p)
  return p
}
const freePort = () => new Promise((done) => {
  const s = net.createServer().listen(0, '127.0.0.1', () => { const { port } = s.address(); s.close(() => done(port)) })
})
async function until(what, ok) {
  for (let i = 0; i < 600; i++) {
    if (await ok().catch(() => false)) return
    await wait(100)
  }
  console.log('not within a minute:', what)
  process.exit(2)
}

async function ended(failoverDetector) {
  const [primary, replica, sentinel] = [await freePort(), await freePort(), await freePort()]
  const first = redis('primary', `bind 127.0.0.1\nport ${primary}\nsave ""\nrepl-diskless-sync-delay 0\n`)
  redis('replica', `bind 127.0.0.1\nport ${replica}\nsave ""\nreplicaof 127.0.0.1 ${primary}\n`)
  redis('sentinel', `bind 127.0.0.1\nport ${sentinel}\nsentinel monitor m 127.0.0.1 ${primary} 1\nsentinel down-after-milliseconds m 1000\n`, '--sentinel')
  const asks = new Redis({ host: '127.0.0.1', port: sentinel }).on('error', () => {})
  await until('the sentinel knows the replica', async () => (await asks.call('SENTINEL', 'REPLICAS', 'm')).flat().includes('ok'))
  const all = Array.from({ length: clients }, () =>
    new Redis({ sentinels: [{ host: '127.0.0.1', port: sentinel }], name: 'm', failoverDetector, maxRetriesPerRequest: null }).on('error', () => {}))
  await Promise.all(all.map((c) => c.set('key', 'before')))
  first.kill('SIGKILL')
  await until('the replica is the primary', async () => (await asks.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', 'm'))[1] === String(replica))
  await wait(10000)
  const gone = all.filter((c) => c.status === 'end')
  console.log(`${failoverDetector ? 'with' : 'without'} failoverDetector: ${gone.length} of ${clients} clients ended`)
  const others = all.filter((c) => !gone.includes(c))
  await Promise.all(others.map((c) => c.set('key', 'after')))
  if (gone.length > 0) console.log('SET of one of them, ten seconds later:', await gone[0].set('key', 'after').catch((e) => e.message))
  for (const c of [...all, asks]) c.disconnect()
  for (const p of running.splice(0)) p.kill('SIGKILL')
  return gone.length
}
const without = await ended(false)
const withIt = await ended(true)
if (without !== 0 || withIt === 0) {
  console.log('it has changed')
  process.exit(1)
}
process.exit(0)
J
timeout 120 node client.mjs
