"""From what a caller sent to a retrieval: which profile, which build, on whose key."""

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from apps.accounts.models import User
from apps.rag import queries
from apps.rag.models import KnowledgeBase
from apps.rag.retrieval import Asked
from apps.rag.settings import DEFAULTS, DEFAULTS_NAME, Retrieval, settings_of
from apps.traffic.actions import playground_key


def asked(
    base: KnowledgeBase, wanted: Mapping[str, Any], *, user: User, trial: Retrieval | None = None
) -> Asked:
    """Return the retrieval that `wanted` (validated input) asks for. Raises Problem 404.

    `trial` are settings in place of a profile.
    """
    name, settings = chosen(base, wanted.get("profile") or "")
    if trial is not None:
        name, settings = "trial", trial
    if wanted.get("top_k"):
        settings = msgspec.structs.replace(settings, top_k=wanted["top_k"])
    number = wanted.get("build")
    return Asked(
        base=base,
        query=str(wanted.get("query") or wanted.get("question")),
        settings=settings,
        profile=name,
        key=playground_key(user)[1],
        run=str(uuid.uuid4()),
        conditions=wanted.get("filters") or (),
        pinned=wanted.get("pinned") or (),
        build=queries.build(base, number) if number else None,
    )


def chosen(base: KnowledgeBase, name: str) -> tuple[str, Retrieval]:
    """Return the profile `name`, the promoted one if it is empty, else the built-in defaults."""
    if name and name != DEFAULTS_NAME:
        profile = queries.profile(base, name)
    elif not name and base.profile is not None:
        profile = base.profile
    else:
        return DEFAULTS_NAME, DEFAULTS
    return str(profile), settings_of(profile.settings)
