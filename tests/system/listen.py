"""A subscriber that knows nothing of Slotline but the exchange of its events: Debian's python3-pika, and the standard library.

listen.py URL PATTERN...

Binds a queue of its own to the exchange with each pattern and prints `listening`; then it prints each body that comes,
as one line, until it is ended.
"""

import sys

import pika

EXCHANGE = "slotline.events"


def main():
    with pika.BlockingConnection(pika.URLParameters(sys.argv[1])) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        for pattern in sys.argv[2:]:
            channel.queue_bind(queue, EXCHANGE, pattern)
        print("listening", flush=True)
        for _, _, body in channel.consume(queue, auto_ack=True):
            print(body.decode().replace("\n", " "), flush=True)


main()
