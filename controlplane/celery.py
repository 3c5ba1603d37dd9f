"""The Celery application of the worker: `celery -A controlplane.celery worker --pool solo`.

Redis only carries the messages; the database says what was done. A task may run twice, and every
periodic one takes a lease, so any number of schedulers does no harm: each worker has one, in a
thread, because a process of its own (`-B`) would cost 60 MB.
"""

import os

from celery import Celery
from celery.beat import EmbeddedService, Scheduler
from celery.signals import worker_ready, worker_shutting_down
from kombu.entity import Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
# Checks would import every view, which no task needs; `up` and CI run them.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

app = Celery("hearth")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

app.conf.update(
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    broker_pool_limit=2,
    broker_transport_options={
        # Must outlast the hard time limit: an unacknowledged task is delivered again after it.
        "visibility_timeout": 3600,
        # Without a timeout, kombu waits on a dead socket for ever.
        "socket_timeout": 30,
        "socket_keepalive": True,
        "health_check_interval": 15,
    },
    task_acks_late=True,
    task_retry_on_worker_lost=True,
    task_ignore_result=True,
    task_soft_time_limit=270,
    task_time_limit=300,
    worker_prefetch_multiplier=1,
    # Taken in turn, so that a pile of documents never keeps telemetry waiting.
    task_queues=[Queue("celery"), Queue("rag")],  # type: ignore[no-untyped-call]
    task_default_queue="celery",
    task_routes={"rag.*": {"queue": "rag"}},
    worker_hijack_root_logger=False,
    worker_soft_shutdown_timeout=8,
    beat_schedule={
        "flush": {"task": "telemetry.flush", "schedule": 10.0, "options": {"expires": 10}},
        "forget": {"task": "telemetry.forget", "schedule": 600.0, "options": {"expires": 600}},
        "history": {"task": "deployments.forget", "schedule": 600.0, "options": {"expires": 600}},
        "rag": {"task": "rag.tick", "schedule": 10.0, "options": {"expires": 10}},
    },
)

_beat = EmbeddedService(app, thread=True, scheduler_cls=Scheduler)


@worker_ready.connect  # type: ignore[untyped-decorator]  # celery ships no types
def _start_beat(**_kwargs: object) -> None:
    _beat.start()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def _stop_beat(**_kwargs: object) -> None:
    # Not waited for: it is a daemon thread, and this runs in a signal handler.
    _beat.service.stop(wait=False)
