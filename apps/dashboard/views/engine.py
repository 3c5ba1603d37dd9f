"""The Settings tab of a deployment: every engine setting; saving makes a new revision."""

from http import HTTPStatus

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from agents.engine_flags import NEWEST
from apps.accounts.states import Role
from apps.catalog import catalog
from apps.catalog.sheet import GroupRows, sheet
from apps.dashboard import tabs
from apps.dashboard.access import may, refused, user_of
from apps.dashboard.engine_form import EngineForm, newest_gpu
from apps.dashboard.queries import Seen
from apps.deployments import actions, queries
from apps.deployments.models import Revision
from apps.deployments.orders import Change
from apps.lib import clock
from apps.lib.problems import Problem


@require_http_methods(["GET", "HEAD", "POST"])
def show(request: HttpRequest, name: str) -> HttpResponse:
    """Show the settings of the newest revision; a POST saves them as the next one."""
    seen = tabs.seen_or_404(name)
    revision = queries.target_revision(seen.deployment)
    groups = _groups(seen, revision)
    is_admin = may(user_of(request), Role.ADMIN)
    if request.method != "POST":
        form = EngineForm(
            groups, revision.settings, is_admin=is_admin, generation=seen.deployment.generation
        )
        return _page(request, seen, revision, form)
    if not may(user_of(request), Role.OPERATOR):
        return refused(request, Role.OPERATOR)
    form = EngineForm(groups, revision.settings, request.POST, is_admin=is_admin)
    if form.is_valid() and _saved(request, seen, form):
        return redirect("deployment-settings", name=name)
    return _page(request, seen, revision, form, status=HTTPStatus.UNPROCESSABLE_ENTITY)


def _saved(request: HttpRequest, seen: Seen, form: EngineForm) -> bool:
    """Order the change; False puts the refusal into the form."""
    before = seen.deployment.revisions.count()
    try:
        actions.change(
            seen.deployment,
            patch=Change(
                engine=form.engine(),
                by_admin=may(user_of(request), Role.ADMIN),
                if_generation=form.cleaned_data["generation"],
                conflict_status=HTTPStatus.CONFLICT,
            ),
            actor=user_of(request).username,
            now=clock.now(),
        )
    except Problem as problem:
        form.refuse(problem)
        return False
    made = seen.deployment.revisions.count() - before
    newest = seen.deployment.revisions.latest("number").number
    said = f"Revision {newest} rolls out." if made else "Nothing differs: no new revision."
    messages.success(request, said)
    return True


def _page(
    request: HttpRequest, seen: Seen, revision: Revision, form: EngineForm, status: int = 200
) -> HttpResponse:
    context = {
        "form": form,
        "revision": revision,
        "engine_version": NEWEST,
        "own_engine": revision.engine == "custom",
    }
    response = tabs.page(request, "settings", seen, context)
    response.status_code = status
    return response


def _groups(seen: Seen, revision: Revision) -> tuple[GroupRows, ...]:
    """Return the settings as they stand for this model on its device and the fleet's newest GPU."""
    try:
        variant = catalog.get(seen.deployment.catalog_slug).variant(revision.variant)
    except LookupError:
        variant = None  # its catalog file is gone: no limits of the model are known
    return sheet(revision.device, variant=variant, capability=newest_gpu())
