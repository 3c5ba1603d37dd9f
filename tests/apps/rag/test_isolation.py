"""A person of another team finds nothing: every address, with every id swapped in."""

import re
import uuid

import pytest
from django.urls import URLPattern

from apps.rag.models import Chunk, Profile
from apps.rag.urls import api_patterns
from tests.apps.accounts.people import client_of
from tests.apps.rag import shelf

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis")]

# Addresses below a knowledge base, each with the methods that it has.
BELOW = [pattern for pattern in api_patterns if "<str:base>" in str(pattern.pattern)]
METHODS = ("get", "post", "patch", "delete")


@pytest.fixture
def world(user):
    """Two teams with a knowledge base each; the other one's rows."""
    stranger = shelf.user("eve", team="other")
    theirs = shelf.base(stranger, "Secrets")
    document = shelf.upload(theirs, stranger, b"The password is swordfish.")
    mine = shelf.base(user, "Mine")
    chunk = Chunk.objects.create(
        build=theirs.live_build,
        document=document,
        ordinal=0,
        text="The password is swordfish.",
        start=0,
        end=26,
        sha256="s",
    )
    profile = Profile.objects.create(
        knowledge_base=theirs,
        name="p",
        version=1,
        settings={},
        created_by="eve",
        created_at=shelf.NOW,
    )
    ids = {
        "document": document.uid,
        "chunk": chunk.pk,
        "number": theirs.live_build.number,
        "page": 1,
        "run": uuid.uuid4(),
        "evaluation": uuid.uuid4(),
        "name": "smol+secrets",
    }
    return theirs, mine, ids, profile


def address(pattern: URLPattern, base: object, ids: dict) -> str:
    def fill(match: re.Match[str]) -> str:
        name = match[1].rpartition(":")[2]
        return str(base) if name == "base" else str(ids[name])

    return "/api/v1/" + re.sub(r"<([^>]+)>", fill, str(pattern.pattern))


@pytest.mark.parametrize("pattern", BELOW, ids=[str(p.name) for p in BELOW])
@pytest.mark.parametrize("named_by", ["slug", "uid"])
def test_every_address_of_another_team_is_not_there(pattern, named_by, user, world):
    theirs, _, ids, _ = world
    api = client_of(user)
    bodies = {
        "query": "password",
        "question": "password?",
        "deployment": "smol",
        "profiles": ["p", "p"],
        "text": "1 0 x 1",
        "format": "trec",
        "name": "x",
        "settings": {},
        "profile": "p",
        "document": "handbook.md",
        "up": True,
    }
    known = set(getattr(pattern.callback.view_class, "http_method_names", ()))
    for method in METHODS:
        if method not in known or not hasattr(pattern.callback.view_class, method):
            continue
        body = {k: v for k, v in bodies.items() if k in _fields(pattern, method)}
        where = address(pattern, getattr(theirs, named_by), ids)
        form = "multipart" if "documents-list" in str(pattern.name) else "json"
        if form == "multipart" and method == "post":
            body = {"file": shelf.file(b"x y z", "x.txt")}

        answer = getattr(api, method)(where, body, format=form)

        assert answer.status_code == 404, (method, where, answer.content)
        assert "swordfish" not in answer.content.decode()


def _fields(pattern: URLPattern, method: str) -> tuple[str, ...]:
    needed = {
        "knowledge-bases-search": ("query",),
        "knowledge-bases-ask": ("question", "deployment"),
        "knowledge-bases-compare": ("query", "profiles"),
        "profiles-list": ("name", "settings"),
        "profiles-promote": ("profile",),
        "judgements": ("format", "text"),
        "thumbs": ("question", "document", "up"),
        "knowledge-aliases-list": ("deployment",),
    }
    return needed.get(str(pattern.name), ()) if method == "post" else ()


@pytest.mark.parametrize(
    "path",
    ["documents/{document}/", "documents/{document}/text/", "chunks/{chunk}/"],
)
def test_ids_of_another_team_mean_nothing_in_an_own_knowledge_base(path, user, world):
    _, mine, ids, _ = world

    answer = client_of(user).get(f"/api/v1/knowledge-bases/{mine.slug}/{path.format(**ids)}")

    assert answer.status_code == 404


def test_chunks_that_milvus_answers_are_checked_again_in_sql(user, world, milvus):
    theirs, mine, ids, _ = world
    Chunk.objects.all().delete()
    shelf.ingested(theirs.documents.get(uid=ids["document"]))
    mine.builds.update(collection_made=True)
    theirs.builds.update(collection="moved")
    # As if both had come to share a collection: the rows are the other team's.
    mine.builds.update(collection=theirs.live_build.collection)

    found = (
        client_of(user)
        .post(
            "/api/v1/knowledge-bases/mine/search/",
            {"query": "password swordfish", "pinned": [Chunk.objects.last().pk]},
            format="json",
        )
        .json()
    )

    assert found["hits"] == []
    assert "swordfish" not in str(found).replace("password swordfish", "")


def test_list_shows_the_own_team_alone(user, world):
    rows = client_of(user).get("/api/v1/knowledge-bases/").json()["results"]

    assert [row["slug"] for row in rows] == ["mine"]


def test_a_list_counts_all_with_the_same_queries_as_one(world, user, django_assert_max_num_queries):
    _, mine, _, _ = world
    shelf.upload(mine, user, b"Every person has thirty days.")
    api = client_of(user)
    with django_assert_max_num_queries(20) as one:
        api.get("/api/v1/knowledge-bases/")
    for number in range(9):
        shelf.upload(shelf.base(user, f"More {number}"), user, b"Trains are paid for.")

    with django_assert_max_num_queries(len(one)):
        rows = api.get("/api/v1/knowledge-bases/").json()["results"]

    told = {(row["documents"], row["documents_queued"], row["documents_ready"]) for row in rows}
    assert (len(rows), told) == (10, {(1, 1, 0)})
