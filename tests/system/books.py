"""A subscriber that keeps books of executions by their public events alone: Debian's python3-pika, and the standard library.

books.py URL

Binds a queue of its own to everything on the exchange of events and prints `listening`. For each line on its standard input
it prints its books as one line of JSON:

    ends     execution -> "status" or "status:error code", by execution.completed
    now      how many executions are in each status, by the moves in execution.status_changed; none that is gone
    holes    executions of which a number is missing
    repeats  messages whose message_id came before, which count once
    arrays   bodies that were no single envelope
    wrong    what contradicts what came before, in words
"""

import collections
import json
import select
import sys

import pika

EXCHANGE = "slotline.events"
ENDS = ("completed", "failed", "timeout", "cancelled")


class Books:
    def __init__(self):
        self.ids = set()
        self.numbers = collections.defaultdict(set)
        self.now = collections.Counter()
        self.at = {}
        self.ends = {}
        self.repeats = self.arrays = 0
        self.wrong = []

    def take(self, method, properties, body):
        envelope = json.loads(body)
        if not isinstance(envelope, dict):
            self.arrays += 1
            return
        if envelope["message_id"] in self.ids:
            self.repeats += 1
            return
        self.ids.add(envelope["message_id"])
        kind, payload = envelope["message_type"], envelope["payload"]
        execution = payload["execution_id"]
        self.check(method, properties, envelope)
        self.numbers[execution].add(payload["number"])
        if kind == "execution.status_changed":
            self.move(execution, payload)
        elif kind == "execution.completed":
            self.end(execution, payload)

    def check(self, method, properties, envelope):
        headers = properties.headers or {}
        there = {
            "correlation_id": envelope.get("correlation_id") and properties.correlation_id,
            "traceparent": headers.get("traceparent", "").count("-") == 3,
            "trace_id": envelope.get("trace_id"),
            "number": envelope["payload"].get("number"),
            "type": properties.type == envelope["message_type"] and method.routing_key.startswith(properties.type),
        }
        missing = [name for name, value in there.items() if not value]
        if missing:
            self.wrong.append(f"without {missing}: {envelope}")

    def move(self, execution, payload):
        previous, new = payload["previous_status"], payload["new_status"]
        if self.at.get(execution, "requested") != previous:
            self.wrong.append(f"{execution} moved from {previous} and was {self.at.get(execution)}: {payload}")
        self.at[execution] = new
        self.now[previous] -= previous != "requested"
        self.now[new] += new not in ENDS

    def end(self, execution, payload):
        if execution in self.ends:
            self.wrong.append(f"{execution} ended again: {payload}")
        error = payload.get("error")
        self.ends[execution] = payload["status"] + (":" + error["code"] if error else "")

    def told(self):
        holes = [execution for execution, numbers in self.numbers.items() if len(numbers) != max(numbers)]
        return {
            "ends": self.ends,
            "now": {status: count for status, count in self.now.items() if count},
            "holes": holes[:20],
            "repeats": self.repeats,
            "arrays": self.arrays,
            "wrong": self.wrong[:20],
        }


def main():
    books = Books()
    with pika.BlockingConnection(pika.URLParameters(sys.argv[1])) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, EXCHANGE, "#")
        channel.basic_consume(
            queue, lambda _, method, properties, body: books.take(method, properties, body), auto_ack=True
        )
        print("listening", flush=True)
        while True:
            connection.process_data_events(time_limit=0.1)
            if select.select([sys.stdin], [], [], 0)[0]:
                if not sys.stdin.readline():
                    return
                print(json.dumps(books.told()), flush=True)


main()
