// Many clients of ioredis without TLS, each always at work on a key of its own. When stdin says "tls" each of them goes on with a
// connection with verified TLS, and leaves the other one. They end with stdin. None may see an error, or a reply that is not its own.
import fs from 'node:fs';
import readline from 'node:readline';
import Redis from 'ioredis';

const env = process.env;
let over = false;
let tls = false;
const fail = (e) => { console.error(e); process.exit(1); };

function connect(key, encrypted) {
  const more = encrypted ? { host: env.TLS_HOST, port: Number(env.TLS_PORT), tls: { ca: fs.readFileSync(env.CA_FILE) } } : { host: env.HOST, port: Number(env.PORT) };
  const db = new Redis({ connectionName: key, retryStrategy: null, maxRetriesPerRequest: 0, autoResendUnfulfilledCommands: false, ...more });
  db.on('error', fail);
  return db;
}

async function work(key, started, moved) {
  let db = connect(key, false);
  let encrypted = false;
  let n = 0;
  while (!over) {
    if (tls && !encrypted) {
      const next = connect(key, true);
      await next.ping();
      await db.quit();
      db = next;
      encrypted = true;
      moved();
    }
    n++;
    const got = n % 10 === 0 ? (await db.multi().incr(key).exec())[0][1] : await db.incr(key);
    if (got !== n) fail(new Error(`${key}: got ${got}, want ${n}`));
    if (n === 1) started();
    await new Promise((done) => setTimeout(done, Math.random() * 100));
  }
  db.removeListener('error', fail);
  db.disconnect();
  return n;
}

const count = Number(env.CLIENTS);
const after = (text) => { let left = count; return () => { if (--left === 0) console.log(text); }; };
const started = after('all at work');
const moved = after('all moved');
const lines = readline.createInterface({ input: process.stdin });
lines.on('line', () => { tls = true; });
lines.on('close', () => { over = true; });
Promise.all(Array.from({ length: count }, (_, i) => work(`ioredis-${i}`, started, moved))).then((done) => {
  console.log(`ioredis: ${count} clients, ${done.reduce((a, b) => a + b)} increments`);
  process.exit(0);
}, fail);
