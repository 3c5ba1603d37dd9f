"""A knowledge base in front of a deployment, as one model name: `smollm2+handbook`.

`passed_on` turns a chat that an OpenAI client sent to that name into the one for the deployment:
the same messages, with the instructions first and the passages before the last question. The inner
call goes out on the client's own key, so limits, budget and usage are where they belong.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from apps.accounts.actions import audit
from apps.accounts.models import User
from apps.lib import clock, secrets
from apps.lib.problems import Problem
from apps.rag import actions, answering, asking, prompt, queries
from apps.rag.models import Alias, KnowledgeBase
from apps.rag.retrieval import LONGEST_QUERY_CHARACTERS, Asked, Trace
from apps.traffic import actions as traffic
from apps.traffic.models import ApiKey


@transaction.atomic
def attach(base: KnowledgeBase, *, deployment: str, name: str, user: User, now: datetime) -> Alias:
    """Make `name` (by default `deployment+slug`) answer from `base`. Raises Problem 400, 409."""
    answering.model_of(deployment)
    alias = Alias(
        name=name or f"{deployment}+{base.slug}",
        knowledge_base=base,
        deployment=deployment,
        created_by=user.username,
        created_at=now,
    )
    if "+" not in alias.name:
        raise Problem(
            400, "invalid", "name: it needs a +, as smollm2+handbook.", extra={"field": "name"}
        )
    try:
        with transaction.atomic():
            alias.save(force_insert=True)
    except IntegrityError as error:
        raise Problem(
            409,
            "name_taken",
            f"name: {alias.name} is taken; give another.",
            extra={"field": "name"},
        ) from error
    _tell(alias, "attached", user)
    return alias


@transaction.atomic
def detach(alias: Alias, *, user: User) -> None:
    """Take the name away."""
    _tell(alias, "detached", user)
    alias.delete()


def attached(base: KnowledgeBase) -> QuerySet[Alias]:
    """Return the names under which `base` answers."""
    return base.aliases.order_by("name")


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who sent a chat, by their API key."""

    user: User
    secret: str
    models: tuple[str, ...]

    def may(self, alias: Alias) -> bool:
        """Return whether the key allows the alias, or the deployment behind it."""
        return bool({"*", alias.name, alias.deployment}.intersection(self.models))


def caller(authorization: str) -> Caller:
    """Return who holds this `Authorization: Bearer` key. Raises Problem 401."""
    scheme, _, secret = authorization.partition(" ")
    key = (
        ApiKey.objects.select_related("owner")
        .filter(sha256=secrets.digest(secret.strip()), revoked_at__isnull=True)
        .first()
        if scheme.lower() == "bearer"
        else None
    )
    is_over = key is not None and key.expires_at is not None and key.expires_at <= clock.now()
    if key is None or is_over or key.owner is None or not key.owner.is_active:
        raise Problem(401, "invalid_api_key", "Send `Authorization: Bearer <API key>`.")
    return Caller(user=key.owner, secret=secret.strip(), models=tuple(key.allowed_models))


def alias_for(who: Caller, name: str) -> Alias:
    """Return the alias of that name in the caller's team. Raises Problem 404."""
    rows = queries.aliases(who.user.team).select_related(
        "knowledge_base", "knowledge_base__live_build", "knowledge_base__profile"
    )
    alias = rows.filter(name=name).first()
    if alias is None or not who.may(alias):
        raise Problem(404, "model_not_found", f"The model {name[:128]} does not exist.")
    return alias


def asked_of(alias: Alias, body: Mapping[str, Any], who: Caller, parent: str) -> Asked:
    """Return the retrieval for the last question of a chat. Raises Problem 400."""
    question = _last_question(body.get("messages"))
    one = asking.asked(alias.knowledge_base, {"query": question}, user=who.user)
    # The parent's id, so that all calls of one request stand together in the usage.
    return dataclasses.replace(one, run=parent or one.run)


def passed_on(alias: Alias, body: Mapping[str, Any], trace: Trace) -> dict[str, Any]:
    """Return the request for the deployment, with the passages in the last message."""
    base = alias.knowledge_base
    mark = answering.mark_of(base)
    messages = list(body["messages"])
    passages = [answering.passage_of(hit.chunk) for hit in trace.hits]
    turn = prompt.next_turn(
        prompt.Conversation(),
        system=_system(messages, prompt.instructions(base.name, base.description, mark)),
        passages=passages,
        question=trace.asked.query,
        mark=mark,
    )
    history = [one for one in messages[:-1] if one.get("role") not in ("system", "developer")]
    return {
        **body,
        "model": alias.deployment,
        "messages": [turn.messages[0], *history, turn.messages[-1]],
    }


def sources(trace: Trace) -> list[dict[str, Any]]:
    """Return the numbered passages of an answer, as its member `citations`."""
    return [
        {
            "number": hit.rank,
            "document": hit.chunk.document.name,
            "document_id": str(hit.chunk.document.uid),
            "chunk": hit.chunk.pk,
            "page": hit.chunk.page,
            "start": hit.chunk.start,
            "end": hit.chunk.end,
        }
        for hit in trace.hits
    ]


def _system(messages: list[Any], instructions: str) -> str:
    own = [
        str(one.get("content"))
        for one in messages
        if one.get("role") in ("system", "developer") and isinstance(one.get("content"), str)
    ]
    return "\n\n".join([instructions, *own])


def _last_question(messages: object) -> str:
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise Problem(400, "invalid", "messages: give a list of messages.")
    last = messages[-1] if messages else {}
    content = last.get("content")
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if last.get("role") != "user" or not isinstance(content, str) or not content.strip():
        raise Problem(400, "invalid", "messages: the last one must be the user's, with text.")
    if len(content) > LONGEST_QUERY_CHARACTERS:
        limit = f"{LONGEST_QUERY_CHARACTERS:,}"
        raise Problem(400, "invalid", f"messages: the question has over {limit} characters.")
    return content


def _tell(alias: Alias, verb: str, user: User) -> None:
    audit(
        actor=user.username,
        action=f"knowledge_base.{verb}",
        target=alias.knowledge_base.slug,
        data={"alias": alias.name, "deployment": alias.deployment},
    )
    actions.changed(alias.knowledge_base)
    traffic.names_changed()
