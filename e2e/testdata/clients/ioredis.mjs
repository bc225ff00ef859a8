import Redis from 'ioredis';
import { host, port, ca, auth, assert, ok, fail, again, engineIsLost } from './story.mjs';

const quiet = (c) => c.on('error', () => {});
const connect = () => quiet(new Redis({ host, port, password: auth || undefined, tls: ca && { ca } }));

async function main() {
  const db = connect();
  await db.set('key', 'value');
  assert.equal(await db.get('key'), 'value');
  ok('get and set');
  let p = db.pipeline();
  for (let i = 0; i < 1000; i++) p.incr('n');
  const replies = await p.exec();
  assert.deepEqual(replies[999], [null, 1000]);
  ok('pipeline');
  assert.deepEqual(await db.multi().set('m', '1').incr('m').exec(), [[null, 'OK'], [null, 2]]);
  const other = connect();
  await db.watch('w');
  await other.set('w', 'changed');
  assert.equal(await db.multi().set('w', 'mine').exec(), null);
  ok('transaction');
  const popped = db.blpop('list', 10);
  await other.rpush('list', 'item');
  assert.deepEqual(await popped, ['list', 'item']);
  ok('blocking pop');
  const sub = connect();
  await sub.subscribe('news');
  const message = new Promise((resolve) => sub.on('message', (_, m) => resolve(m)));
  assert.equal(await db.publish('news', 'hello'), 1);
  assert.equal(await message, 'hello');
  ok('publish and subscribe');
  assert.equal(await db.eval("return redis.call('GET', KEYS[1])", 1, 'key'), 'value');
  ok('script');
  const keys = [];
  for await (const batch of db.scanStream({ count: 1 })) keys.push(...batch);
  assert.ok(keys.includes('key') && keys.includes('n'));
  ok('scan');
  const many = Array.from({ length: 50 }, connect);
  await Promise.all(many.map(async (c, i) => {
    await c.set('c' + i, i);
    assert.equal(await c.get('c' + i), String(i));
  }));
  many.forEach((c) => c.disconnect());
  ok('fifty connections');
  if (ca) {
    const bad = quiet(new Redis({ host, port, tls: {}, retryStrategy: null, maxRetriesPerRequest: 0, lazyConnect: true }));
    await assert.rejects(bad.connect());
    ok('no connection without the CA');
  }
  await engineIsLost();
  await again(() => db.set('after', 'yes'));
  assert.equal(await again(() => db.get('after')), 'yes');
  ok('reconnect');
  process.exit(0);
}
main().catch(fail);
