// Reads "host port name file" lines; for each it says whether PING is answered by a server that the file's CAs vouch for.
const lines = (await new Response(Deno.stdin.readable).text()).trim().split('\n')
for (const line of lines) {
  const [hostname, port, , file] = line.split(' ')
  try {
    // caCerts are trusted beside those of the system; DENO_TLS_CA_STORE is empty.
    const tls = await Deno.connectTls({ hostname, port: Number(port), caCerts: [Deno.readTextFileSync(file)] })
    await tls.write(new TextEncoder().encode('PING\r\n'))
    const answer = new Uint8Array(64)
    const text = new TextDecoder().decode(answer.subarray(0, await tls.read(answer)))
    console.log(text === '+PONG\r\n' ? 'ok' : `no ${JSON.stringify(text)}`)
    tls.close()
  } catch (e) {
    console.log('no ' + String(e).replaceAll('\n', ' '))
  }
}
