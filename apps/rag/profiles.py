"""Versions of profiles, and which one answers."""

from datetime import datetime

import msgspec
from django.db import transaction
from django.db.models import Max

from apps.accounts.actions import audit
from apps.accounts.models import User
from apps.rag import actions, queries
from apps.rag.models import KnowledgeBase, Profile
from apps.rag.settings import DEFAULTS_NAME, Retrieval


@transaction.atomic
def save(
    base: KnowledgeBase, *, name: str, settings: Retrieval, user: User, now: datetime
) -> Profile:
    """Keep `settings` as the next version of `name`; the same settings again are no new version."""
    KnowledgeBase.objects.select_for_update().get(pk=base.pk)
    stored = msgspec.to_builtins(settings)
    newest = base.profiles.filter(name=name).order_by("-version").first()
    if newest is not None and newest.settings == stored:
        return newest
    last = base.profiles.filter(name=name).aggregate(last=Max("version"))["last"] or 0
    made = Profile.objects.create(
        knowledge_base=base,
        name=name,
        version=last + 1,
        settings=stored,
        created_by=user.username,
        created_at=now,
    )
    audit(actor=user.username, action="profile.saved", target=f"{base.slug}/{made}", data=stored)
    actions.changed(base)
    return made


@transaction.atomic
def promote(base: KnowledgeBase, name: str, *, user: User) -> str:
    """Let the profile `name` answer from now on; `default` goes back to the built-in settings."""
    base.profile = None if name == DEFAULTS_NAME else queries.profile(base, name)
    base.save(update_fields=["profile"])
    label = str(base.profile) if base.profile else DEFAULTS_NAME
    audit(actor=user.username, action="profile.promoted", target=base.slug, data={"to": label})
    actions.changed(base)
    return label
