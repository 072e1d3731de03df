"""A publisher that knows nothing of Slotline but its message format: Debian's python3-pika, and the standard library.

publish.py URL[,URL...] [--replies N]

Reads one JSON object a line: {"routing_key", "body", "properties"}. Publishes each, in order, each confirmed before
the next; a broken connection is built again and the first unconfirmed message goes out again. With --replies it
names a queue of its own as reply_to, waits for N answers and prints their bodies, one a line.
"""

import json
import sys
import time

import pika

EXCHANGE = "slotline.executions"
GIVE_UP_AFTER = 120  # seconds without a confirm
REPLY_WITHIN = 60  # seconds


def main():
    urls = sys.argv[1].split(",")
    replies = int(sys.argv[sys.argv.index("--replies") + 1]) if "--replies" in sys.argv else 0
    messages = [json.loads(line) for line in sys.stdin if line.strip()]
    confirmed, last = 0, time.monotonic()
    while True:
        try:
            urls.append(urls.pop(0))
            with pika.BlockingConnection(pika.URLParameters(urls[0])) as connection:
                channel = connection.channel()
                channel.confirm_delivery()
                reply_to = channel.queue_declare("", exclusive=True).method.queue if replies else None
                while confirmed < len(messages):
                    publish(channel, messages[confirmed], reply_to)
                    confirmed, last = confirmed + 1, time.monotonic()
                for _, _, body in take(channel, reply_to, replies):
                    print(body.decode())
                return
        except (pika.exceptions.AMQPError, OSError) as error:
            if replies or time.monotonic() - last > GIVE_UP_AFTER:
                raise
            print(f"again from {confirmed}: {error!r}", file=sys.stderr)
            time.sleep(0.2)


def publish(channel, message, reply_to):
    properties = pika.BasicProperties(delivery_mode=2, reply_to=reply_to, **message.get("properties", {}))
    channel.basic_publish(EXCHANGE, message["routing_key"], message["body"].encode(), properties, mandatory=True)


def take(channel, queue, count):
    if count == 0:
        return
    taken = 0
    for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=REPLY_WITHIN):
        if method is None:
            sys.exit(f"{taken} of {count} replies came")
        yield method, properties, body
        taken += 1
        if taken == count:
            return


main()
