"""The socket between this process and its worker: `slotline-handler/1`, one JSON object a line."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

PROTOCOL = 1
DESCRIPTOR = "SLOTLINE_HANDLER_FD"
#: The longest line, without its newline.
LINE_BYTES_MAX = 8 << 20


class NotAWorker(Exception):
    """This process was not started by a worker."""


class TooLarge(Exception):
    """A line would be longer than the protocol allows."""


class Wire:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        # A process that is forked off must not hold the socket: the worker sees the end of this one by it.
        os.register_at_fork(after_in_child=connection.close)

    @classmethod
    def inherited(cls) -> Wire:
        """The socket that the worker has handed over, out of the reach of whatever this process starts."""
        descriptor = os.environ.pop(DESCRIPTOR, None)
        if descriptor is None:
            raise NotAWorker(f"{DESCRIPTOR} is not set: `slotline worker` or `slotline dev` starts this program")
        connection = socket.socket(fileno=os.dup(int(descriptor)))
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, int(descriptor))
        os.close(nothing)
        return cls(connection)

    def send(self, members: dict[str, Any]) -> None:
        """Raises `TooLarge`, or what `json` raises, before anything is sent; a worker that is gone is no error."""
        text = json.dumps(members, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        # Half a surrogate, as in the names of some files, is no text for other languages.
        line = text.encode("utf-8", "replace")
        if len(line) > LINE_BYTES_MAX:
            raise TooLarge(f"{len(line)} bytes")
        try:
            with self._sending:
                self._connection.sendall(line + b"\n")
        except OSError:
            pass

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the worker sends, until it closes its end."""
        with self._connection.makefile("rb") as stream:
            for line in stream:
                yield json.loads(line)
