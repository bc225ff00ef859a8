// Reads "host port name file" lines; for each it says whether PING is answered by a server that the file's CAs vouch for.
// Node.js runs it, and so does Bun, as it runs the libraries that are written for Node.js.
import { readFileSync } from 'node:fs'
import { connect } from 'node:tls'

for (const line of readFileSync(0, 'utf8').trim().split('\n')) {
  const [host, port, , file] = line.split(' ')
  console.log(await new Promise((done) => {
    const socket = connect({ host, port: Number(port), ca: readFileSync(file) }, () => socket.write('PING\r\n'))
    socket.on('data', (answer) => { done(String(answer) === '+PONG\r\n' ? 'ok' : `no ${answer}`); socket.destroy() })
    socket.on('error', (e) => done('no ' + String(e).replaceAll('\n', ' ')))
    socket.on('close', () => done('no, closed'))
  }))
}
