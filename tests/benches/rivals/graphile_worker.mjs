// graphile-worker on PostgreSQL: job by job, and with its local queue and batched completions.
//
// Job by job a completion is not awaited before the next job is asked for. That question misses the queue that is still locked,
// and the worker sleeps for its poll interval. Measured therefore at its default, at a short poll, and with a pool of
// two connections (one listens), which puts the two calls in order.
import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import pg from 'pg';
import { POSTGRES, handle, idle, inBatches, measured, now, sized, sleep, until, wants } from './common.mjs';

const SYSTEM = 'graphile-worker';
const KEYS = 100;
const POLL_MS = 2000;
const logger = new Logger(() => () => {});
let databases = 0;

/** A new database each time. */
async function fresh() {
  const name = `graphile${++databases}`;
  const client = new pg.Client({ connectionString: `${POSTGRES}postgres` });
  await client.connect();
  await client.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
  await client.query(`CREATE DATABASE ${name}`);
  await client.end();
  const connectionString = POSTGRES + name;
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  return { connectionString, utils };
}

const BATCHED = {
  concurrentJobs: 24, maxPoolSize: 26, pollInterval: POLL_MS,
  localQueue: { size: 500, refetchDelay: { durationMs: 10 } }, completeJobBatchDelay: 0, failJobBatchDelay: 0,
};
const jobByJob = (concurrentJobs, pollInterval, maxPoolSize = Math.max(10, concurrentJobs + 2)) =>
  ({ concurrentJobs, pollInterval, maxPoolSize });

function work(connectionString, worker, job) {
  return run({ preset: { worker: { ...worker, connectionString, logger } }, taskList: { job }, noHandleSignals: true, logger });
}

function fill(utils, count, line) {
  return inBatches(count, (numbers) => utils.addJobs(numbers.map((n) => ({
    identifier: 'job', payload: { n, line: line?.(n) ?? '' }, ...(line ? { queueName: line(n) } : {}),
  }))));
}

async function load(measure, name, worker, { count, line, live = false, ms = 0, patience, pauses = false }) {
  await measured(SYSTEM, measure, name, { inLines: line !== undefined, pauses }, async () => {
    const { connectionString, utils } = await fresh();
    const records = [];
    const start = () => work(connectionString, worker, (payload) => handle(records, payload.line, payload.n, ms));
    let running, begun;
    if (live) {
      running = await start();
      await sleep(300);
      begun = now();
      await fill(utils, count, line);
    } else {
      await fill(utils, count, line);
      begun = now();
      running = await start();
    }
    const all_done = await until(() => records.length >= count, patience);
    await sleep(300);
    await running.stop();
    await utils.release();
    return { records, begun, more: { all_done } };
  });
}

if (wants('T')) {
  await load('T', `${sized(50_000)}, job by job, concurrency 24, prefilled`, jobByJob(24, POLL_MS), { count: sized(50_000) });
  for (const count of [50_000, 250_000].map(sized)) {
    for (const live of [false, true]) {
      await load('T', `${count}, local queue and batched completion, ${live ? 'live' : 'prefilled'}`, BATCHED, { count, live });
    }
  }
}
if (wants('M')) {
  for (const [concurrency, poll] of [[10, POLL_MS], [24, 5]]) {
    const name = `${sized(5000)}, ${KEYS} keys, a named queue a key, concurrency ${concurrency}, poll ${poll} ms, prefilled`;
    await load('M', name, jobByJob(concurrency, poll), { count: sized(5000), line: (n) => `key${n % KEYS}` });
  }
}
if (wants('H')) {
  const line = () => 'one';
  for (const [concurrency, poll, pool, count] of [[1, POLL_MS, 2, 5000], [24, 5, undefined, 1000], [24, POLL_MS, undefined, 300]]) {
    const name = `${sized(count)} handlers, 1 ms, a named queue, concurrency ${concurrency}, poll ${poll} ms, pool ${pool ?? 'of its own size'}`;
    const worker = jobByJob(concurrency, poll, pool);
    await load('H', name, worker, { count: sized(count), line, ms: 1, patience: 60_000, pauses: true });
  }
}
if (wants('L')) {
  const { connectionString, utils } = await fresh();
  let at = null;
  const running = await work(connectionString, jobByJob(24, POLL_MS), async () => { at = now(); });
  await sleep(500);
  await idle(SYSTEM, 'concurrency 24', () => { at = null; }, (n) => utils.addJob('job', { n }), () => at);
  await running.stop();
  await utils.release();
}
process.exit(0);
