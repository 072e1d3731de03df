// What the Node scripts share: the clock, records of jobs, rounds, and one JSON line a figure.
//
// A record is {line, n, start, end}: its line, its place among all jobs, and when its handler began and ended, in microseconds of
// the monotonic clock. A figure has the fields of `../compare/figure.rs`.
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export const POSTGRES = 'postgres://postgres@127.0.0.1:25432/';
export const REDIS = { host: '127.0.0.1', port: 26379 };

// A trial divides all sizes, to see that the scripts work; its figures mean nothing.
const DIVISOR = Number(process.env.RIVALS_DIVISOR ?? 1);
// Rounds are repeated until they have taken this long together.
const FLOOR_SECONDS = 3 / DIVISOR;
// How long a round may take.
const PATIENCE_MS = 240_000;
const BATCH = 500;

export const sized = (count) => Math.max(Math.floor(count / DIVISOR), 1);
export const now = () => Number(process.hrtime.bigint()) / 1e3;
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Which measures the command line wants; all, where it names none. */
export function wants(measure) {
  const wanted = process.argv.slice(2);
  return wanted.length === 0 || wanted.includes(measure);
}

export async function until(holds, patience = PATIENCE_MS) {
  const begun = Date.now();
  while (!holds()) {
    if (Date.now() - begun > patience) return false;
    await sleep(5);
  }
  return true;
}

/** Calls `add` with the numbers from 0 to `count`, 500 at a time. */
export async function inBatches(count, add) {
  for (let first = 0; first < count; first += BATCH) {
    await add(Array.from({ length: Math.min(BATCH, count - first) }, (_, place) => first + place));
  }
}

/** A handler's own stamps: waits `ms` milliseconds, spins until it has taken `us` microseconds, and records it. */
export async function handle(records, line, n, ms = 0, us = 0) {
  const start = now();
  if (ms > 0) await sleep(ms);
  // What else this process has to do is done meanwhile.
  while (now() - start < us) await new Promise(setImmediate);
  records.push({ line, n, start, end: now() });
}

function print(figure) {
  console.log(JSON.stringify(figure));
}

/** User and system seconds of the servers so far, and of this process. */
function cpu() {
  const script = fileURLToPath(new URL('servers.sh', import.meta.url));
  const [postgres, rabbitmq, redis] = execFileSync(script, ['cpu']).toString().trim().split(/\s+/).map(Number);
  const own = process.cpuUsage();
  return { postgres, rabbitmq, redis, process: (own.user + own.system) / 1e6 };
}

function percentile(sorted, share) {
  return Math.round(sorted[Math.floor((sorted.length - 1) * share)] * 10) / 10;
}

function percentiles(values) {
  if (values.length === 0) return {};
  const sorted = values.sort((a, b) => a - b);
  const mean_us = Math.round((sorted.reduce((sum, value) => sum + value, 0) / sorted.length) * 10) / 10;
  const [p50_us, p99_us, p999_us, max_us] = [0.5, 0.99, 0.999, 1].map((share) => percentile(sorted, share));
  return { mean_us, p50_us, p99_us, p999_us, max_us };
}

/** What lines with one slot each show: starts out of order, starts before an end, and the pauses between. */
function lines(records) {
  const byLine = new Map();
  for (const record of records) {
    if (!byLine.has(record.line)) byLine.set(record.line, []);
    byLine.get(record.line).push(record);
  }
  const seen = { order_violations: 0, overlaps: 0, pauses: [] };
  for (const line of byLine.values()) {
    line.sort((a, b) => a.start - b.start || a.n - b.n);
    for (let at = 1; at < line.length; at++) {
      const [before, after] = [line[at - 1], line[at]];
      if (after.n < before.n) seen.order_violations++;
      if (after.start < before.end) seen.overlaps++;
      else seen.pauses.push(after.start - before.end);
    }
  }
  return seen;
}

/**
 * Repeats `round` until all have taken long enough, and prints one figure. A round gives `{records, begun, more?}`; it ends
 * with the last handler. `inLines`: each line has one slot; `pauses`: the times between its jobs are wanted.
 */
export async function measured(system, measure, name, { inLines = false, pauses = false }, round) {
  let took = 0;
  let [seconds, rounds, n, order_violations, overlaps, all, more] = [0, 0, 0, 0, 0, [], {}];
  const before = cpu();
  while (seconds < FLOOR_SECONDS) {
    const done = await round(rounds);
    if (done.records.length === 0) throw new Error(`${system}, ${name}: nothing ran`);
    seconds += (done.records.reduce((latest, record) => Math.max(latest, record.end), 0) - done.begun) / 1e6;
    rounds++;
    n += done.records.length;
    took += done.records.reduce((sum, record) => sum + record.end - record.start, 0);
    more = { ...more, ...done.more };
    const seen = lines(done.records);
    order_violations += seen.order_violations;
    overlaps += seen.overlaps;
    if (pauses) all = all.concat(seen.pauses);
  }
  if (pauses) more = { ...more, handler_us: Math.round((took / n) * 10) / 10 };
  const after = cpu();
  const cpu_seconds = Object.fromEntries(Object.keys(after).map((who) => [who, Math.round((after[who] - before[who]) * 100) / 100]));
  print({
    system, measure, case: name, n, rounds, seconds: Math.round(seconds * 100) / 100, per_second: Math.round(n / seconds),
    ...percentiles(all), ...(inLines ? { order_violations, overlaps } : {}), cpu_seconds, more,
  });
}

/** L: one job at a time on an idle system. `send(n)` enqueues; `started()` gives the start of the last job, or null. */
export async function idle(system, name, reset, send, started) {
  const took = [];
  for (let n = 0; n < sized(400); n++) {
    reset();
    const sent = now();
    await send(n);
    if (!(await until(() => started() !== null, 30_000))) throw new Error(`${system}, ${name}: a job did not start`);
    took.push(started() - sent);
    await sleep(10);
  }
  print({ system, measure: 'L', case: name, n: took.length, ...percentiles(took) });
}
