// Reads "host port name file" lines; for each it says whether PING is answered by a server that the file's CAs vouch for.
import { readFileSync } from 'node:fs'
import { GlideClient, Logger } from '@valkey/valkey-glide'

Logger.setLoggerConfig('off') // it would write to the standard output

async function attempt(line) {
  const [host, port, , file] = line.split(' ')
  let client
  try {
    client = await GlideClient.createClient({
      addresses: [{ host, port: Number(port) }], useTLS: true, requestTimeout: 30000,
      connectionBackoff: { numberOfRetries: 1, factor: 1, exponentBase: 1 },
      advancedConfiguration: { connectionTimeout: 30000, tlsAdvancedConfiguration: { rootCertificates: readFileSync(file) } },
    })
    const answer = await client.ping()
    return answer === 'PONG' ? 'ok' : `no ${JSON.stringify(answer)}`
  } catch (e) {
    return 'no ' + String(e).replaceAll('\n', ' ')
  } finally {
    client?.close()
  }
}

const lines = readFileSync(0, 'utf8').trim().split('\n')
for (const answer of await Promise.all(lines.map(attempt))) console.log(answer)
process.exit(0)
