"""Aliases on the keys' page: other names by which applications may ask for a deployment."""

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_POST

from apps.accounts.states import Role
from apps.dashboard.access import needs, user_of
from apps.dashboard.answers import back, carry_out, name_was_typed, or_404
from apps.lib import clock
from apps.traffic import actions, queries


@needs(Role.OPERATOR)
@require_POST
def add(request: HttpRequest) -> HttpResponse:
    """Make `name` another name of `deployment`."""
    name = request.POST.get("name", "").strip()
    deployment = request.POST.get("deployment", "")
    actor = user_of(request).username
    return carry_out(
        request,
        lambda: actions.create_alias(
            name=name, deployment=deployment, actor=actor, now=clock.now()
        ),
        done=f"{name} leads to {deployment}.",
        to=reverse("keys"),
    )


@needs(Role.OPERATOR)
@require_POST
def point(request: HttpRequest) -> HttpResponse:
    """Lead an alias to another deployment; requests follow at once."""
    alias = or_404(lambda: queries.alias(request.POST.get("name", "")))
    deployment = request.POST.get("deployment", "")
    actor = user_of(request).username
    return carry_out(
        request,
        lambda: actions.point_alias(alias=alias, deployment=deployment, actor=actor),
        done=f"{alias.name} leads to {deployment}.",
        to=reverse("keys"),
    )


@needs(Role.OPERATOR)
@require_POST
def delete(request: HttpRequest) -> HttpResponse:
    """Take an alias away, after its name was typed."""
    alias = or_404(lambda: queries.alias(request.GET.get("name", "")))
    if not name_was_typed(request, alias.name):
        return back(request, reverse("keys"))
    return carry_out(
        request,
        lambda: actions.delete_alias(alias=alias, actor=user_of(request).username),
        done=f"{alias.name} leads nowhere any more.",
        to=reverse("keys"),
    )
