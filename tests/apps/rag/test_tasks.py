"""The worker's part, called as Celery calls it."""

import pytest

from apps.rag import actions, tasks, vectors
from apps.rag.models import Build, Document, Indexing, KnowledgeBase
from tests.apps.rag import shelf

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis", "milvus")]


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """Give the names of the tasks that were handed on."""
    found: list[str] = []
    for name in ("ingest_documents", "evaluate"):
        task = getattr(tasks, name)
        monkeypatch.setattr(task, "delay", lambda name=name: found.append(name))
    return found


def test_take_a_document_to_its_end_and_clean_up_after_its_base(user, sent):
    base = shelf.base(user)
    document = shelf.upload(base, user)

    tasks.ingest_documents()
    collection = base.live_build.collection
    before = Document.objects.get(pk=document.pk).state, vectors.store().count(collection) > 0
    actions.delete(base, user=user, now=shelf.NOW)
    tasks.tick()

    assert before == ("ready", True)
    assert sent == []
    assert collection not in vectors.store().collections()
    assert not KnowledgeBase.objects.exists()


def test_fill_a_collection_again_that_vanished(user, sent):
    base = shelf.base(user)
    document = shelf.ingested(shelf.upload(base, user))
    build = Build.objects.get(knowledge_base=base)
    vectors.store().drop(build.collection)

    shelf.upload(base, user, b"More words.", "more.txt")
    for _ in range(3):
        tasks.ingest_documents()
        Document.objects.update(lease_until=None)

    chunks = Indexing.objects.get(build=build, document=document).chunks_total
    assert vectors.store().count(build.collection, document.pk) == chunks


def test_do_nothing_where_nobody_has_a_knowledge_base(db, sent, django_assert_num_queries):
    with django_assert_num_queries(1):
        tasks.tick()

    assert sent == []
