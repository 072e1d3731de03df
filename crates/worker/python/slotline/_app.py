"""The functions of the actions, and the process that runs them for a worker.

The main thread reads what the worker sends. Each attempt of a plain function has a thread of its own, those of async
functions are tasks on one loop; so a function that blocks delays neither a cancellation nor another attempt.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import inspect
import io
import json
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ._context import Cancelled, Context, Fail, _current
from ._parameters import InvalidParameters, Signature
from ._wire import PROTOCOL, TooLarge, Wire

F = TypeVar("F", bound=Callable[..., Any])


class Action:
    """A function with what it takes."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name, self.function = name, function
        self.signature = Signature(function, Context)
        self.is_async = inspect.iscoroutinefunction(function)

    def call(self, context: Context) -> Any:
        arguments = self.signature.bind(context.parameters)
        return self.function(context, **arguments) if self.signature.takes_context else self.function(**arguments)


class App:
    """The actions of one handler process. `concurrency` is the most attempts at once that it takes."""

    def __init__(self, *, concurrency: int | None = None) -> None:
        self.concurrency = concurrency
        self.actions: dict[str, Action] = {}

    def action(self, name: str) -> Callable[[F], F]:
        """Serves the action of that name with the decorated function, plain or async."""

        def register(function: F) -> F:
            if name in self.actions:
                raise ValueError(f"{name} has a function already")
            self.actions[name] = Action(name, function)
            return function

        return register

    def serve(self, wire: Wire | None = None) -> int:
        """Serves the worker that started this process; returns once the worker has no more work for it."""
        wire = wire or Wire.inherited()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # What is printed belongs to the attempt that runs, so it must not wait in a buffer for the next one.
            sys.stdout.reconfigure(line_buffering=True)
        return Server(self, wire).run()


class Server:
    def __init__(self, app: App, wire: Wire) -> None:
        self._app, self._wire = app, wire
        self._open: dict[str, tuple[Context, Callable[[], object]]] = {}
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> int:
        hello: dict[str, Any] = {
            "type": "hello",
            "protocol": PROTOCOL,
            "sdk": "slotline-python/0.1",
            "actions": list(self._app.actions),
        }
        if self._app.concurrency is not None:
            hello["concurrency"] = self._app.concurrency
        self._wire.send(hello)
        for line in self._wire.lines():
            kind = line.get("type")
            if kind == "start":
                self._start(line)
            elif kind == "cancel":
                self._cancel(line["id"])
            elif kind == "ping":
                self._wire.send({"type": "pong", "n": line.get("n", 0)})
            elif kind == "drain":
                break
        with self._changed:
            self._changed.wait_for(lambda: not self._open)
        return 0

    def _start(self, start: dict[str, Any]) -> None:
        context = Context(start, self._send_report)
        action = self._app.actions[start["action_ref"]]
        if action.is_async:
            self._start_task(action, context)
        else:
            with self._changed:
                self._open[start["id"]] = (context, lambda: None)
            threading.Thread(target=self._thread, args=(action, context), name=start["id"], daemon=True).start()

    def _thread(self, action: Action, context: Context) -> None:
        contextvars.copy_context().run(self._run, action, context)

    def _run(self, action: Action, context: Context) -> None:
        _current.set(context)
        self._wire.send({"type": "started", "id": context._id})
        try:
            end = completed(action.call(context))
        except BaseException as error:
            end = failed(error)
        self._end(context, end)

    def _start_task(self, action: Action, context: Context) -> None:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="slotline-async", daemon=True).start()
        loop = self._loop
        with self._changed:
            # Under the lock: it can't end before it is in the table.
            begun = asyncio.run_coroutine_threadsafe(self._task(action, context), loop)
            self._open[context._id] = (context, begun.cancel)

    async def _task(self, action: Action, context: Context) -> None:
        _current.set(context)
        self._wire.send({"type": "started", "id": context._id})
        try:
            coroutine: Coroutine[Any, Any, Any] = action.call(context)
            end = completed(await coroutine)
        except BaseException as error:
            end = failed(error)
        self._end(context, end)

    def _cancel(self, attempt: str) -> None:
        with self._changed:
            entry = self._open.get(attempt)
        if entry is not None:
            context, cancel = entry
            context._cancelled.set()
            cancel()

    def _send_report(self, members: dict[str, Any]) -> None:
        try:
            self._wire.send(members)
        except (TooLarge, TypeError, ValueError) as error:
            # A report never fails its attempt.
            message = f"a report is left out: {error}"
            self._wire.send({"type": "log", "id": members["id"], "level": "warning", "message": message})

    def _end(self, context: Context, end: dict[str, Any]) -> None:
        try:
            self._wire.send({**end, "id": context._id})
        except TooLarge as error:
            too_large = {"code": "result_too_large", "message": f"the result is too large for a message: {error}"}
            self._wire.send({"type": "failed", "id": context._id, "error": too_large})
        with self._changed:
            self._open.pop(context._id, None)
            self._changed.notify_all()


def completed(result: Any) -> dict[str, Any]:
    """The last line of an attempt whose function has returned."""
    try:
        # Once more than needed, so that an error is the function's and not the line's.
        plain = json.loads(json.dumps(result, allow_nan=False, default=_as_json))
        return {"type": "completed", "result": plain}
    except (TypeError, ValueError, RecursionError) as error:
        return _failure("handler_error", f"the result is no JSON: {error}")


def failed(error: BaseException) -> dict[str, Any]:
    """The last line of an attempt whose function has raised."""
    if isinstance(error, (Cancelled, asyncio.CancelledError)):
        return {"type": "cancelled"}
    if isinstance(error, InvalidParameters):
        return _failure("invalid_parameters", str(error))
    if isinstance(error, Fail):
        return _failure(error.code, error.message, details=_details(error.details))
    # Without the frames of this library.
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    stack_trace = "".join(["Traceback (most recent call last):\n", *traceback.format_list(own)])
    message = "".join(traceback.format_exception_only(type(error), error)).strip()
    return _failure("handler_error", message, stack_trace=stack_trace + message)


def _failure(code: str, message: str, **members: Any) -> dict[str, Any]:
    given = {name: value for name, value in members.items() if value is not None}
    return {"type": "failed", "error": {"code": code, "message": message, **given}}


def _details(details: Any) -> Any:
    if details is None:
        return None
    try:
        return json.loads(json.dumps(details, allow_nan=False, default=_as_json))
    except (TypeError, ValueError, RecursionError):
        return repr(details)


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no JSON")
