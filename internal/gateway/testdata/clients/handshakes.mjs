// Reads "host port file" lines; for each it says whether a handshake that trusts just the file's CAs succeeds.
import { readFileSync } from 'node:fs'
import { connect } from 'node:tls'

for (const line of readFileSync(0, 'utf8').trim().split('\n')) {
  const [host, port, file] = line.split(' ')
  console.log(await new Promise((done) => {
    const socket = connect({ host, port: Number(port), ca: readFileSync(file) }, () => { done('ok'); socket.destroy() })
    socket.on('error', (e) => done('no ' + String(e).replaceAll('\n', ' ')))
  }))
}
