"""How a deployment scales: its policy, what was decided and why, and what if it were another."""

from dataclasses import dataclass
from datetime import timedelta

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from apps.accounts.states import Role
from apps.dashboard import scaling_chart, tabs
from apps.dashboard.access import needs, user_of
from apps.dashboard.answers import carry_out
from apps.dashboard.queries import Seen
from apps.dashboard.scaling_form import ScalingForm
from apps.deployments import actions, queries
from apps.deployments.models import ScalerState, ScalingPolicy
from apps.deployments.orders import Change
from apps.deployments.scaling_checks import checked_scaling, warnings
from apps.lib import clock
from apps.lib.problems import Problem
from apps.traffic import what_if
from apps.traffic.what_if import Comparison

DECISIONS_SHOWN = 12
_KIND = "scaling"


@require_http_methods(["GET", "HEAD", "POST"])
def show(request: HttpRequest, name: str) -> HttpResponse:
    """Show the tab; a POST saves the form."""
    seen = tabs.seen_or_404(name)
    if request.method != "POST":
        return _page(request, seen, ScalingForm(seen.deployment.scaling))
    return _save(request, name)


@needs(Role.OPERATOR)
def _save(request: HttpRequest, name: str) -> HttpResponse:
    seen = tabs.seen_or_404(name)
    form = ScalingForm(seen.deployment.scaling, request.POST)
    if not form.is_valid() or not _is_possible(seen, form):
        return _page(request, seen, form, status=422)
    patch = Change(scaling=form.wish())
    return carry_out(
        request,
        lambda: actions.change(
            queries.get(name), patch=patch, actor=user_of(request).username, now=clock.now()
        ),
        done=f"{name} scales by the new policy.",
        to=reverse("deployment-scaling", kwargs={"name": name}),
    )


@needs(Role.OPERATOR)
@require_POST
def compare(request: HttpRequest, name: str) -> HttpResponse:
    """Replay a day of recorded traffic against the form's policy; saves nothing."""
    seen = tabs.seen_or_404(name)
    form = ScalingForm(seen.deployment.scaling, request.POST)
    if not form.is_valid() or not _is_possible(seen, form):
        return _page(request, seen, form, status=422)
    try:
        found = what_if.compare(
            seen.deployment, form.wish(), window=timedelta(days=1), now=clock.now()
        )
    except Problem as problem:
        form.add_error(None, problem.detail)
        return _page(request, seen, form, status=problem.status)
    return _page(request, seen, form, trial=_trial(found))


def _is_possible(seen: Seen, form: ScalingForm) -> bool:
    """Check the wish as the order would; leave what is wrong beside its field."""
    try:
        checked_scaling(form.wish(), ScalingPolicy.objects.get(pk=seen.deployment.pk))
    except Problem as problem:
        form.refuse(problem)
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure under the policy of now and under the one tried."""

    word: str
    old: float | None
    new: float | None
    unit: str
    """Name of the filter that writes it: `seconds`, `percent`, `count`, `hours`, `usd`."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    found: Comparison
    rows: tuple[Row, ...]
    top: int
    old_path: str
    new_path: str


def _trial(found: Comparison) -> Trial:
    old, new = found.old, found.new
    figures = (
        ("Cost a day", found.usd_a_day(old), found.usd_a_day(new), "usd"),
        ("First token after 2 s", old.late_ratio, new.late_ratio, "percent"),
        ("Wait for a slot, p95", old.wait_p95_seconds, new.wait_p95_seconds, "seconds"),
        ("Wait for a slot, p99", old.wait_p99_seconds, new.wait_p99_seconds, "seconds"),
        ("Cold starts", old.starts, new.starts, "count"),
        ("Requests that found none ready", old.waited_for_start, new.waited_for_start, "count"),
        ("Replicas at most", old.peak_replicas, new.peak_replicas, "count"),
        ("Replica hours", old.replica_hours, new.replica_hours, "hours"),
    )
    top = max(1, old.peak_replicas, new.peak_replicas)
    seconds = (found.end - found.start).total_seconds()
    return Trial(
        found=found,
        rows=tuple(
            Row(
                word=word,
                old=None if a is None else float(a),
                new=None if b is None else float(b),
                unit=unit,
            )
            for word, a, b, unit in figures
        ),
        top=top,
        old_path=scaling_chart.steps(old.steps, seconds, top),
        new_path=scaling_chart.steps(new.steps, seconds, top),
    )


def _page(
    request: HttpRequest,
    seen: Seen,
    form: ScalingForm,
    *,
    trial: Trial | None = None,
    status: int = 200,
) -> HttpResponse:
    now, deployment = clock.now(), seen.deployment
    decisions = list(queries.decisions(deployment).filter(kind=_KIND)[:DECISIONS_SHOWN])
    scaler = ScalerState.objects.filter(pk=deployment.pk).defer("memory").first()
    context = {
        "form": form,
        "trial": trial,
        "decisions": decisions,
        "scaler": scaler,
        "is_elastic": queries.is_elastic(deployment.scaling),
        "chart": scaling_chart.of(deployment.pk, decisions, now),
        "warnings": warnings(deployment.scaling, scaler.start_seconds if scaler else None),
    }
    answer = tabs.page(request, "scaling", seen, context)
    answer.status_code = status
    return answer
