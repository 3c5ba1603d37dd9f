"""Send the worker something to do, after the transaction that made it. Losing it costs one tick.

Celery is loaded at the first call: a web process that takes no upload does without it.
"""

from functools import partial
from importlib import import_module

from django.conf import settings
from django.db import transaction


def ingest_soon() -> None:
    """Have a worker take up waiting documents."""
    _soon("rag.ingest")


def tidy_soon() -> None:
    """Have a worker clean up what was deleted."""
    _soon("rag.tick")


def evaluate_soon() -> None:
    """Have a worker take up a waiting evaluation."""
    _soon("rag.evaluate")


def _soon(task: str) -> None:
    transaction.on_commit(partial(_send, task), robust=True)


def _send(task: str) -> None:
    app = import_module(settings.WORKER_APP).app
    app.send_task(task, queue="rag", retry=False, ignore_result=True)
