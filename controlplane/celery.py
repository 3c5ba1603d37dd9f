"""The Celery application of the worker: `celery -A controlplane.celery worker -B --pool solo`.

Redis only carries the messages; the database says what was done. A task may run twice, and every
periodic one takes a lease, so two schedulers or none do no harm.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")

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
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    worker_soft_shutdown_timeout=8,
    # The schedule is static and every tick is leased: nothing worth keeping on disk often.
    beat_sync_every=0,
    beat_schedule={
        "flush": {"task": "telemetry.flush", "schedule": 10.0, "options": {"expires": 10}},
        "forget": {"task": "telemetry.forget", "schedule": 3600.0, "options": {"expires": 3600}},
    },
)
