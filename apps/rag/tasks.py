"""The worker's part: documents in slices of a few seconds, and upkeep.

A task works on whatever waits and hands on to another one, so a large document never keeps the
worker's other queue waiting, and any number of workers share the documents between them. What does
the work is loaded with the first of it: a worker without knowledge bases is 15 MB smaller.
"""

import time
from importlib import import_module

from celery import shared_task

from apps.lib import clock
from apps.rag import queries

SLICE_SECONDS = 4.0


@shared_task(name="rag.ingest")  # type: ignore[untyped-decorator]  # celery ships no types
def ingest_documents(**_kwargs: object) -> None:
    """Work on waiting documents for a slice, then hand on if any are left."""
    ingest, upkeep = import_module("apps.rag.ingest"), import_module("apps.rag.upkeep")
    end = time.monotonic() + SLICE_SECONDS
    try:
        while (left := end - time.monotonic()) > 0:
            document = ingest.take_next(clock.now())
            if document is None:
                upkeep.finish_builds(clock.now())
                return
            ingest.work_on(document, seconds=left)
    finally:
        ingest.tell_rest()
    if queries.waiting(clock.now()).exists():
        ingest_documents.delay()


@shared_task(name="rag.evaluate")  # type: ignore[untyped-decorator]  # celery ships no types
def evaluate(**_kwargs: object) -> None:
    """Measure a slice of a waiting evaluation, then hand on."""
    evaluating = import_module("apps.rag.evaluating")
    now = clock.now()
    row = evaluating.take_next(now)
    if row is not None:
        evaluating.work_on(row, seconds=SLICE_SECONDS, now=now)
        evaluate.delay()


@shared_task(name="rag.tick")  # type: ignore[untyped-decorator]  # celery ships no types
def tick(**_kwargs: object) -> None:
    """See that nothing is left lying: documents whose worker died, deleted rows, old builds."""
    if not queries.in_use():
        return
    import_module("apps.rag.upkeep").tidy(clock.now())
    if queries.waiting(clock.now()).exists():
        ingest_documents.delay()
    if queries.unmeasured().exists():
        evaluate.delay()
