"""A handler process that breaks the rules of `slotline-handler/1`: strays.py WAY, one of the functions of `Stray`.

It knows nothing of the library: a socket, and lines of JSON.
"""

import json
import os
import socket
import sys
import time


class Stray:
    def __init__(self, way):
        self.socket = socket.socket(fileno=os.dup(int(os.environ["SLOTLINE_HANDLER_FD"])))
        self.stream = self.socket.makefile("rb")
        self.way = way

    def send(self, **members):
        self.write(json.dumps(members).encode() + b"\n")

    def write(self, data):
        self.socket.sendall(data)

    def hello(self, **members):
        self.send(**{"type": "hello", "protocol": 1, "actions": [f"stray.{self.way}"], **members})
        return json.loads(self.stream.readline())

    def start(self):
        while True:
            line = json.loads(self.stream.readline())
            if line["type"] == "start":
                return line["id"]

    def serve(self):
        self.hello()
        while True:
            getattr(self, self.way)(self.start())

    def garbage(self, attempt):
        self.write(b"Traceback (most recent call last):\n")
        time.sleep(600)

    def half(self, attempt):
        self.write(b'{"type":"log","id":"%s","message":"\xf0\x9f"}\n' % attempt.encode())
        time.sleep(600)

    def broken(self, attempt):
        self.write(b'{"type":"comple')
        sys.exit(0)

    def endless(self, attempt):
        """One line without an end."""
        while True:
            self.write(b"x" * (1 << 20))

    def twice(self, attempt):
        self.send(type="completed", id=attempt, result="first")
        self.send(type="completed", id=attempt, result="second")
        self.send(type="failed", id=attempt, error={"code": "late", "message": "third"})

    def another(self, attempt):
        """Answers for an attempt that it does not have, before its own."""
        self.send(type="completed", id="1:1", result="not mine")
        self.send(type="completed", id=attempt, result="mine")

    def unknown(self, attempt):
        """Members and types that a newer library may have."""
        self.send(type="x-metrics", whatever=[1])
        self.send(type="completed", id=attempt, result="known", more={"a": 1})

    def exits(self, attempt):
        """Its last line is read though it has ended."""
        self.send(type="completed", id=attempt, result="last words")
        sys.exit(0)

    def forks(self, attempt):
        """Leaves a process behind that holds the socket."""
        if os.fork() == 0:
            time.sleep(600)
        os._exit(4)

    def closes(self, attempt):
        self.socket.shutdown(socket.SHUT_RDWR)
        time.sleep(600)


def main():
    way = sys.argv[1]
    stray = Stray(way)
    if way == "mute":
        time.sleep(600)
    elif way == "newer":
        stray.hello(protocol=2)
        time.sleep(600)
    elif way == "absent":
        sys.exit("no module named reports")
    stray.serve()


main()
