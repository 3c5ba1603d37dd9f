"""The vectors of a build: from a deployment, from the local MiniLM, or none."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from agents.wire import EngineSpec
from apps.accounts.models import User
from apps.catalog import catalog
from apps.deployments.models import Revision
from apps.lib.problems import Problem
from apps.rag import minilm, served
from apps.rag.models import Build
from apps.rag.served import ServedAway, ServedRefused
from apps.rag.states import EmbedderKind
from apps.traffic.actions import playground_key

BATCH_TEXTS = 32
"""Passages of one call: a quarter of a second of MiniLM on one core."""


class WrongDimension(Exception):
    """The embedder now makes vectors of another length than the index holds."""


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """What a new build embeds with."""

    kind: EmbedderKind
    deployment: str = ""
    model: str = ""
    dimension: int | None = None
    input_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Vectors and what they cost."""

    vectors: list[array[float]]
    tokens: int


def choose(wanted: str | None) -> Embedder:
    """Return the embedder for a new build.

    `wanted` names a deployment; "" wants words only; None takes the oldest embedding deployment,
    else the local MiniLM where it is installed, else none. Raises Problem 400.
    """
    if wanted:
        return _of(_revision(wanted), wanted)
    if wanted is None:
        newest = (
            Revision.objects.filter(task="embed")
            .exclude(deployment__phase__in=("stopped", "failed"))
            .select_related("deployment")
            .order_by("deployment__created_at", "-number")
            .first()
        )
        if newest is not None:
            return _of(newest, newest.deployment.name)
        if minilm.installed():
            return Embedder(
                kind=EmbedderKind.LOCAL,
                model=minilm.NAME,
                dimension=minilm.DIMENSION,
                input_tokens=minilm.INPUT_TOKENS,
            )
    return Embedder(kind=EmbedderKind.NONE)


def key_of(owner: User | None) -> str:
    """Return the internal key on which a knowledge base calls deployments. Raises ServedRefused."""
    if owner is None or not owner.is_active:
        raise ServedRefused(
            401, "the owner of this knowledge base is gone: take it over with PATCH, `owner`."
        )
    return playground_key(owner)[1]


def passages(build: Build, texts: Sequence[str], *, seconds: float) -> Embedded | None:
    """Return the vectors of `texts`, None for a build without vectors.

    Raises ServedAway, ServedRefused, WrongDimension.
    """
    if build.embedder == EmbedderKind.NONE:
        return None
    if build.embedder == EmbedderKind.LOCAL:
        _see_that_local_is_there()
        found = minilm.embed(texts)
        return Embedded(vectors=found.vectors, tokens=found.tokens)
    key = key_of(build.knowledge_base.owner)
    vectors, tokens = served.embed(
        build.embedding_deployment, texts, key=key, parent=build.collection, seconds=seconds
    )
    _check(build, vectors)
    return Embedded(vectors=vectors, tokens=tokens)


def question(build: Build, text: str, *, key: str, parent: str) -> array[float] | None:
    """Return the vector of a question; the newest ones are remembered, as they never change.

    Raises ServedAway, ServedRefused, WrongDimension.
    """
    if build.embedder == EmbedderKind.NONE:
        return None
    known = _known(build.pk, text)
    if not known:
        if build.embedder == EmbedderKind.LOCAL:
            _see_that_local_is_there()
            known.extend(minilm.embed([text]).vectors)
        else:
            vectors, _ = served.embed(
                build.embedding_deployment,
                [text],
                key=key,
                parent=parent,
                seconds=served.QUERY_SECONDS,
            )
            _check(build, vectors)
            known.extend(vectors)
    return known[0]


def token_counts(build: Build, texts: Sequence[str]) -> list[int] | None:
    """Return the exact tokens of each text, None where nobody can count them."""
    if build.embedder == EmbedderKind.LOCAL:
        _see_that_local_is_there()
        return minilm.token_counts(texts)
    if build.embedder == EmbedderKind.NONE:
        return None
    key = key_of(build.knowledge_base.owner)
    return served.token_counts(build.embedding_deployment, texts, key=key)


def _see_that_local_is_there() -> None:
    """Raises ServedAway when it is not: bringing packages up to date takes its libraries away."""
    if not minilm.installed():
        raise ServedAway("the local embedder is gone: run `manage.py install_embedder` again.")


@lru_cache(maxsize=512)
def _known(build_id: int, text: str) -> list[array[float]]:
    """Return the place where the vector of a question is kept: empty until it is known."""
    return []


def _check(build: Build, vectors: Sequence[array[float]]) -> None:
    for vector in vectors:
        if build.dimension is not None and len(vector) != build.dimension:
            raise WrongDimension(
                f"{build.embedding_deployment} now makes vectors of {len(vector)} numbers, this "
                f"index holds {build.dimension}: build a new index (POST builds/)."
            )


def _revision(name: str) -> Revision:
    found = Revision.objects.filter(deployment__name=name).order_by("-number").first()
    if found is None:
        raise _wrong(f"there is no deployment {name}.")
    if found.task != "embed":
        raise _wrong(f"{name} is a {found.task} deployment; name one of an embedding model.")
    return found


def _of(revision: Revision, name: str) -> Embedder:
    slug = revision.deployment.catalog_slug
    try:
        dimension = catalog.get(slug).embedding_dim
    except catalog.UnknownEntry:
        dimension = None
    spec = msgspec.convert(revision.spec, EngineSpec)
    return Embedder(
        kind=EmbedderKind.DEPLOYMENT,
        deployment=name,
        model=f"{slug} {revision.variant}",
        dimension=dimension,
        input_tokens=spec.settings.max_model_len,
    )


def _wrong(message: str) -> Problem:
    return Problem(
        400,
        "unknown_deployment",
        f"embedding_deployment: {message}",
        extra={"field": "embedding_deployment"},
    )
