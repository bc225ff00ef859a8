// Reads "host port name file" lines; for each it says whether PING is answered by a server that the file's CAs vouch for.
// The client is the one that Bun has built in.
import { RedisClient } from 'bun'
import { readFileSync } from 'node:fs'

for (const line of readFileSync(0, 'utf8').trim().split('\n')) {
  const [host, port, , file] = line.split(' ')
  const client = new RedisClient(`rediss://${host}:${port}`, {
    tls: { ca: readFileSync(file, 'utf8') }, autoReconnect: false, connectionTimeout: 30000,
  })
  try {
    const answer = await client.ping()
    console.log(answer === 'PONG' ? 'ok' : `no ${JSON.stringify(answer)}`)
  } catch (e) {
    console.log('no ' + String(e).replaceAll('\n', ' '))
  }
  client.close()
}
