// This file has what the JavaScript stories share. A story prints "ok WHAT" after each step. When it prints "ready to lose the
// engine", the test kills the engine and writes a line to the story's stdin.
import { readFileSync } from 'node:fs';
import assert from 'node:assert/strict';
import { createInterface } from 'node:readline';

export const { HOST: host, AUTH: auth } = process.env;
export const port = Number(process.env.PORT);
// Without CA there is no TLS, because the story runs through a sidecar.
export const ca = process.env.CA ? readFileSync(process.env.CA) : undefined;
export { assert };
export const ok = (what) => console.log('ok ' + what);
export const fail = (err) => { console.error(err); process.exit(1); };

export async function engineIsLost() {
  console.log('ready to lose the engine');
  const lines = createInterface({ input: process.stdin });
  await new Promise((resolve) => lines.once('line', resolve));
  lines.close();
}

// again repeats a call until it succeeds, for at most ten seconds.
export async function again(call) {
  const end = Date.now() + 10_000;
  for (;;) {
    try {
      return await call();
    } catch (err) {
      if (Date.now() > end) throw err;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
