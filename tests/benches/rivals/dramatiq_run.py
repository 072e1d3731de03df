"""Dramatiq on RabbitMQ, with confirms.

A line with one slot is a queue that one thread of one process consumes, which is fast and no limit across workers; its own limit
across workers, ConcurrentRateLimiter on Redis, retries until it gets through.
"""

import os
import subprocess
import sys
import time

import common
import dramatiq_tasks as tasks

SYSTEM = "dramatiq"


def worker(queue, threads, prefetch=None):
    dramatiq = os.path.join(os.path.dirname(sys.executable), "dramatiq")
    command = [dramatiq, "dramatiq_tasks", "-p", "1", "-t", str(threads), "--queues", queue]
    environment = dict(os.environ)
    if prefetch:
        environment["dramatiq_queue_prefetch"] = str(prefetch)
    return subprocess.Popen(command, cwd=common.HERE, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end(process):
    process.terminate()
    process.wait(60)


def fresh(actor):
    tasks.broker.declare_queue(actor.queue_name, ensure=True)
    tasks.broker.flush(actor.queue_name)
    common.forget()


def send(actor, count, *more):
    begun = time.monotonic_ns()
    for n in range(count):
        actor.send(0, n, *more)
    return begun


def until_there(actor):
    actor.send(common.PROBE, 0)
    if not common.until(lambda: common.ran() >= 1, 60):
        raise RuntimeError(f"no worker came for {actor.queue_name}")


def prefilled(tally, actor, count, threads, prefetch=None, more=()):
    while tally.is_short():
        fresh(actor)
        send(actor, count, *more)
        process = worker(actor.queue_name, threads, prefetch)
        done = common.until(lambda: common.ran() >= count)
        tally.add(common.recorded(), all_done=done)
        end(process)
    tally.show()


def speed():
    """One line is a queue and a thread of its own, with the next job at hand."""
    for us, work, count in [(0, "no-op", 5000), (1000, "1 ms", 5000), (10_000, "10 ms", 500)]:
        case = f"1 line, {work}, a queue and a thread of its own, prefetch 2"
        tally = common.Tally(SYSTEM, "S", case, in_lines=True, pauses=True)
        prefilled(tally, tasks.speed, common.sized(count), 1, 2, (us,))


def throughput():
    actor, count = tasks.throughput, common.sized(30_000)
    tally = common.Tally(SYSTEM, "T", f"{count}, 8 threads, prefetch 1000, prefilled")
    prefilled(tally, actor, count, 8, 1000)
    tally = common.Tally(SYSTEM, "T", f"{count}, 8 threads, prefetch 1000, live")
    while tally.is_short():
        fresh(actor)
        process = worker(actor.queue_name, 8, 1000)
        until_there(actor)
        begun = send(actor, count)
        done = common.until(lambda: common.ran() >= count + 1)
        tally.add(common.recorded(), begun, all_done=done)
        end(process)
    tally.show()


def handoff():
    for prefetch in [1, 2]:
        count = common.sized(5000)
        case = f"{count} handlers, 1 ms, a queue and a thread of its own, prefetch {prefetch}"
        tally = common.Tally(SYSTEM, "H", case, in_lines=True, pauses=True)
        prefilled(tally, tasks.handoff, count, 1, prefetch)
    count = common.sized(300)
    case = f"{count} handlers, 1 ms, ConcurrentRateLimiter of 1, 8 threads, back-off 5 to 50 ms"
    tally = common.Tally(SYSTEM, "H", case, in_lines=True, pauses=True)
    prefilled(tally, tasks.limited, count, 8)


def latency():
    actor = tasks.latency
    fresh(actor)
    process = worker(actor.queue_name, 8)
    until_there(actor)
    time.sleep(0.5)
    sent = []
    for n in range(common.sized(400)):
        sent.append(time.monotonic_ns())
        actor.send(0, n)
        common.until(lambda: common.ran() >= n + 2, 30)
        time.sleep(0.01)
    common.show_idle(SYSTEM, "8 threads", [start - sent[n] for _, n, start, _ in common.recorded()])
    end(process)


for name, measure in [("S", speed), ("T", throughput), ("H", handoff), ("L", latency)]:
    if common.wants(name):
        measure()
