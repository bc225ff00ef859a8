#!/bin/sh
# Google's Node clients show an enum as a name in an answer, and as a number in the result of an operation.
#
# Version: @google-cloud/redis 5.3.0 with google-gax 5.0.8, Node.js 20.
# Behaviour: the server sends the same instance twice, with "state": "READY" both times: once as the answer of getInstance, once as the result
# of the operation that createInstance has begun. The first object has state "READY", the second one state 2.
# For whoever writes `const [i] = await op.promise(); if (i.state === 'READY')`: it is never true. Compare with getInstance's answer, or with
# protos.google.cloud.redis.v1.Instance.State.READY.
#
# Output seen:
#   getInstance: "READY" "BASIC"
#   operation's result: 2 1
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --no-audit --no-fund --ignore-scripts --silent @google-cloud/redis@5.3.0 google-gax@5.0.8 google-auth-library@10.5.0 >/dev/null
cat >client.mjs <<'J'
import http from 'node:http'
import redis from '@google-cloud/redis'
import { OAuth2Client } from 'google-auth-library'

const name = 'projects/p/locations/l/instances/i'
const instance = { name, state: 'READY', tier: 'BASIC' }
const operation = {
  name: 'projects/p/locations/l/operations/o', done: true,
  metadata: { '@type': 'type.googleapis.com/google.cloud.redis.v1.OperationMetadata', verb: 'create' },
  response: { '@type': 'type.googleapis.com/google.cloud.redis.v1.Instance', ...instance },
}
const server = http.createServer((request, answer) => {
  answer.setHeader('content-type', 'application/json')
  answer.end(JSON.stringify(request.method === 'GET' && request.url.includes('/instances/') ? instance : operation))
})
await new Promise((done) => server.listen(0, '127.0.0.1', done))
const authClient = new OAuth2Client()
authClient.setCredentials({ access_token: 'any' })
const client = new redis.v1.CloudRedisClient({ authClient, apiEndpoint: '127.0.0.1', port: server.address().port, protocol: 'http', fallback: true, projectId: 'p' })
const [got] = await client.getInstance({ name })
const [op] = await client.createInstance({ parent: 'projects/p/locations/l', instanceId: 'i', instance: {} })
const [result] = await op.promise()
console.log('getInstance:', JSON.stringify(got.state), JSON.stringify(got.tier))
console.log("operation's result:", JSON.stringify(result.state), JSON.stringify(result.tier))
if (got.state !== 'READY' || result.state !== 2 || result.tier !== 1) {
  console.log('it has changed')
  process.exit(1)
}
process.exit(0)
J
node client.mjs
