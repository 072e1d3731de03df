"""What the Python scripts share: the clock, records of jobs, rounds, and one JSON line a figure.

A record is (line, n, start, end): its line, its place among all jobs, and when its handler began and ended, in nanoseconds
of the monotonic clock. Processes that run jobs append theirs to a file each, below RIVALS_RECORDS. A figure has the fields of
`../compare/figure.rs`.
"""

import glob
import json
import os
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
AMQP = "amqp://guest:guest@127.0.0.1:26672/"
POSTGRES = "postgresql://postgres@127.0.0.1:25432/"
REDIS = "redis://127.0.0.1:26379/0"

# A trial divides all sizes, to see that the scripts work; its figures mean nothing.
DIVISOR = int(os.environ.get("RIVALS_DIVISOR", "1"))
# Rounds are repeated until they have taken this long together.
FLOOR_SECONDS = 3 / DIVISOR
# How long a round may take.
PATIENCE = 240
# The line of jobs that only show that a worker is there.
PROBE = -1

RECORD = struct.Struct("<qqqq")
RECORDS = os.environ.setdefault(
    "RIVALS_RECORDS", os.path.join(os.environ.get("RIVALS_DATA") or "/tmp/slotline-rivals", "records")
)
_files = {}


def sized(count):
    return max(count // DIVISOR, 1)


def wants(measure):
    """Whether the command line wants a measure; all, where it names none."""
    return len(sys.argv) < 2 or measure in sys.argv[1:]


def job(line, n, ms=0, us=0):
    """A handler: its stamps, and nothing else but the wait, or spinning until it has taken `us` microseconds."""
    start = time.monotonic_ns()
    if ms:
        time.sleep(ms / 1e3)
    while time.monotonic_ns() - start < us * 1000:
        # What else this process has to do is done meanwhile.
        time.sleep(0)
    end = time.monotonic_ns()
    process = os.getpid()
    if process not in _files:
        # One that was forked must not write to the file of its parent.
        _files.clear()
        path = os.path.join(RECORDS, f"{process}.records")
        _files[process] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(_files[process], RECORD.pack(line, n, start, end))


def _paths():
    return glob.glob(os.path.join(RECORDS, "*.records"))


def forget():
    os.makedirs(RECORDS, exist_ok=True)
    for path in _paths():
        os.unlink(path)


def ran():
    """How many jobs have been recorded, probes among them."""
    return sum(os.path.getsize(path) for path in _paths()) // RECORD.size


def recorded():
    found = []
    for path in _paths():
        with open(path, "rb") as file:
            found += RECORD.iter_unpack(file.read())
    return [record for record in found if record[0] != PROBE]


def until(holds, patience=PATIENCE):
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > patience:
            return False
        time.sleep(0.005)
    return True


def cpu():
    """User and system seconds of the servers so far, and of this process with the children it has waited for."""
    said = subprocess.check_output([os.path.join(HERE, "servers.sh"), "cpu"]).decode().split()
    postgres, rabbitmq, redis = map(float, said)
    return {"postgres": postgres, "rabbitmq": rabbitmq, "redis": redis, "process": sum(os.times()[:4])}


def percentiles(nanoseconds):
    if not nanoseconds:
        return {}
    values = sorted(nanoseconds)
    at = {"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999, "max_us": 1}
    shares = {name: round(values[int((len(values) - 1) * share)] / 1e3, 1) for name, share in at.items()}
    return {"mean_us": round(sum(values) / len(values) / 1e3, 1)} | shares


def lines(records):
    """What lines with one slot each show: starts out of order, starts before an end, and the pauses between."""
    by_line = {}
    for line, n, start, end in records:
        by_line.setdefault(line, []).append((start, n, end))
    order_violations, overlaps, pauses = 0, 0, []
    for line in by_line.values():
        line.sort()
        for before, after in zip(line, line[1:]):
            order_violations += after[1] < before[1]
            if after[0] < before[2]:
                overlaps += 1
            else:
                pauses.append(after[0] - before[2])
    return order_violations, overlaps, pauses


def show(figure):
    print(json.dumps(figure), flush=True)


class Tally:
    """Rounds of one figure. `begun` of a round is None where the first start counts as the beginning."""

    def __init__(self, system, measure, case, in_lines=False, pauses=False):
        self.figure = {"system": system, "measure": measure, "case": case}
        self.in_lines, self.wants_pauses = in_lines, pauses
        self.seconds, self.rounds, self.n, self.took = 0, 0, 0, 0
        self.order_violations, self.overlaps, self.pauses, self.more = 0, 0, [], {}
        self.before = cpu()

    def is_short(self):
        return self.seconds < FLOOR_SECONDS

    def add(self, records, begun=None, **more):
        if not records:
            raise RuntimeError(f"{self.figure}: nothing ran")
        begun = begun or min(record[2] for record in records)
        self.seconds += (max(record[3] for record in records) - begun) / 1e9
        self.rounds += 1
        self.n += len(records)
        self.took += sum(end - start for _, _, start, end in records)
        self.more |= more
        order_violations, overlaps, pauses = lines(records)
        self.order_violations += order_violations
        self.overlaps += overlaps
        self.pauses += pauses

    def show(self):
        after = cpu()
        figure = self.figure | {
            "n": self.n,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 2),
            "per_second": round(self.n / self.seconds),
        }
        if self.wants_pauses:
            figure |= percentiles(self.pauses)
            self.more["handler_us"] = round(self.took / self.n / 1e3, 1)
        if self.in_lines:
            figure |= {"order_violations": self.order_violations, "overlaps": self.overlaps}
        figure["cpu_seconds"] = {who: round(after[who] - self.before[who], 2) for who in after}
        show(figure | {"more": self.more})


def show_idle(system, case, took):
    """L: nanoseconds from sending a job to its start, on an idle system."""
    show({"system": system, "measure": "L", "case": case, "n": len(took)} | percentiles(took))
