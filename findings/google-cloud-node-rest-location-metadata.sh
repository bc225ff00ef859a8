#!/bin/sh
# Google's Node client for Memorystore can't read a location over REST: it doesn't know the type of its own API's metadata.
#
# Version: @google-cloud/redis 5.3.0 with google-gax 5.0.8 and proto3-json-serializer, Node.js 20.
# Behaviour: the API describes a location with metadata of the type google.cloud.redis.v1.LocationMetadata, which lists the zones. Over REST
# (fallback: true) getLocation fails with "cannot find type google.cloud.redis.v1.LocationMetadata", although the package has the type and uses
# it for other messages. A location without metadata can be read. Over gRPC the metadata are handed on unread, so nothing fails.
# For whoever takes REST because gRPC is blocked: locations and zones have to be read with another client.
#
# Output seen:
#   with metadata: googleProtobufAnyFromProto3JSON: cannot find type google.cloud.redis.v1.LocationMetadata: Error: no such type: google.cloud.redis.v1.LocationMetadata
#   without metadata: us-central1
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --no-audit --no-fund --ignore-scripts --silent @google-cloud/redis@5.3.0 google-gax@5.0.8 google-auth-library@10.5.0 >/dev/null
cat >client.mjs <<'J'
import http from 'node:http'
import redis from '@google-cloud/redis'
import { OAuth2Client } from 'google-auth-library'

const location = { name: 'projects/p/locations/us-central1', locationId: 'us-central1' }
const metadata = { '@type': 'type.googleapis.com/google.cloud.redis.v1.LocationMetadata', availableZones: { 'us-central1-a': {} } }
const server = http.createServer((request, answer) => {
  answer.setHeader('content-type', 'application/json')
  answer.end(JSON.stringify(request.url.includes('with-metadata') ? { ...location, metadata } : location))
})
await new Promise((done) => server.listen(0, '127.0.0.1', done))
const authClient = new OAuth2Client()
authClient.setCredentials({ access_token: 'any' })
const client = new redis.v1.CloudRedisClient({ authClient, apiEndpoint: '127.0.0.1', port: server.address().port, protocol: 'http', fallback: true, projectId: 'p' })
const ask = (id) => client.getLocation({ name: 'projects/p/locations/' + id }).then(([l]) => l.locationId, (e) => e.message)
const [having, lacking] = [await ask('with-metadata'), await ask('without')]
console.log('with metadata:', having)
console.log('without metadata:', lacking)
if (!having.includes('cannot find type google.cloud.redis.v1.LocationMetadata') || lacking !== 'us-central1') {
  console.log('it has changed')
  process.exit(1)
}
process.exit(0)
J
node client.mjs
