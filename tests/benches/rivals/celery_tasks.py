"""The Celery application that workers and the measuring script share."""

import os

import common
from celery import Celery

app = Celery("rivals", broker=common.AMQP + "/")
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_default_queue="celery.throughput",
    worker_disable_rate_limits=True,
    worker_hijack_root_logger=False,
    worker_send_task_events=False,
    worker_prefetch_multiplier=int(os.environ.get("CELERY_PREFETCH", "128")),
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
)


@app.task(name="job")
def job(line, n, ms=0):
    common.job(line, n, ms)
