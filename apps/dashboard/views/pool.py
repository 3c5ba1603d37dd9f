"""The warm pool: who sleeps where, what it costs to hold, how often it pays."""

from collections import Counter

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from agents.wire import Rung
from apps.accounts.states import Role
from apps.dashboard import shell, words
from apps.dashboard.access import needs, user_of
from apps.deployments import warmth
from apps.lib import clock
from apps.lib.problems import Problem


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show the pool."""
    held = warmth.holders()
    per_kind = Counter(holder.gpu_kind for holder in held)
    shared = [(pool, per_kind.get(pool.gpu_kind, 0)) for pool in warmth.pools()]
    known = {pool.gpu_kind for pool, _ in shared}
    hits = warmth.hit_rate(clock.now())
    context = {
        "holders": [(holder, words.of_replica(holder.replica.phase)) for holder in held],
        "usd_per_hour": sum(holder.cost_per_hour_usd for holder in held),
        "residual_bytes": sum(holder.residual_bytes for holder in held),
        "shared": shared,
        "kinds": [kind for kind in warmth.known_kinds() if kind not in known],
        "members": warmth.members(),
        "claims": warmth.claims(),
        "hits": hits,
        "asleep_starts": hits["by_rung"][Rung.ASLEEP],
        "cached": warmth.cached_items(),
    }
    return shell.page(request, "pool", context, title="Warm pool", live="pool")


@require_POST
@needs(Role.OPERATOR)
def slots(request: HttpRequest) -> HttpResponse:
    """Set the slots of one shared pool."""
    try:
        warmth.set_slots(
            request.POST.get("gpu_kind", ""),
            _whole(request.POST.get("slots", "")),
            actor=user_of(request).username,
            now=clock.now(),
        )
    except Problem as problem:
        messages.error(request, problem.detail)
    return redirect("pool")


def _whole(text: str) -> int:
    """Return a number of slots. Raises Problem 400 naming the field."""
    if not text.strip().isdecimal():
        raise Problem(400, "invalid", f"slots: {text[:20]!r} is no whole number of slots.")
    return int(text)
