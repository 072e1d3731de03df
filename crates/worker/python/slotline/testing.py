"""A function of an action in a test, with nothing running: `outcome = run(app, "report.render", customer="x")`."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Any

from ._app import Action, App, completed, failed
from ._context import Context, _current


@dataclass
class Outcome:
    """How the attempt ended, and what it reported."""

    status: str
    result: Any = None
    error: dict[str, Any] | None = None
    progress: list[dict[str, Any]] = field(default_factory=list)
    logs: list[tuple[str, str]] = field(default_factory=list)


def run(app: App, action_ref: str, *, cancel_after: float | None = None, attempt: int = 1, **parameters: Any) -> Outcome:
    """Runs the action once. With `cancel_after` it is asked to end after so many seconds."""
    outcome = Outcome("failed")

    def take(line: dict[str, Any]) -> None:
        if line["type"] == "progress":
            outcome.progress.append(line["report"])
        elif line["type"] == "log":
            outcome.logs.append((line["level"], line["message"]))

    start = {"id": "1:1", "execution_id": 1, "attempt": attempt, "fence": 1, "action_ref": action_ref, "parameters": parameters}
    context, action = Context(start, take), app.actions[action_ref]
    token = _current.set(context)
    try:
        end = _run_async(action, context, cancel_after) if action.is_async else _run(action, context, cancel_after)
    finally:
        _current.reset(token)
    outcome.status = end["type"]
    outcome.result, outcome.error = end.get("result"), end.get("error")
    return outcome


def _run(action: Action, context: Context, cancel_after: float | None) -> dict[str, Any]:
    timer = threading.Timer(cancel_after or 0, context._cancelled.set)
    if cancel_after is not None:
        timer.start()
    try:
        return completed(action.call(context))
    except Exception as error:
        return failed(error)
    finally:
        timer.cancel()


def _run_async(action: Action, context: Context, cancel_after: float | None) -> dict[str, Any]:
    def cancel(task: asyncio.Future[Any]) -> None:
        context._cancelled.set()
        task.cancel()

    async def attempt() -> Any:
        task = asyncio.ensure_future(action.call(context))
        if cancel_after is not None:
            asyncio.get_running_loop().call_later(cancel_after, cancel, task)
        return await task

    try:
        return completed(asyncio.run(attempt()))
    except (Exception, asyncio.CancelledError) as error:
        return failed(error)
