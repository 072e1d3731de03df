"""Celery on RabbitMQ, with confirms and late acks: a job is as safe as the broker, and no result is kept.

It has no limit across workers. A line with one slot is a queue that a single process with one thread consumes.
"""

import os
import subprocess
import sys
import time

import common
from celery_tasks import app, job

SYSTEM = "celery"
KEYS = 100


def worker(queues, pool, concurrency, prefetch):
    celery = os.path.join(os.path.dirname(sys.executable), "celery")
    command = [celery, "-A", "celery_tasks", "worker", "-P", pool, "-c", str(concurrency), "-O", "fair", "-l", "ERROR"]
    command += ["-Q", ",".join(queues), "-n", f"{queues[0]}@%h", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    environment = {**os.environ, "CELERY_PREFETCH": str(prefetch)}
    return subprocess.Popen(command, cwd=common.HERE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end(process):
    process.terminate()
    process.wait(60)


def fresh(queues):
    with app.connection_for_write() as connection:
        channel = connection.channel()
        for queue in queues:
            channel.queue_delete(queue)
            app.amqp.queues[queue](channel).declare()
    common.forget()


def send(count, target):
    """`target(n)` gives the queue and the arguments of each. Returns when the first was sent."""
    begun = time.monotonic_ns()
    with app.producer_pool.acquire(block=True) as producer:
        for n in range(count):
            queue, arguments = target(n)
            job.apply_async(arguments, queue=queue, producer=producer)
    return begun


def until_there(queue):
    send(1, lambda _: (queue, (common.PROBE, 0)))
    if not common.until(lambda: common.ran() >= 1, 60):
        raise RuntimeError(f"no worker came for {queue}")


def prefilled(tally, queues, count, target, workers):
    while tally.is_short():
        fresh(queues)
        send(count, target)
        running = workers()
        done = common.until(lambda: common.ran() >= count)
        tally.add(common.recorded(), all_done=done)
        for process in running:
            end(process)
    tally.show()


def throughput():
    queue, count = "celery.throughput", common.sized(20_000)
    for pool, concurrency in [("prefork", 2), ("threads", 10), ("solo", 1)]:
        tally = common.Tally(SYSTEM, "T", f"{count}, {pool}, concurrency {concurrency}, prefilled")
        prefilled(tally, [queue], count, lambda n: (queue, (0, n)), lambda: [worker([queue], pool, concurrency, 128)])
    tally = common.Tally(SYSTEM, "T", f"{count}, prefork, concurrency 2, live")
    while tally.is_short():
        fresh([queue])
        process = worker([queue], "prefork", 2, 128)
        until_there(queue)
        begun = send(count, lambda n: (queue, (0, n)))
        done = common.until(lambda: common.ran() >= count + 1)
        tally.add(common.recorded(), begun, all_done=done)
        end(process)
    tally.show()


def handoff():
    queue, count = "celery.handoff", common.sized(5000)
    case = f"{count} handlers, 1 ms, a queue of its own, prefork, concurrency 1, prefetch 1"
    tally = common.Tally(SYSTEM, "H", case, in_lines=True, pauses=True)
    prefilled(tally, [queue], count, lambda n: (queue, (0, n, 1)), lambda: [worker([queue], "prefork", 1, 1)])


def keys():
    queues = [f"celery.key{key}" for key in range(KEYS)]
    count, processes = max(common.sized(10_000), KEYS), 4
    case = f"{count}, {KEYS} keys, a queue a key over {processes} workers of one process, prefilled"
    tally = common.Tally(SYSTEM, "M", case, in_lines=True)
    workers = lambda: [worker(queues[first::processes], "prefork", 1, 1) for first in range(processes)]
    prefilled(tally, queues, count, lambda n: (queues[n % KEYS], (n % KEYS, n)), workers)


def latency():
    queue = "celery.latency"
    for pool, concurrency in [("prefork", 2), ("solo", 1)]:
        fresh([queue])
        process = worker([queue], pool, concurrency, 4)
        until_there(queue)
        time.sleep(0.5)
        sent = []
        for n in range(common.sized(400)):
            sent.append(send(1, lambda _: (queue, (0, n))))
            common.until(lambda: common.ran() >= n + 2, 30)
            time.sleep(0.01)
        took = [start - sent[n] for _, n, start, _ in common.recorded()]
        common.show_idle(SYSTEM, f"{pool}, concurrency {concurrency}", took)
        end(process)


for name, measure in [("T", throughput), ("M", keys), ("H", handoff), ("L", latency)]:
    if common.wants(name):
        measure()
