// Clients of ioredis or node-redis that do what they are told. The first argument is JSON: {library, clients, host, port, ca, sentinels,
// master, replyTimeout}. Each line of the standard input is {id, client, commands}, and is answered with {id, replies}. A connection
// that ends is a line {closed: client, clean, byServer}.
import net from 'node:net';
import { AsyncLocalStorage } from 'node:async_hooks';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const config = JSON.parse(process.argv[2]);
const ca = config.ca && readFileSync(config.ca);
const print = (line) => process.stdout.write(JSON.stringify(line) + '\n');
const busy = new Array(config.clients).fill(0);

// Both libraries hide their sockets, and reconnect from timers. Such a timer belongs to the context in which its client was made.
const owner = new AsyncLocalStorage();
const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...args) {
  const client = owner.getStore();
  let first; // who ended it, and whether a request was in flight then; what the library does about it comes later
  const ended = (byServer) => { first ??= { byServer, clean: busy[client] === 0 }; };
  this.once('end', () => ended(true));
  for (const method of ['end', 'destroy']) {
    const original = this[method];
    this[method] = function (...args) {
      const error = method === 'destroy' && args[0]?.code;
      ended(error === 'ECONNRESET' || error === 'EPIPE');
      return original.apply(this, args);
    };
  }
  this.once('connect', () => {
    const sentinel = config.sentinels?.some((s) => s.port === this.remotePort);
    this.once('close', () => { if (!sentinel && client !== undefined) print({ closed: client, ...first }); });
  });
  return connect.apply(this, args);
};

// The value of a reply is null, a string, a number or an array of strings.
const settled = (r) => (r.status === 'fulfilled' ? { value: r.value } : failure(r.reason));
const failure = (e) => ({ error: String(e?.message ?? e), server: e?.name === 'ReplyError' || ['ErrorReply', 'SimpleError', 'BlobError'].includes(e?.constructor?.name) });

async function ioredis() {
  const { default: Redis } = await import('ioredis');
  const options = {
    connectTimeout: 1000, commandTimeout: config.replyTimeout, socketTimeout: config.replyTimeout,
    autoResendUnfulfilledCommands: false, // a command is never sent twice
    tls: ca && { ca },
  };
  if (config.sentinels) Object.assign(options, { sentinels: config.sentinels, name: config.master });
  else Object.assign(options, { host: config.host, port: config.port });
  const db = new Redis(options);
  db.on('error', () => {});
  return (commands) => Promise.allSettled(commands.map(([name, ...args]) => db.call(name, ...args)));
}

async function nodeRedis() {
  const { createClient, createSentinel } = await import('redis');
  const socket = {
    connectTimeout: 1000, socketTimeout: config.replyTimeout, ...(ca && { tls: true, ca }),
    reconnectStrategy: (retries) => Math.min(50 * retries, 500), // the default ends the client for ever after a socketTimeout
  };
  if (!config.sentinels) {
    const db = createClient({ socket: { ...socket, host: config.host, port: config.port }, commandOptions: { timeout: config.replyTimeout } });
    db.on('error', () => {});
    await db.connect();
    return (commands) => Promise.allSettled(commands.map((c) => db.sendCommand(c)));
  }
  const db = createSentinel({
    name: config.master, sentinelRootNodes: config.sentinels, nodeClientOptions: { socket }, commandOptions: { timeout: config.replyTimeout },
  });
  db.on('error', () => {});
  await db.connect();
  // createSentinel sends a command again when its connection ended behind it, although it may have been executed. An error that is
  // returned and not thrown hides that from it. After READONLY nothing was executed, and it looks for the primary.
  return (commands) => db._execute(false, async (client) => {
    const all = await Promise.allSettled(commands.map((c) => client.sendCommand(c)));
    const readOnly = all.find((r) => r.status === 'rejected' && r.reason?.message?.startsWith('READONLY'));
    if (readOnly) throw readOnly.reason;
    return all;
  });
}

const make = { ioredis, 'node-redis': nodeRedis }[config.library];
const clients = await Promise.all(busy.map((_, i) => owner.run(i, make)));

// A library may keep a command for longer than its timeout, as before it is connected.
const late = (ms) => new Promise((_, reject) => setTimeout(reject, ms, new Error('no reply in time')).unref());

async function answer({ id, client, commands }) {
  busy[client]++;
  let replies;
  try {
    const all = await Promise.race([owner.run(client, () => clients[client](commands)), late(config.replyTimeout + 500)]);
    replies = all.map(settled);
  } catch (e) {
    replies = commands.map(() => failure(e));
  } finally {
    busy[client]--;
  }
  print({ id, replies });
}

createInterface({ input: process.stdin }).on('line', (line) => answer(JSON.parse(line))).on('close', () => process.exit(0));
process.on('unhandledRejection', (e) => process.stderr.write(`${e?.stack ?? e}\n`));
print({ ready: true });
