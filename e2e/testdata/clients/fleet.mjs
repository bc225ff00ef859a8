// This runs many ioredis clients, each with a key of its own and without a rest, until stdin ends. No client may see an error,
// another client's reply, or a second connection.
import Redis from 'ioredis';
import { host, port, assert, fail } from './story.mjs';

let over = false;
process.stdin.resume();
process.stdin.on('end', () => { over = true; });

async function work(key, started) {
  const db = new Redis({ host, port, retryStrategy: null, maxRetriesPerRequest: 0, autoResendUnfulfilledCommands: false });
  db.on('error', fail);
  const id = await db.client('ID');
  let n = 0;
  while (!over) {
    n++;
    if (n % 10 === 0) {
      assert.deepEqual(await db.multi().incr(key).exec(), [[null, n]]);
    } else {
      assert.equal(await db.incr(key), n);
    }
    started();
    if (n % 5 === 0) await new Promise((done) => setTimeout(done, Math.random() * 20));
  }
  assert.equal(await db.client('ID'), id);
  db.removeListener('error', fail);
  db.disconnect();
  return n;
}

const count = Number(process.env.CLIENTS);
let waiting = count;
const all = Array.from({ length: count }, (_, i) => {
  let first = true;
  return work(`ioredis:${i}`, () => {
    if (first && --waiting === 0) console.log('all at work');
    first = false;
  });
});
Promise.all(all).then((done) => {
  console.log(`ioredis: ${count} clients, ${done.reduce((a, b) => a + b)} increments`);
  process.exit(0);
}, fail);
