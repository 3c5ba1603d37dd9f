"""API keys: make one (its secret is shown once), limit it, revoke it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
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
from apps.traffic import actions, budget, queries
from apps.traffic.actions import ANY_MODEL, KeyLimits
from apps.traffic.budget import BudgetState, Spending
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
        budget_usd_per_day=given["budget_usd_per_day"],
        budget_usd_per_month=given["budget_usd_per_month"],
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
    now = clock.now()
    context = {
        "keys": _rows(_found(q), now),
        "aliases": queries.aliases(),
        "deployments": _models(),
        "q": q,
        "form": form,
        "made": made,
        "secret": secret,
        "base": base,
        "now": now,
    }
    return shell.page(request, "keys", context, title="API keys", status=status)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a key spent of one of its budgets."""

    usd: Decimal
    limit_usd: Decimal
    period: str

    @property
    def is_low(self) -> bool:
        return self.usd >= self.limit_usd * budget.LOW_RATIO


@dataclass(frozen=True, kw_only=True)
class KeyRow:
    """One key and what it spent of its budgets."""

    key: ApiKey
    budgets: list[Spent]
    is_exhausted: bool


def _rows(keys: QuerySet[ApiKey], now: datetime) -> list[KeyRow]:
    found = list(keys)
    spent = queries.spending([key.pk for key in found], now)
    return [_row(key, spent[key.pk]) for key in found]


def _row(key: ApiKey, spent: Spending) -> KeyRow:
    limits = (
        (spent.today_usd, key.budget_usd_per_day, "day"),
        (spent.this_month_usd, key.budget_usd_per_month, "month"),
    )
    return KeyRow(
        key=key,
        budgets=[
            Spent(usd=usd, limit_usd=limit, period=period)
            for usd, limit, period in limits
            if limit is not None
        ],
        is_exhausted=budget.state(queries.budget_of(key), spent) is BudgetState.EXHAUSTED,
    )


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
