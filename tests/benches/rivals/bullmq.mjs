// BullMQ on Redis. FSYNC=always makes Redis flush every write, FSYNC=everysec (its usual setting) once a second.
import { execFileSync } from 'node:child_process';
import { Queue, Worker } from 'bullmq';
import { REDIS, handle, idle, inBatches, measured, now, sized, sleep, until, wants } from './common.mjs';

const fsync = process.env.FSYNC ?? 'everysec';
const SYSTEM = `bullmq, fsync ${fsync}`;
const connection = { ...REDIS, maxRetriesPerRequest: null };
const defaultJobOptions = { removeOnComplete: true, removeOnFail: true };
const KEYS = 100;

execFileSync('redis-cli', ['-p', String(REDIS.port), 'config', 'set', 'appendfsync', fsync]);

async function fresh(name) {
  const queue = new Queue(name, { connection, defaultJobOptions });
  await queue.obliterate({ force: true });
  return queue;
}

const fill = (queue, numbers) => queue.addBulk(numbers.map((n) => ({ name: 'job', data: { n } })));

async function throughput(count, live) {
  const name = `${count}, concurrency 50, in bulks of 500, ${live ? 'live' : 'prefilled'}`;
  await measured(SYSTEM, 'T', name, {}, async () => {
    const queue = await fresh('throughput');
    const records = [];
    const work = () => new Worker('throughput', (job) => handle(records, 0, job.data.n), { connection, concurrency: 50 });
    let worker, begun;
    if (live) {
      worker = work();
      await worker.waitUntilReady();
      begun = now();
      await inBatches(count, (numbers) => fill(queue, numbers));
    } else {
      await inBatches(count, (numbers) => fill(queue, numbers));
      begun = now();
      worker = work();
    }
    await until(() => records.length >= count);
    await worker.close();
    await queue.close();
    return { records, begun };
  });
}

async function handoff(concurrency) {
  const count = sized(5000);
  const name = `${count} handlers, 1 ms, global concurrency 1, worker concurrency ${concurrency}`;
  await measured(SYSTEM, 'H', name, { inLines: true, pauses: true }, async () => {
    const queue = await fresh('handoff');
    await queue.setGlobalConcurrency(1);
    await inBatches(count, (numbers) => fill(queue, numbers));
    const [records, begun] = [[], now()];
    const worker = new Worker('handoff', (job) => handle(records, 0, job.data.n, 1), { connection, concurrency });
    await until(() => records.length >= count);
    await worker.close();
    await queue.removeGlobalConcurrency();
    await queue.close();
    return { records, begun };
  });
}

const plural = (count, what) => `${count} ${what}${count === 1 ? '' : 's'}`;

// A line is a queue with global concurrency 1; all its worker objects are in this process. Counts from the first start.
async function speed({ lines, workers, us, count }) {
  const work = us === 0 ? 'no-op' : `${us / 1000} ms`;
  const name = `${plural(lines, 'line')}, ${work}, global concurrency 1, ${plural(workers, 'worker')} a line`;
  const each = Math.max(Math.floor(sized(count) / lines), 1);
  await measured(SYSTEM, 'S', name, { inLines: true, pauses: true }, async () => {
    const queues = [];
    for (let line = 0; line < lines; line++) {
      const queue = await fresh(`speed${line}`);
      await queue.setGlobalConcurrency(1);
      await inBatches(each, (numbers) => fill(queue, numbers));
      queues.push(queue);
    }
    const records = [];
    const objects = queues.flatMap((_, line) => Array.from({ length: workers }, () =>
      new Worker(`speed${line}`, (job) => handle(records, line, job.data.n, 0, us), { connection, concurrency: 1 })));
    await until(() => records.length >= each * lines);
    await Promise.all(objects.map((worker) => worker.close()));
    await Promise.all(queues.map(async (queue) => { await queue.removeGlobalConcurrency(); await queue.close(); }));
    return { records, begun: Math.min(...records.map((record) => record.start)) };
  });
}

// A key is a queue with global concurrency 1 and a worker object of its own.
async function keys(count) {
  await measured(SYSTEM, 'M', `${count}, ${KEYS} keys, a queue a key, prefilled`, { inLines: true }, async () => {
    const queues = [];
    for (let key = 0; key < KEYS; key++) {
      const queue = await fresh(`key${key}`);
      await queue.setGlobalConcurrency(1);
      await inBatches(Math.floor(count / KEYS), (numbers) => fill(queue, numbers));
      queues.push(queue);
    }
    const [records, begun] = [[], now()];
    const workers = queues.map((_, key) =>
      new Worker(`key${key}`, (job) => handle(records, key, job.data.n), { connection, concurrency: 1 }));
    await until(() => records.length >= Math.floor(count / KEYS) * KEYS);
    await Promise.all(workers.map((worker) => worker.close()));
    await Promise.all(queues.map((queue) => queue.close()));
    return { records, begun };
  });
}

async function latency() {
  const queue = await fresh('latency');
  let at = null;
  const worker = new Worker('latency', async () => { at = now(); }, { connection, concurrency: 50 });
  await worker.waitUntilReady();
  await sleep(300);
  await idle(SYSTEM, 'concurrency 50', () => { at = null; }, (n) => queue.add('job', { n }), () => at);
  await worker.close();
  await queue.close();
}

if (wants('T')) {
  for (const count of [50_000, 250_000]) {
    await throughput(sized(count), false);
    await throughput(sized(count), true);
  }
}
if (wants('S')) {
  for (const us of [0, 1000, 10_000]) {
    for (const workers of [1, 4]) await speed({ lines: 1, workers, us, count: us === 10_000 ? 500 : 5000 });
  }
  for (const lines of [10, 100]) {
    for (const us of [0, 1000]) await speed({ lines, workers: 1, us, count: us === 0 ? 20_000 : 5000 });
  }
}
if (wants('M')) for (const count of [5000, 50_000, 250_000]) await keys(Math.max(sized(count), KEYS));
if (wants('H')) for (const concurrency of [1, 10]) await handoff(concurrency);
if (wants('L')) await latency();
process.exit(0);
