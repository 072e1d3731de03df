"""A client of the HTTP API, with the standard library.

    client = Client("http://127.0.0.1:7070")
    execution = client.submit("report.render", {"customer": "x"})
    for event in execution.watch():
        print(event["number"], event["kind"])
    print(execution.wait())
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any

#: Between two tries while no executor answers; doubles up to the second number.
RETRY_AFTER, RETRY_AFTER_MAX = 0.1, 5.0
#: An answer comes within this many seconds, and so does the next line of a stream.
ANSWER_WITHIN = 45.0


class Refused(Exception):
    """The API refused a request: `code` is one of its documented codes."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.status: int = status
        self.code: str = error.get("code", "")
        self.field: str | None = error.get("field")
        self.details: Any = error.get("details")


class Failed(Exception):
    """An execution ended otherwise than `completed`."""

    def __init__(self, execution: dict[str, Any]) -> None:
        error = execution.get("error") or {}
        super().__init__(f"execution {execution['execution_id']} ({execution['status']}): {error.get('message', '')}")
        self.status: str = execution["status"]
        self.error: dict[str, Any] = error
        self.execution = execution


class Client:
    """`give_up_after`: how many seconds a call tries again while no executor answers."""

    def __init__(self, url: str | None = None, *, token: str | None = None, give_up_after: float = 60.0) -> None:
        self.url = (url or os.environ.get("SLOTLINE_API_URL") or "http://127.0.0.1:7070").rstrip("/")
        self.token = token if token is not None else os.environ.get("SLOTLINE_API_TOKEN")
        self.give_up_after = give_up_after

    def submit(
        self,
        action_ref: str,
        parameters: dict[str, Any] | None = None,
        *,
        message_id: str | None = None,
        **members: Any,
    ) -> Execution:
        """Submits once, however often it has to be sent: under `message_id`, or one that is made. `members` are the
        further ones of a request, such as `concurrency_key`."""
        name = message_id or str(uuid.uuid4())
        body = {"action_ref": action_ref, "parameters": parameters or {}, **members}
        answer = self._call("POST", "/api/v1/executions", body, {"Idempotency-Key": name})["data"]
        deadline = time.monotonic() + self.give_up_after
        while "execution_id" not in answer:
            # The broker has it, and no executor leads at the moment.
            if time.monotonic() > deadline:
                raise TimeoutError(f"no executor has taken the request {name} yet; it will run")
            time.sleep(RETRY_AFTER)
            try:
                answer = self._call("GET", f"/api/v1/requests/{urllib.parse.quote(name, safe='')}")["data"]
            except Refused as error:
                if error.code != "unknown_request":
                    raise
        return Execution(self, answer["execution_id"])

    def run(self, action_ref: str, parameters: dict[str, Any] | None = None, **members: Any) -> Any:
        """Submits, waits, and returns the result; raises `Failed` for any other end than `completed`."""
        return self.submit(action_ref, parameters, **members).wait()

    def execution(self, execution_id: int) -> Execution:
        return Execution(self, execution_id)

    def _call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The `data` of the answer. Sent again while no executor answers: everything it is used for may come twice."""
        data = None if body is None else json.dumps(body).encode()
        given = {"Content-Type": "application/json", "Accept": "application/json", **(headers or {})}
        deadline, after = time.monotonic() + self.give_up_after, RETRY_AFTER
        while True:
            try:
                with self._open(method, path, data, given) as response:
                    return json.load(response)
            except Refused as error:
                if error.status not in (429, 503) or time.monotonic() + after > deadline:
                    raise
            except (OSError, HTTPException):
                if time.monotonic() + after > deadline:
                    raise
            time.sleep(after)
            after = min(2 * after, RETRY_AFTER_MAX)

    def _open(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> HTTPResponse:
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            response: HTTPResponse = urllib.request.urlopen(request, timeout=ANSWER_WITHIN)
            return response
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
            try:
                members = json.loads(text)["error"]
            except (ValueError, KeyError, TypeError):
                members = {"code": "", "message": text.decode("utf-8", "replace")[:200]}
            raise Refused(error.code, members) from None


class Execution:
    """One execution of the API's."""

    def __init__(self, client: Client, execution_id: int) -> None:
        self.client, self.id = client, execution_id

    def get(self) -> dict[str, Any]:
        """The execution as it stands."""
        data: dict[str, Any] = self.client._call("GET", f"/api/v1/executions/{self.id}")["data"]
        return data

    def wait(self) -> Any:
        """The result, once it has completed; raises `Failed` for any other end."""
        for _ in self.watch():
            pass
        execution = self.get()
        if execution["status"] != "completed":
            raise Failed(execution)
        return execution.get("result")

    def cancel(self, reason: str | None = None) -> str:
        """The status that it has then. What has ended is left as it is."""
        body = {} if reason is None else {"reason": reason}
        status: str = self.client._call("POST", f"/api/v1/executions/{self.id}/cancel", body)["data"]["status"]
        return status

    def watch(self, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """Every event of its record from that number on, each once, to its end; a stream that breaks is resumed."""
        deadline, pause = time.monotonic() + self.client.give_up_after, RETRY_AFTER
        while True:
            try:
                for event in self._stream(after):
                    after, pause = event["number"], RETRY_AFTER
                    deadline = time.monotonic() + self.client.give_up_after
                    yield event
                    if event["kind"] == "settled":
                        return
            except Ended:
                return
            except Refused as error:
                if error.status not in (429, 503) or time.monotonic() + pause > deadline:
                    raise
            except (OSError, HTTPException):
                if time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, RETRY_AFTER_MAX)

    def _stream(self, after: int) -> Iterator[dict[str, Any]]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        with self.client._open("GET", f"/api/v1/executions/{self.id}/events", None, headers) as response:
            if response.status == 204:
                raise Ended
            kind = data = ""
            for line in response:
                name, _, value = line.decode().rstrip("\r\n").partition(":")
                value = value.removeprefix(" ")
                if name == "event":
                    kind = value
                elif name == "data":
                    data = value
                elif name == "" and data:
                    if kind == "reset":
                        return
                    yield json.loads(data)
                    kind = data = ""


class Ended(Exception):
    """The record has nothing after that number."""
