"""A command that reports how far it has come, and knows nothing of Slotline but a socket for lines of JSON.

report.py GATES

Its parameters, on stdin, are {"steps": [...]}, or {"attempts": [[...], ...]} with other steps for each attempt. A step
is an object with one member, named after one of the functions of `Run`. Where it waits, it waits for a file in the
folder GATES, which the test makes. Its result has how many lines it wrote and the longest that one write took.
"""

import json
import os
import socket
import sys
import time

GIVE_UP_AFTER = 120  # seconds before a gate
LOOK_EVERY = 0.005  # seconds
TOGETHER = 500  # lines of a flood in one write


class Run:
    def __init__(self, gates):
        self.gates, self.written, self.longest = gates, 0, 0.0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(os.environ["SLOTLINE_PROGRESS_SOCKET"])

    def write(self, data, lines=1):
        begun = time.monotonic()
        self.socket.sendall(data)
        self.longest = max(self.longest, time.monotonic() - begun)
        self.written += lines

    def is_open(self, gate):
        return os.path.exists(os.path.join(self.gates, gate))

    def report(self, members):
        self.write(json.dumps(members).encode() + b"\n")

    def hex(self, text):
        """Bytes as they stand."""
        self.write(bytes.fromhex(text))

    def huge(self, size):
        """One line with a message of so many bytes."""
        self.write(b'{"message": "' + b"x" * size + b'"}\n')

    def out(self, text):
        print(text, flush=True)

    def err(self, text):
        print(text, file=sys.stderr, flush=True)

    def wait(self, gate):
        deadline = time.monotonic() + GIVE_UP_AFTER
        while not self.is_open(gate):
            if time.monotonic() > deadline:
                sys.exit(f"nobody opened {gate}")
            time.sleep(LOOK_EVERY)

    def sleep(self, seconds):
        time.sleep(seconds)

    def count(self, how):
        """Numbers only, one by one: {"to", "every", "padding"?}."""
        for done in range(1, how["to"] + 1):
            self.report({"progress": [done, how["to"]], "unit": "Steps", "data": "x" * how.get("padding", 0)})
            time.sleep(how["every"])

    def talk(self, how):
        """Messages one after the other until a gate opens; some of them errors, some with a new phase."""
        n = 0
        while not self.is_open(how["until"]):
            n += 1
            members = {"message": f"n {n}"}
            if n % 10 == 0:
                members["level"] = "error"
            if n % 7 == 0:
                members["phase"] = f"phase {n}"
            self.report(members)
            time.sleep(how["every"])

    def flood(self, how):
        """So many messages a second, or as many as the socket takes, until a gate opens: {"until", "rate"}."""
        begun = time.monotonic()
        while not self.is_open(how["until"]):
            due = begun + self.written / how["rate"]
            time.sleep(max(0.0, due - time.monotonic()))
            next = self.written + 1
            lines = (b'{"message": "n %d"}\n' % n for n in range(next, next + TOGETHER))
            self.write(b"".join(lines), TOGETHER)

    def exit(self, code):
        sys.exit(code)


def main():
    parameters = json.load(sys.stdin)
    attempts = parameters.get("attempts") or [parameters["steps"]]
    run = Run(sys.argv[1])
    for step in attempts[min(int(os.environ["SLOTLINE_ATTEMPT"]), len(attempts)) - 1]:
        ((what, how),) = step.items()
        getattr(run, what)(how)
    with open(os.environ["SLOTLINE_RESULT_FILE"], "w") as result:
        json.dump({"written": run.written, "longest": run.longest}, result)


main()
