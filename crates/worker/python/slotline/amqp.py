"""A publisher and a subscriber over RabbitMQ, with pika.

    with Publisher("amqp://publisher:secret@127.0.0.1/%2f") as publisher:
        publisher.submit("report.render", {"customer": "x"})
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import pika
import pika.exceptions

#: Between two tries while the broker does not answer.
TRY_AGAIN = 0.2
#: An answer of the broker is taken for a refusal that trying again does not change.
_DENIED = (
    pika.exceptions.ProbableAuthenticationError,
    pika.exceptions.ProbableAccessDeniedError,
    pika.exceptions.AuthenticationError,
)


class Unroutable(Exception):
    """The exchange has no queue for requests: no executor has been there yet."""


class _Link:
    """A connection that is built again when it breaks."""

    def __init__(self, urls: str | list[str], prefix: str, give_up_after: float) -> None:
        self._urls = [urls] if isinstance(urls, str) else list(urls)
        self.prefix, self.give_up_after = prefix, give_up_after
        self._connection: Any = None
        self._channel: Any = None

    def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None and connection.is_open:
            try:
                connection.close()
            except pika.exceptions.AMQPError:
                pass

    def channel(self) -> Any:
        if self._channel is None or not self._channel.is_open:
            self.close()
            # Each node of a cluster in turn.
            self._urls.append(self._urls.pop(0))
            self._connection = pika.BlockingConnection(pika.URLParameters(self._urls[-1]))
            self._channel = self._connection.channel()
            self.opened(self._channel)
        return self._channel

    def opened(self, channel: Any) -> None:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Publisher(_Link):
    """Publishes requests, each confirmed, and again under the same `message_id` where the confirm did not come."""

    def __init__(self, urls: str | list[str], *, prefix: str = "slotline", give_up_after: float = 60.0) -> None:
        super().__init__(urls, prefix, give_up_after)

    def __enter__(self) -> Publisher:
        return self

    def opened(self, channel: Any) -> None:
        channel.confirm_delivery()

    def submit(
        self, action_ref: str, parameters: dict[str, Any] | None = None, *, message_id: str | None = None, **members: Any
    ) -> str:
        """Returns the `message_id` once the broker has the request, which then runs once. `members` are the further
        ones of a request, such as `concurrency_key`."""
        name = message_id or str(uuid.uuid4())
        self._publish("execution.requested", name, {"action_ref": action_ref, "parameters": parameters or {}, **members})
        return name

    def cancel(self, message_id: str, reason: str | None = None) -> None:
        """Cancels the request of that name. It finds it, also where it was published right before."""
        payload = {"message_id": message_id} if reason is None else {"message_id": message_id, "reason": reason}
        self._publish("execution.cancel_requested", str(uuid.uuid4()), payload)

    def _publish(self, kind: str, name: str, payload: dict[str, Any]) -> None:
        body = json.dumps({"message_type": kind, "message_id": name, "payload": payload}).encode()
        properties = pika.BasicProperties(message_id=name, type=kind, content_type="application/json", delivery_mode=2)
        deadline = time.monotonic() + self.give_up_after
        while True:
            try:
                self.channel().basic_publish(f"{self.prefix}.executions", kind, body, properties, mandatory=True)
                return
            except pika.exceptions.UnroutableError as error:
                raise Unroutable(f"{self.prefix}.executions leads to no queue") from error
            except _DENIED:
                raise
            except (pika.exceptions.AMQPError, OSError):
                self.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(TRY_AGAIN)


class Subscriber(_Link):
    """Receives events. With a durable `queue` of that name none is missed while it is away, up to `length`; without one
    the broker names a queue that ends with the connection."""

    def __init__(
        self,
        urls: str | list[str],
        patterns: Iterable[str],
        *,
        queue: str = "",
        length: int = 100_000,
        prefix: str = "slotline",
        give_up_after: float = 60.0,
    ) -> None:
        super().__init__(urls, prefix, give_up_after)
        self._patterns, self._name, self._length = list(patterns), queue, length
        self._queue = ""

    def __enter__(self) -> Subscriber:
        """What is published from now on is received."""
        self.channel()
        return self

    def opened(self, channel: Any) -> None:
        if self._name:
            arguments = {"x-max-length": self._length, "x-overflow": "drop-head"}
            declared = channel.queue_declare(self._name, durable=True, arguments=arguments)
        else:
            declared = channel.queue_declare("", exclusive=True)
        self._queue = declared.method.queue
        for pattern in self._patterns:
            channel.queue_bind(self._queue, f"{self.prefix}.events", pattern)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The envelopes, for ever. Each is acknowledged once the next is asked for, so one that comes again after a
        failure has the `message_id` that it had."""
        deadline = time.monotonic() + self.give_up_after
        while True:
            try:
                channel = self.channel()
                for method, _, body in channel.consume(self._queue):
                    deadline = time.monotonic() + self.give_up_after
                    yield json.loads(body)
                    channel.basic_ack(method.delivery_tag)
            except _DENIED:
                raise
            except (pika.exceptions.AMQPError, OSError):
                self.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(TRY_AGAIN)
