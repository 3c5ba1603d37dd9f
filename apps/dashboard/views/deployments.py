"""The list of deployments, and what is ordered from it or from a deployment's page."""

from collections import Counter
from collections.abc import Sequence

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.accounts.states import Role
from apps.dashboard import queries, rows, shell, words
from apps.dashboard.access import needs, user_of
from apps.dashboard.answers import back, carry_out, name_was_typed, or_404
from apps.dashboard.forms import ScaleForm, messages_of
from apps.dashboard.rows import Row
from apps.deployments import actions
from apps.deployments import queries as deployment_queries
from apps.deployments.orders import Change, Scaling
from apps.lib import clock
from apps.telemetry import live


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show the table, filtered by `status` and `q`, the busiest first, 100 a page."""
    numbers = live.numbers()
    whole = [rows.row(seen, numbers) for seen in queries.deployments()]
    status, q = request.GET.get("status", ""), request.GET.get("q", "").strip()[:100]
    shown = [row for row in whole if _takes(row, status, q)]
    shown.sort(key=lambda row: (row.off, -row.load_ratio, row.name))
    page = Paginator(shown, rows.PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": rows.with_sparks(list(page), clock.now()),
        "total": len(whole),
        "ready": sum(row.ready for row in whole),
        "chips": _chips(whole),
        "status": status,
        "q": q,
        "simulated": any(row.simulated for row in whole),
    }
    return shell.page(request, "deployments", context, title="Deployments", live="deployments")


def _takes(row: Row, status: str, q: str) -> bool:
    return status in ("", row.status.key) and all(word in row.text for word in q.lower().split())


def _chips(whole: Sequence[Row]) -> list[tuple[words.Status, int]]:
    """Return each status that occurs with its count, in a fixed order."""
    count = Counter(row.status for row in whole)
    return [(status, count[status]) for status in words.DEPLOYMENT_ORDER if count[status]]


@needs(Role.OPERATOR)
@require_POST
def start(request: HttpRequest, name: str) -> HttpResponse:
    """Order a stopped deployment to run again."""
    return carry_out(
        request,
        lambda: actions.start(
            deployment_queries.get(name), actor=user_of(request).username, now=clock.now()
        ),
        done=f"{name} starts.",
        to=_page(name),
    )


@needs(Role.OPERATOR)
@require_POST
def stop(request: HttpRequest, name: str) -> HttpResponse:
    """Order a deployment to drain and stop; it can be started again."""
    return carry_out(
        request,
        lambda: actions.stop(
            deployment_queries.get(name), actor=user_of(request).username, now=clock.now()
        ),
        done=f"{name} drains and stops.",
        to=_page(name),
    )


@needs(Role.OPERATOR)
@require_http_methods(["GET", "HEAD", "POST"])
def delete(request: HttpRequest, name: str) -> HttpResponse:
    """Ask for the name (a page, for browsers without script), then delete."""
    seen = or_404(lambda: queries.deployment(name))
    if request.method != "POST":
        context = {"name": name, "replicas": len(seen.replicas)}
        return shell.page(request, "delete", context, title=f"Delete {name}")
    if not name_was_typed(request, name):
        return back(request, _page(name))
    return carry_out(
        request,
        lambda: actions.delete(seen.deployment, actor=user_of(request).username, now=clock.now()),
        done=f"{name} drains and is deleted.",
        to=reverse("deployments"),
    )


@needs(Role.OPERATOR)
@require_POST
def scale(request: HttpRequest, name: str) -> HttpResponse:
    """Order another number of replicas; a stopped deployment starts with it."""
    form = ScaleForm(request.POST)
    if not form.is_valid():
        messages_of(request, form)
        return back(request, _page(name))
    wanted = form.cleaned_data["replicas"]
    return carry_out(
        request,
        lambda: _scale(name, wanted, user_of(request).username),
        done=f"{name}: {wanted} {'replica' if wanted == 1 else 'replicas'} wanted.",
        to=_page(name),
    )


def _scale(name: str, wanted: int, actor: str) -> None:
    deployment = deployment_queries.get(name)
    # Where load decides, a number by hand is the least; where nothing does, it is the number.
    most = wanted
    if deployment_queries.is_elastic(deployment.scaling):
        most = max(wanted, deployment.scaling.max_replicas)
    actions.change(
        deployment,
        patch=Change(scaling=Scaling(min_replicas=wanted, max_replicas=most)),
        actor=actor,
        now=clock.now(),
    )


@needs(Role.OPERATOR)
@require_POST
def restart(request: HttpRequest, name: str, replica_id: str) -> HttpResponse:
    """Order one replica to be replaced by a new one."""
    deployment = or_404(lambda: deployment_queries.get(name))
    return carry_out(
        request,
        lambda: actions.restart_replica(
            deployment_queries.replica(deployment, replica_id),
            actor=user_of(request).username,
            now=clock.now(),
        ),
        done="The replica drains; a new one takes its place.",
        to=_page(name),
    )


def _page(name: str) -> str:
    return reverse("deployment", kwargs={"name": name})
