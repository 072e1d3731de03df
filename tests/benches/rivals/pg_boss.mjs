// pg-boss on PostgreSQL.
//
// `insert()` gives a whole batch one moment of creation, and ties are broken by a random id: for order send job by job.
// `work()` polls at least every half second; the loop below is written on the documented `fetch()` and `complete()` instead.
import pg from 'pg';
import { PgBoss } from 'pg-boss';
import { POSTGRES, handle, idle, inBatches, measured, now, sized, sleep, until, wants } from './common.mjs';

const SYSTEM = 'pg-boss';
const KEYS = 100;
const FIFO = { policy: 'key_strict_fifo' };
let databases = 0;

async function fresh() {
  const name = `boss${++databases}_${process.pid}`;
  const client = new pg.Client({ connectionString: `${POSTGRES}postgres` });
  await client.connect();
  await client.query(`CREATE DATABASE ${name}`);
  await client.end();
  const boss = new PgBoss({ connectionString: POSTGRES + name, max: 12, useListenNotify: true, schedule: false });
  boss.on('error', (error) => console.error(error.message));
  await boss.start();
  return boss;
}

const insert = (boss, queue, count) => inBatches(count, (numbers) => boss.insert(queue, numbers.map((n) => ({ data: { n, line: '' } }))));

async function send(boss, queue, count, line) {
  for (let n = 0; n < count; n++) await boss.send(queue, { n, line: line(n) }, { singletonKey: line(n) });
}

async function loop(boss, queue, options, records, count, ms = 0) {
  while (records.length < count) {
    const jobs = await boss.fetch(queue, options);
    if (!jobs?.length) {
      await sleep(1);
      continue;
    }
    for (const job of jobs) await handle(records, job.data.line, job.data.n, ms);
    await boss.complete(queue, jobs.map((job) => job.id));
  }
}

async function throughput(count, live) {
  const name = `${count}, work() in batches of 500 by 4, ${live ? 'live' : 'prefilled'}`;
  await measured(SYSTEM, 'T', name, {}, async () => {
    const boss = await fresh();
    await boss.createQueue('jobs', { notify: true });
    const records = [];
    const options = { batchSize: 500, localConcurrency: 4, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true };
    const work = () => boss.work('jobs', options, async (jobs) => {
      for (const job of jobs) await handle(records, 0, job.data.n);
    });
    let begun;
    if (live) {
      await work();
      begun = now();
      await insert(boss, 'jobs', count);
    } else {
      await insert(boss, 'jobs', count);
      begun = now();
      await work();
    }
    await until(() => records.length >= count);
    await boss.stop({ graceful: false });
    return { records, begun };
  });
}

async function inLines(measure, name, count, line, options, ms, pauses) {
  await measured(SYSTEM, measure, name, { inLines: true, pauses }, async () => {
    const boss = await fresh();
    await boss.createQueue('jobs', FIFO);
    await send(boss, 'jobs', count, line);
    const [records, begun] = [[], now()];
    await loop(boss, 'jobs', options, records, count, ms);
    await boss.stop({ graceful: false });
    return { records, begun };
  });
}

if (wants('T')) {
  for (const count of [50_000, 250_000].map(sized)) for (const live of [false, true]) await throughput(count, live);
}
if (wants('M')) {
  const count = sized(50_000);
  const name = `${count}, ${KEYS} keys, key_strict_fifo, send(), one loop in batches of 100, prefilled`;
  await inLines('M', name, count, (n) => `key${n % KEYS}`, { batchSize: 100 }, 0, false);
}
if (wants('H')) {
  const count = sized(2000);
  await inLines('H', `${count} handlers, 1 ms, key_strict_fifo, send(), one loop`, count, () => 'one', {}, 1, true);
}
if (wants('L')) {
  const boss = await fresh();
  await boss.createQueue('jobs', { notify: true });
  let at = null;
  await boss.work('jobs', { localConcurrency: 1, pollingIntervalSeconds: 0.5 }, async () => { at = now(); });
  await sleep(1000);
  await idle(SYSTEM, 'work() with notify', () => { at = null; }, (n) => boss.send('jobs', { n }), () => at);
  await boss.stop({ graceful: false });
}
process.exit(0);
