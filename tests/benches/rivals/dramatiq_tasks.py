"""The Dramatiq actors that workers and the measuring script share."""

import common
import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import RedisBackend

broker = RabbitmqBroker(url=common.AMQP + "%2f", confirm_delivery=True)
dramatiq.set_broker(broker)
MUTEX = ConcurrentRateLimiter(RedisBackend(url=common.REDIS), "rivals-mutex", limit=1)


@dramatiq.actor(queue_name="dramatiq_throughput", max_retries=0)
def throughput(line, n):
    common.job(line, n)


@dramatiq.actor(queue_name="dramatiq_handoff", max_retries=0)
def handoff(line, n):
    common.job(line, n, 1)


@dramatiq.actor(queue_name="dramatiq_speed", max_retries=0)
def speed(line, n, us=0):
    common.job(line, n, us=us)


@dramatiq.actor(queue_name="dramatiq_limited", max_retries=None, min_backoff=5, max_backoff=50)
def limited(line, n):
    with MUTEX.acquire():
        common.job(line, n, 1)


@dramatiq.actor(queue_name="dramatiq_latency", max_retries=0)
def latency(line, n):
    common.job(line, n)
