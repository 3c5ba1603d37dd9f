"""API keys: make one (its secret is shown once), limit it, revoke it."""

from datetime import timedelta
from http import HTTPStatus
from uuid import UUID

from django.conf import settings
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST

from apps.accounts.models import User
from apps.accounts.states import Role
from apps.dashboard import shell
from apps.dashboard.access import may, needs, refused, user_of
from apps.dashboard.answers import back, carry_out, name_was_typed, or_404
from apps.dashboard.forms import KeyForm
from apps.deployments.models import Deployment
from apps.lib import addresses, clock
from apps.lib.problems import Problem
from apps.traffic import actions, queries
from apps.traffic.actions import ANY_MODEL, KeyLimits
from apps.traffic.models import ApiKey


@require_http_methods(["GET", "HEAD", "POST"])
def index(request: HttpRequest) -> HttpResponse:
    """Show the keys; a POST makes one and shows its secret this once."""
    if request.method != "POST":
        return _list(request, KeyForm(_models()))
    if not may(user_of(request), Role.OPERATOR):
        return refused(request, Role.OPERATOR)
    form = KeyForm(_models(), request.POST)
    if not form.is_valid():
        return _list(request, form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    try:
        key, secret = _make(form, user_of(request))
    except Problem as problem:
        form.refuse(problem)
        return _list(request, form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    return _list(request, KeyForm(_models()), made=key, secret=secret)


def _make(form: KeyForm, user: User) -> tuple[ApiKey, str]:
    given, now = form.cleaned_data, clock.now()
    limits = KeyLimits(
        allowed_models=given["allowed_models"] or (ANY_MODEL,),
        rpm=given["rpm"],
        tpm=given["tpm"],
        max_in_flight=given["max_in_flight"],
        expires_at=now + timedelta(days=given["days"]) if given["days"] else None,
    )
    return actions.create_key(
        name=given["name"], owner=user, limits=limits, actor=user.username, now=now
    )


def _list(
    request: HttpRequest,
    form: KeyForm,
    *,
    made: ApiKey | None = None,
    secret: str = "",
    status: int = HTTPStatus.OK,
) -> HttpResponse:
    q = request.GET.get("q", "").strip()[:100]
    base = addresses.gateway_url(
        request.get_host(), settings.GATEWAY_ADDR, secure=request.is_secure()
    )
    context = {
        "keys": list(_found(q)),
        "q": q,
        "form": form,
        "made": made,
        "secret": secret,
        "base": base,
        "now": clock.now(),
    }
    return shell.page(request, "keys", context, title="API keys", status=status)


def _found(q: str) -> QuerySet[ApiKey]:
    keys = queries.api_keys()
    if q:
        keys = keys.filter(
            Q(name__icontains=q) | Q(prefix__icontains=q) | Q(owner__username__icontains=q)
        )
    return keys


def _models() -> list[str]:
    return list(Deployment.objects.order_by("name").values_list("name", flat=True))


@needs(Role.OPERATOR)
@require_POST
def revoke(request: HttpRequest, key_id: UUID) -> HttpResponse:
    """End a key at once, after its name was typed."""
    key = or_404(lambda: queries.api_key(key_id))
    if not name_was_typed(request, key.name):
        return back(request, reverse("keys"))
    return carry_out(
        request,
        lambda: actions.revoke_key(key=key, actor=user_of(request).username, now=clock.now()),
        done=f"{key.name} is revoked.",
        to=reverse("keys"),
    )
