"""A program that uses the library's client, publisher and subscriber: clients.py API PUBLISHER READER GATE.

It prints `watching` once it follows an execution whose function waits for the file GATE, and at the end what it has
found, as one line of JSON.
"""

import json
import sys

from slotline.amqp import Publisher, Subscriber
from slotline.client import Client, Failed, Refused

GIVE_UP_AFTER = 120  # seconds
PUBLISHED = 20


def code_of(call):
    try:
        return call()
    except Failed as failed:
        return [failed.status, failed.error["code"]]
    except Refused as refused:
        return [refused.status, refused.code]


def main():
    api, publisher, reader, gate = sys.argv[1:]
    client = Client(api, give_up_after=GIVE_UP_AFTER)
    found = {}
    with Subscriber(reader, ["execution.completed"], queue="slotline-reader.ends", give_up_after=GIVE_UP_AFTER) as ends:
        watched = client.submit("line.one", {"tag": "watched", "gate": gate}, message_id="watched")
        found["same"] = watched.id == client.submit("line.one", {"tag": "watched", "gate": gate}, message_id="watched").id
        numbers = []
        for event in watched.watch():
            numbers.append(event["number"])
            if event["kind"] == "started":
                print("watching", flush=True)
        found["numbers"] = numbers == list(range(1, len(numbers) + 1))
        found["again"] = list(watched.watch(after=numbers[-1]))
        found["result"] = watched.wait()
        with Publisher(publisher, give_up_after=GIVE_UP_AFTER) as requests:
            for n in range(PUBLISHED):
                for _ in range(2):
                    requests.submit("line.one", {"tag": f"t{n}"}, message_id=f"m{n}")
            requests.submit("py.waits", message_id="waits")
            requests.cancel("waits", "no longer wanted")
        missing = {"watched", "waits", *(f"m{n}" for n in range(PUBLISHED))}
        statuses = []
        for end in ends:
            missing.discard(end["correlation_id"])
            statuses.append(end["payload"]["status"])
            if not missing:
                break
        found["ends"] = {status: statuses.count(status) for status in statuses}
    found["failed"] = code_of(lambda: client.run("py.fails", {"how": "by-code"}))
    found["refused"] = code_of(lambda: client.run("py.fails", {"how": "by-code"}, concurrency_kay="x"))
    found["unknown"] = code_of(lambda: client.run("py.unknown"))
    waits = client.submit("py.waits")
    found["cancel"] = waits.cancel("enough") in ("cancelling", "cancelled")
    found["cancelled"] = code_of(waits.wait)
    print(json.dumps(found))


main()
