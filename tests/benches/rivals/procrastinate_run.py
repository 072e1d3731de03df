"""Procrastinate on PostgreSQL; worker and client are one asyncio process."""

import asyncio
import logging
import os
import time

import common
import procrastinate
import psycopg

SYSTEM = "procrastinate"
KEYS = 100
BATCH = 500
logging.disable(logging.CRITICAL)
databases = 0


class Installation:
    """A database of its own, with one task."""

    @classmethod
    async def fresh(cls):
        global databases
        databases += 1
        new = cls()
        new.database = f"procrastinate{databases}_{os.getpid()}"
        new.ask("postgres", f"CREATE DATABASE {new.database}")
        connector = procrastinate.PsycopgConnector(conninfo=common.POSTGRES + new.database, min_size=4, max_size=24)
        new.app = procrastinate.App(connector=connector)
        await new.app.open_async()
        await new.app.schema_manager.apply_schema_async()
        new.records = []

        @new.app.task(name="job", queue="jobs")
        async def job(line, n, ms=0):
            start = time.monotonic_ns()
            if ms:
                await asyncio.sleep(ms / 1e3)
            new.records.append((line, n, start, time.monotonic_ns()))

        new.job = job
        return new

    def ask(self, database, sql):
        with psycopg.connect(common.POSTGRES + database, autocommit=True) as connection:
            connection.execute(sql)

    async def fill(self, count, keys, ms=0):
        for first in range(0, count, BATCH):
            by_key = {}
            for n in range(first, min(first + BATCH, count)):
                key = n % keys if keys else 0
                by_key.setdefault(key, []).append({"line": key, "n": n, "ms": ms})
            for key, jobs in by_key.items():
                job = self.job.configure(lock=f"key{key}") if keys else self.job
                await job.batch_defer_async(*jobs)
        # A fresh database has no statistics yet.
        self.ask(self.database, "ANALYZE")

    def work(self, concurrency, poll):
        return asyncio.create_task(
            self.app.run_worker_async(
                concurrency=concurrency,
                listen_notify=True,
                fetch_job_polling_interval=poll,
                install_signal_handlers=False,
                delete_jobs="never",
            )
        )

    async def until(self, count, patience=common.PATIENCE):
        begun = time.monotonic()
        while len(self.records) < count and time.monotonic() - begun < patience:
            await asyncio.sleep(0.005)
        return len(self.records) >= count

    async def end(self, worker):
        worker.cancel()
        await asyncio.wait([worker], timeout=10)
        await self.app.close_async()


async def load(tally, count, concurrency, poll=5.0, keys=None, ms=0, live=False, patience=common.PATIENCE):
    while tally.is_short():
        installation = await Installation.fresh()
        if live:
            worker = installation.work(concurrency, poll)
            await asyncio.sleep(1)
            begun = time.monotonic_ns()
            await installation.fill(count, keys, ms)
        else:
            await installation.fill(count, keys, ms)
            begun = time.monotonic_ns()
            worker = installation.work(concurrency, poll)
        done = await installation.until(count, patience)
        tally.add(list(installation.records), begun, all_done=done)
        await installation.end(worker)
    tally.show()


async def latency():
    installation = await Installation.fresh()
    worker = installation.work(20, 5.0)
    await asyncio.sleep(1.5)
    sent = []
    for n in range(common.sized(400)):
        sent.append(time.monotonic_ns())
        await installation.job.defer_async(line=0, n=n)
        await installation.until(n + 1, 30)
        await asyncio.sleep(0.01)
    common.show_idle(SYSTEM, "concurrency 20", [start - sent[n] for _, n, start, _ in installation.records])
    await installation.end(worker)


async def main():
    if common.wants("T"):
        count = common.sized(8000)
        for live in [False, True]:
            case = f"{count}, concurrency 20, {'live' if live else 'prefilled'}"
            await load(common.Tally(SYSTEM, "T", case), count, 20, live=live)
    if common.wants("M"):
        count = common.sized(5000)
        for concurrency in [1, 20]:
            case = f"{count}, {KEYS} keys, a lock a key, concurrency {concurrency}, prefilled"
            await load(common.Tally(SYSTEM, "M", case, in_lines=True), count, concurrency, keys=KEYS)
    if common.wants("H"):
        for concurrency, poll in [(1, 5.0), (20, 0.01)]:
            count = common.sized(2000)
            case = f"{count} handlers, 1 ms, a lock, concurrency {concurrency}, poll {poll} s"
            tally = common.Tally(SYSTEM, "H", case, in_lines=True, pauses=True)
            await load(tally, count, concurrency, poll, keys=1, ms=1, patience=60)
    if common.wants("L"):
        await latency()


asyncio.run(main())
