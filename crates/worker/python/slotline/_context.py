"""What a function of an action gets: its identity, whether it should end, and ways to report."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

T = TypeVar("T")

#: Between two reports of `Context.track`.
TRACK_EVERY = 0.2

_current: contextvars.ContextVar["Context"] = contextvars.ContextVar("slotline.current")


class Cancelled(Exception):
    """The attempt is to end. Raised by `Context.raise_if_cancelled`; a function lets it pass."""


class Fail(Exception):
    """Fails the attempt with a code of the function's own, and without a stack trace."""

    def __init__(self, code: str, message: str = "", *, details: Any = None) -> None:
        super().__init__(message or code)
        self.code, self.message, self.details = code, message or code, details


class Context:
    """One attempt. May be used from any thread or task."""

    def __init__(self, start: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        self._id: str = start["id"]
        self._send = send
        self._cancelled = threading.Event()
        self.execution_id: int = start["execution_id"]
        #: As people count attempts, from 1.
        self.attempt: int = start["attempt"]
        #: The number of the grant: each grant of the execution has its own, also one that did not come to an attempt.
        self.grant: int = int(self._id.partition(":")[2])
        #: Rises with every grant of a slot: pass it to whatever this attempt writes to, so that an older attempt can be
        #: refused.
        self.fence: int = start["fence"]
        self.action_ref: str = start["action_ref"]
        self.parameters: dict[str, Any] = start.get("parameters") or {}
        self.correlation_id: str | None = start.get("correlation_id")
        self.trace_id: str | None = start.get("trace_id")
        self.log = Log(self)

    @property
    def is_cancelled(self) -> bool:
        """The attempt is to end: by order, by a time-out, or because the worker is drained."""
        return self._cancelled.is_set()

    def raise_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        """Sleeps, and raises `Cancelled` as soon as the attempt is to end."""
        if self._cancelled.wait(seconds):
            raise Cancelled

    def progress(
        self,
        done: int | None = None,
        total: int | None = None,
        *,
        unit: str | None = None,
        message: str | None = None,
        phase: str | None = None,
        step: tuple[int, int] | None = None,
        percent: float | None = None,
        level: str | None = None,
        data: Any = None,
    ) -> None:
        """Reports progress, at any rate: the worker merges what is too much. Never fails the attempt."""
        report = {
            "progress": None if done is None else [done, total],
            "unit": unit,
            "message": message,
            "phase": phase,
            "step": None if step is None else list(step),
            "percent": percent,
            "level": level,
            "data": data,
        }
        self._line("progress", report={name: value for name, value in report.items() if value is not None})

    def track(
        self, items: Iterable[T], *, total: int | None = None, unit: str | None = None, message: str | None = None
    ) -> Iterator[T]:
        """Passes the items through and reports how many are done, five times a second at most."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        done, reported_at = 0, float("-inf")
        if message is not None:
            self.progress(0, total, unit=unit, message=message)
        for item in items:
            yield item
            done += 1
            now = time.monotonic()
            if now - reported_at >= TRACK_EVERY or done == total:
                reported_at = now
                self.progress(done, total, unit=unit)

    def _line(self, kind: str, **members: Any) -> None:
        self._send({"type": kind, "id": self._id, **members})


class Log:
    """Lines for the log of the attempt."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def info(self, message: str, **fields: Any) -> None:
        self._write("info", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        self._write("warning", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        text = " ".join([message, *(f"{name}={value}" for name, value in fields.items())])
        self._context._line("log", level=level, message=text)


class LogHandler(logging.Handler):
    """Passes records of `logging` to the attempt in whose function they are made: `logging.getLogger().addHandler(...)`."""

    def emit(self, record: logging.LogRecord) -> None:
        context = _current.get(None)
        if context is None:
            return
        try:
            context._line("log", level=record.levelname.lower(), message=self.format(record))
        except Exception:
            self.handleError(record)


def current() -> Context:
    """The attempt in whose function this is called."""
    return _current.get()
