"""The process of an app, with this test as its worker; and functions with nothing running."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import threading
import unittest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import slotline
from slotline import testing
from slotline._wire import Wire

app = slotline.App(concurrency=3)
GATE = threading.Event()


@app.action("test.add")
def add(ctx: slotline.Context, a: int, b: int = 1) -> int:
    ctx.progress(a, b, message="adding")
    return a + b


@app.action("test.waits")
def waits(ctx: slotline.Context) -> None:
    ctx.wait(60)


@app.action("test.gated")
def gated() -> None:
    GATE.wait(60)


@app.action("test.sleeps")
async def sleeps(ctx: slotline.Context) -> None:
    ctx.log.info("asleep", seconds=60)
    await asyncio.sleep(60)


@app.action("test.tracks")
def tracks(ctx: slotline.Context) -> int:
    logging.getLogger("test").warning("of %s", "logging")
    return sum(ctx.track(range(1000), unit="numbers"))


@app.action("test.unfit")
def unfit(ctx: slotline.Context) -> object:
    ctx.progress(data=object())
    return object()


class AsWorker(unittest.TestCase):
    """Every wait has a deadline: the socket's."""

    def setUp(self) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(60)
        self.socket, self.stream = ours, ours.makefile("rb")
        self.app = threading.Thread(target=app.serve, args=(Wire(theirs),), daemon=True)
        self.app.start()
        self.hello = self.read()

    def tearDown(self) -> None:
        self.stream.close()
        self.socket.close()

    def read(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.stream.readline())
        return line

    def until(self, kind: str, attempt: str) -> dict[str, Any]:
        while True:
            line = self.read()
            if (line["type"], line.get("id")) == (kind, attempt):
                return line

    def send(self, **members: Any) -> None:
        self.socket.sendall(json.dumps(members).encode() + b"\n")

    def start(self, number: int, action: str, **parameters: Any) -> str:
        self.send(
            type="start", id=f"{number}:1", execution_id=number, attempt=1, fence=number, action_ref=f"test.{action}",
            parameters=parameters,
        )
        return f"{number}:1"

    def test_it_introduces_itself_with_its_actions(self) -> None:
        self.assertEqual((self.hello["type"], self.hello["protocol"], self.hello["concurrency"]), ("hello", 1, 3))
        self.assertEqual(sorted(self.hello["actions"])[0], "test.add")

    def test_an_attempt_is_started_reported_and_completed_in_this_order(self) -> None:
        attempt = self.start(7, "add", a=1, b=2)
        self.assertEqual(self.read(), {"type": "started", "id": attempt})
        report = {"progress": [1, 2], "message": "adding"}
        self.assertEqual(self.read(), {"type": "progress", "id": attempt, "report": report})
        self.assertEqual(self.read(), {"type": "completed", "id": attempt, "result": 3})

    def test_attempts_run_beside_each_other_and_each_is_cancelled_alone(self) -> None:
        first, second = self.start(1, "waits"), self.start(2, "sleeps")
        self.until("completed", self.start(3, "add", a=1))
        for attempt in (second, first):
            self.send(type="cancel", id=attempt, grace_ms=1000)
            self.until("cancelled", attempt)
        self.send(type="cancel", id=first, grace_ms=1000)
        self.until("completed", self.start(4, "add", a=1))

    def test_a_report_or_result_that_is_no_json_does_not_end_the_process(self) -> None:
        attempt = self.start(1, "unfit")
        self.assertIn("a report is left out", self.until("log", attempt)["message"])
        self.assertEqual(self.until("failed", attempt)["error"]["code"], "handler_error")
        self.until("completed", self.start(2, "add", a=1))

    def test_drained_it_finishes_what_it_has_and_ends(self) -> None:
        attempt = self.start(1, "gated")
        self.until("started", attempt)
        self.send(type="drain")
        GATE.set()
        self.until("completed", attempt)
        self.app.join(60)
        self.assertFalse(self.app.is_alive())

    def test_it_ends_with_its_worker(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)
        self.app.join(60)
        self.assertFalse(self.app.is_alive())


class Alone(unittest.TestCase):
    def test_a_function_is_run_with_nothing_running(self) -> None:
        outcome = testing.run(app, "test.add", a=2)
        self.assertEqual((outcome.status, outcome.result), ("completed", 3))
        self.assertEqual(outcome.progress, [{"progress": [2, 1], "message": "adding"}])
        wrong = testing.run(app, "test.add", a="2")
        self.assertEqual((wrong.status, (wrong.error or {})["code"]), ("failed", "invalid_parameters"))

    def test_cancellations_reach_plain_and_async_functions(self) -> None:
        self.assertEqual(testing.run(app, "test.waits", cancel_after=0.01).status, "cancelled")
        outcome = testing.run(app, "test.sleeps", cancel_after=0.01)
        self.assertEqual((outcome.status, outcome.logs), ("cancelled", [("info", "asleep seconds=60")]))

    def test_tracking_reports_the_end_and_seldom_before_and_logging_is_passed_on(self) -> None:
        handler = slotline.LogHandler()
        logging.getLogger("test").addHandler(handler)
        try:
            outcome = testing.run(app, "test.tracks")
        finally:
            logging.getLogger("test").removeHandler(handler)
        self.assertEqual(outcome.result, sum(range(1000)))
        self.assertEqual(outcome.progress[-1], {"progress": [1000, 1000], "unit": "numbers"})
        self.assertLess(len(outcome.progress), 1000)
        self.assertEqual(outcome.logs, [("warning", "of logging")])

    def test_an_action_has_one_function(self) -> None:
        with self.assertRaisesRegex(ValueError, "test.add has a function already"):
            app.action("test.add")(lambda: None)


if __name__ == "__main__":
    unittest.main()
