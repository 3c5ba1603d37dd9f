"""One deployment: how it starts, how it serves, what happened, and how to use it."""

import json
from dataclasses import asdict
from datetime import timedelta

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from apps.dashboard import charts, detail, history, queries, rows, shell, tabs
from apps.dashboard.answers import or_404
from apps.dashboard.queries import Seen
from apps.deployments.queries import target_revision
from apps.lib import addresses, clock
from apps.lib.problems import Problem
from apps.telemetry import live
from apps.traffic import costs

BILL_WINDOW = timedelta(hours=24)


@require_safe
def show(request: HttpRequest, name: str) -> HttpResponse:
    """Show the page of the deployment `name`."""
    seen = or_404(lambda: queries.deployment(name))
    now, numbers = clock.now(), live.numbers()
    wanted = history.range_of(request.GET.get("range", ""))
    row = rows.row(seen, numbers)
    context = {
        "row": row,
        "tabs": tabs.TABS,
        "tab": "overview",
        "seen": seen,
        "status": seen.status,
        "start": detail.start(seen, now),
        "failure": detail.failure(seen),
        "replicas": detail.replica_rows(seen, numbers),
        "charts": charts.of_flow(row.flow, big=True),
        "range": wanted,
        "ranges": history.RANGES,
        "history": history.of_deployment(name, wanted, since=seen.deployment.created_at, now=now),
        "bill": costs.bill_of(name, now - BILL_WINDOW, now),
        "prices": detail.prices(seen),
        "events": queries.events(deployment=name, limit=12),
        "base": _base(request),
        **_own_api(seen, _base(request)),
    }
    return shell.page(request, "deployment", context, title=name, live=f"deployment:{name}")


@require_safe
def log(request: HttpRequest, name: str) -> JsonResponse:
    """Return the newest log lines of the replica that is starting, for the page's script."""
    seen = or_404(lambda: queries.deployment(name))
    try:
        tail = detail.log_tail(seen, request.GET.get("read", ""), now=clock.now())
    except Problem as problem:
        return JsonResponse({"lines": [], "error": problem.detail}, status=problem.status)
    return JsonResponse(asdict(tail))


def _own_api(seen: Seen, base: str) -> dict[str, str]:
    """Return how an engine's own API is asked, for the snippet; nothing of vLLM's."""
    declared = target_revision(seen.deployment).spec.get("custom") or {}
    paths = declared.get("paths") or [""]
    probe = declared.get("probe") or {}
    return {
        "own_base": base.removesuffix("/v1"),
        "own_path": paths[0],
        "own_body": json.dumps(probe.get("body", {})),
    }


def _base(request: HttpRequest) -> str:
    return addresses.gateway_url(
        request.get_host(), settings.GATEWAY_ADDR, secure=request.is_secure()
    )
