"""The tab Revisions: what was changed, what takes over now, and the deployment as YAML."""

from collections.abc import Callable
from http import HTTPStatus

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from apps.accounts.states import Role
from apps.dashboard import revisions, tabs
from apps.dashboard.access import needs, user_of
from apps.dashboard.answers import back, carry_out
from apps.dashboard.forms import RolloutForm, messages_of
from apps.deployments import actions, queries, rollout_orders
from apps.deployments.as_code import export, manifest
from apps.deployments.as_code.apply import Wish, apply, problem_of
from apps.deployments.as_code.manifest import BadManifest
from apps.deployments.models import Deployment
from apps.deployments.orders import Change
from apps.deployments.rollouts import policy_of
from apps.lib import clock
from apps.lib.problems import Problem


@require_safe
def show(request: HttpRequest, name: str) -> HttpResponse:
    """Show the tab."""
    return _page(request, name, {})


def _page(
    request: HttpRequest, name: str, more: dict[str, object], status: int = HTTPStatus.OK
) -> HttpResponse:
    seen = tabs.seen_or_404(name)
    deployment = seen.deployment
    context = {
        "rollout": revisions.rollout_view(deployment),
        "revisions": revisions.revision_rows(deployment),
        "past": revisions.past_rows(deployment),
        "form": RolloutForm(initial=RolloutForm.initial_of(policy_of(deployment))),
        "yaml": export.text_of(deployment),
        "owner": deployment.owner,
    }
    response = tabs.page(request, "revisions", seen, context | more)
    response.status_code = status
    return response


def _order(
    request: HttpRequest, name: str, order: Callable[..., Deployment], done: str
) -> HttpResponse:
    return carry_out(
        request,
        lambda: order(queries.get(name), actor=user_of(request).username, now=clock.now()),
        done=done,
        to=_address(name),
    )


@needs(Role.OPERATOR)
@require_POST
def promote(request: HttpRequest, name: str) -> HttpResponse:
    """Let the candidate take over."""
    return _order(request, name, rollout_orders.promote, "The candidate takes over.")


@needs(Role.OPERATOR)
@require_POST
def pause(request: HttpRequest, name: str) -> HttpResponse:
    """Stop the rollout where it is."""
    return _order(request, name, rollout_orders.pause, "The rollout is paused.")


@needs(Role.OPERATOR)
@require_POST
def resume(request: HttpRequest, name: str) -> HttpResponse:
    """Go on with the rollout."""
    return _order(request, name, rollout_orders.resume, "The rollout goes on.")


@needs(Role.OPERATOR)
@require_POST
def rollback(request: HttpRequest, name: str, number: int | None = None) -> HttpResponse:
    """Go back: from the rollout under way, or to revision `number`."""

    def order(deployment: Deployment, **who: object) -> Deployment:
        return rollout_orders.rollback(deployment, number, **who)  # type: ignore[arg-type]

    return _order(request, name, order, "It goes back; what serves drains first.")


@needs(Role.OPERATOR)
@require_POST
def policy(request: HttpRequest, name: str) -> HttpResponse:
    """Set how changes to come take over."""
    form = RolloutForm(request.POST)
    if not form.is_valid():
        messages_of(request, form)
        return back(request, _address(name))
    return carry_out(
        request,
        lambda: actions.change(
            queries.get(name),
            patch=Change(rollout=form.policy()),
            actor=user_of(request).username,
            now=clock.now(),
        ),
        done="The next change takes over like this.",
        to=_address(name),
    )


@needs(Role.OPERATOR)
@require_POST
def as_code(request: HttpRequest, name: str) -> HttpResponse:
    """Check or apply the edited YAML; a mistake comes back with its line and the text."""
    text, dry_run = request.POST.get("yaml", ""), request.POST.get("do") != "apply"
    try:
        documents = manifest.parse(text)
        _check_name(name, [one.name for one in documents])
        owner = queries.get(name).owner
        wish = Wish(documents=documents, owner=owner, dry_run=dry_run)
        done = apply(wish, actor=user_of(request).username, now=clock.now())
    except BadManifest as error:
        return _refused(request, name, text, problem_of(error))
    except Problem as problem:
        return _refused(request, name, text, problem)
    lines = [line for one in done for line in one.says()]
    return _page(request, name, {"yaml": text, "yaml_says": lines, "yaml_applied": not dry_run})


def _check_name(name: str, named: list[str]) -> None:
    if named != [name]:
        raise Problem(400, "invalid", f"name: this page is about {name} and nothing else.")


def _refused(request: HttpRequest, name: str, text: str, problem: Problem) -> HttpResponse:
    more: dict[str, object] = {"yaml": text, "yaml_error": problem.detail}
    return _page(request, name, more, HTTPStatus.UNPROCESSABLE_ENTITY)


def _address(name: str) -> str:
    return reverse("deployment-revisions", kwargs={"name": name})
