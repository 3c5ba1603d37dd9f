"""What the worker does for knowledge bases besides documents: finish builds, clean up, compare.

All of it is level-triggered: it looks at the rows and at Milvus and does what is missing, so a call
that was lost costs one interval.
"""

import logging
from datetime import datetime, timedelta

from django.db import transaction

from apps.rag import actions, files, ingest, vectors
from apps.rag.models import Build, Chunk, Conversation, Document, Indexing, KnowledgeBase, Run
from apps.rag.states import BuildState, DocumentState
from apps.rag.vectors import VectorsAway, VectorsRefused

logger = logging.getLogger(__name__)

DROP_AFTER = timedelta(minutes=2)
"""A retired build outlives every query that began on it."""
CONVERSATIONS_KEPT = timedelta(days=1)
RUNS_KEPT = timedelta(days=30)


def tidy(now: datetime) -> None:
    """Finish what is complete and remove what is gone; what Milvus refuses waits for next time."""
    try:
        finish_builds(now)
        purge_documents()
        drop_builds(now)
        purge_bases()
    except (VectorsAway, VectorsRefused) as error:
        logger.info("tidying waits: %s", error)
    Conversation.objects.filter(changed_at__lt=now - CONVERSATIONS_KEPT).delete()
    Run.objects.filter(at__lt=now - RUNS_KEPT).delete()


def finish_builds(now: datetime) -> None:
    """Move builds whose documents are all in to ready, and flip those that were asked to."""
    for build in Build.objects.filter(state=BuildState.BUILDING).select_related("knowledge_base"):
        missing = Indexing.objects.filter(
            build=build, done=False, document__deleted_at__isnull=True
        ).exclude(document__state=DocumentState.FAILED)
        if missing.exists():
            continue
        Build.objects.filter(pk=build.pk, state=BuildState.BUILDING).update(state=BuildState.READY)
        build.state = BuildState.READY
        actions.changed(build.knowledge_base)
        if build.flip_when_ready:
            flip(build, actor="system", now=now)


def flip(build: Build, *, actor: str, now: datetime) -> None:
    """Let `build` answer: SQL first, which our own queries read, then the alias for others."""
    actions.flip(build, actor=actor, now=now)
    if build.collection_made:
        vectors.store().point(ingest.alias_of(build), build.collection)


def purge_documents() -> None:
    """Remove deleted documents from Milvus, then their rows and files."""
    rows = Document.objects.filter(deleted_at__isnull=False).select_related("knowledge_base")
    for document in rows[:500]:
        made = Build.objects.filter(indexings__document=document, collection_made=True).exclude(
            state=BuildState.DROPPED
        )
        for build in made:
            vectors.store().delete_document(build.collection, document.pk)
        with transaction.atomic():
            Chunk.objects.filter(document=document).delete()
            document.delete()
        files.remove(document)


def drop_builds(now: datetime) -> None:
    """Drop the collections of builds that nothing can be reading any more."""
    for build in Build.objects.filter(
        state=BuildState.RETIRED, retired_at__lt=now - DROP_AFTER
    ).select_related("knowledge_base"):
        if build.collection_made:
            vectors.store().drop(build.collection)
        with transaction.atomic():
            Chunk.objects.filter(build=build).delete()
            Indexing.objects.filter(build=build).delete()
            Build.objects.filter(pk=build.pk).update(
                state=BuildState.DROPPED, collection_made=False
            )
        actions.changed(build.knowledge_base)


def purge_bases() -> None:
    """Remove deleted knowledge bases once nothing of them is left elsewhere."""
    for base in KnowledgeBase.objects.filter(deleted_at__isnull=False):
        left = base.builds.exclude(state=BuildState.DROPPED).exists()
        if not left and not base.documents.exists():
            base.delete()
