"""The worker's part: documents in slices of a few seconds, and upkeep.

A task works on whatever waits and hands on to another one, so a large document never keeps the
worker's other queue waiting, and any number of workers share the documents between them.
"""

import time

from celery import shared_task

from apps.lib import clock
from apps.rag import evaluating, ingest, queries, upkeep

SLICE_SECONDS = 4.0


@shared_task(name="rag.ingest")  # type: ignore[untyped-decorator]  # celery ships no types
def ingest_documents(**_kwargs: object) -> None:
    """Work on waiting documents for a slice, then hand on if any are left."""
    end = time.monotonic() + SLICE_SECONDS
    while (left := end - time.monotonic()) > 0:
        document = ingest.take_next(clock.now())
        if document is None:
            upkeep.finish_builds(clock.now())
            return
        ingest.work_on(document, seconds=left)
    if queries.waiting(clock.now()).exists():
        ingest_documents.delay()


@shared_task(name="rag.evaluate")  # type: ignore[untyped-decorator]  # celery ships no types
def evaluate(**_kwargs: object) -> None:
    """Measure a slice of a waiting evaluation, then hand on."""
    now = clock.now()
    row = evaluating.take_next(now)
    if row is not None:
        evaluating.work_on(row, seconds=SLICE_SECONDS, now=now)
        evaluate.delay()


@shared_task(name="rag.tick")  # type: ignore[untyped-decorator]  # celery ships no types
def tick(**_kwargs: object) -> None:
    """See that nothing is left lying: documents whose worker died, deleted rows, old builds."""
    upkeep.tidy(clock.now())
    if queries.waiting(clock.now()).exists():
        ingest_documents.delay()
    evaluate.delay()
