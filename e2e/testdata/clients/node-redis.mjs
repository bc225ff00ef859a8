import { createClient, commandOptions } from 'redis';
import { host, port, ca, auth, assert, ok, fail, again, engineIsLost } from './story.mjs';

const connect = async (options = { ca }) => {
  const secure = ca && { tls: true, servername: undefined, ...options };
  const c = createClient({ password: auth || undefined, socket: { host, port, ...secure } });
  c.on('error', () => {});
  return c.connect();
};

async function main() {
  const db = await connect();
  await db.set('key', 'value');
  assert.equal(await db.get('key'), 'value');
  ok('get and set');
  const replies = await Promise.all(Array.from({ length: 1000 }, () => db.incr('n')));
  assert.equal(replies[999], 1000);
  ok('pipeline');
  assert.deepEqual(await db.multi().set('m', '1').incr('m').exec(), ['OK', 2]);
  const other = await connect();
  await assert.rejects(db.executeIsolated(async (c) => {
    await c.watch('w');
    await other.set('w', 'changed');
    return c.multi().set('w', 'mine').exec();
  }), /WatchError|One \(or more\) of the watched keys/);
  ok('transaction');
  const popped = db.blPop(commandOptions({ isolated: true }), 'list', 10);
  await other.rPush('list', 'item');
  assert.deepEqual({ ...(await popped) }, { key: 'list', element: 'item' });
  ok('blocking pop');
  const sub = await connect();
  let got;
  const message = new Promise((resolve) => { got = resolve; });
  await sub.subscribe('news', got);
  assert.equal(await db.publish('news', 'hello'), 1);
  assert.equal(await message, 'hello');
  ok('publish and subscribe');
  assert.equal(await db.eval("return redis.call('GET', KEYS[1])", { keys: ['key'] }), 'value');
  ok('script');
  const keys = [];
  for await (const key of db.scanIterator({ COUNT: 1 })) keys.push(key);
  assert.ok(keys.includes('key') && keys.includes('n'));
  ok('scan');
  const many = await Promise.all(Array.from({ length: 50 }, () => connect()));
  await Promise.all(many.map(async (c, i) => {
    await c.set('c' + i, String(i));
    assert.equal(await c.get('c' + i), String(i));
  }));
  await Promise.all(many.map((c) => c.disconnect()));
  ok('fifty connections');
  if (ca) {
    await assert.rejects(connect({ reconnectStrategy: false }));
    ok('no connection without the CA');
  }
  await engineIsLost();
  await again(() => db.set('after', 'yes'));
  assert.equal(await again(() => db.get('after')), 'yes');
  ok('reconnect');
  process.exit(0);
}
main().catch(fail);
