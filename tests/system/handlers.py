"""The functions of the system tests, run by a worker as `python3 -m slotline handlers:app`.

`line.one` and `line.three` do what the program `stamp` does with the same parameters: they write into the file STAMPS
when they really started and ended.
"""

import asyncio
import dataclasses
import os
import re
import sys
import time

import slotline

LOOK_AGAIN = 0.01  # seconds

app = slotline.App()


@dataclasses.dataclass
class Page:
    number: int
    title: str = ""


@app.action("line.one")
@app.action("line.three")
def stamp(ctx, tag="-", sleep_ms: int = 0, beat_ms: int = 0, gate: str | None = None, ignore_term: int = 0):
    def write(what, extra):
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        line = f"{what} {ctx.execution_id} {ctx.grant} {ctx.fence} {now} {tag} {extra}\n"
        with open(os.environ["STAMPS"], "ab", buffering=0) as file:
            file.write(line.encode())

    sleep = time.sleep if ignore_term else ctx.wait
    write("start", os.getpid())
    rest = sleep_ms
    while rest > 0:
        step = min(rest, beat_ms or rest)
        sleep(step / 1000)
        rest -= step
        if rest > 0:
            write("beat", 0)
    while gate is not None and not os.path.exists(gate):
        sleep(LOOK_AGAIN)
    write("end", 0)
    return {"tag": tag}


@app.action("py.reports")
def reports(ctx: slotline.Context, pages: list[Page]):
    print("printed")
    print("to stderr", file=sys.stderr)
    ctx.progress(phase="begin", message="half a \ud83d name")
    for page in ctx.track(pages, unit="pages"):
        ctx.log.info("rendered", page=page.number)
    ctx.log.error("almost")
    return {"titles": [page.title for page in pages], "attempt": ctx.attempt, "of": slotline.current().execution_id}


@app.action("py.fails")
async def fails(how: str):
    if how == "by-code":
        raise slotline.Fail("out_of_paper", "no more pages", details={"left": 0})
    if how == "by-bug":
        return 1 / 0
    if how == "no-json":
        return {1, 2}
    if how == "huge":
        return "x" * (9 << 20)
    return float(how)


@app.action("py.waits")
async def waits(ctx, tag="-"):
    ctx.progress(message=f"{tag} waits")
    await asyncio.sleep(600)


@app.action("py.dies")
def dies():
    os._exit(3)


@app.action("py.spins")
def spins(ctx, tag="-"):
    """Holds the interpreter's lock for minutes: no other thread of the process does anything meanwhile."""
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with open(os.environ["STAMPS"], "ab", buffering=0) as file:
        file.write(f"start {ctx.execution_id} {ctx.grant} {ctx.fence} {now} {tag} {os.getpid()}\n".encode())
    re.match(r"(a+)+$", "a" * 40 + "b")
