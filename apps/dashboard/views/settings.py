"""Settings: default prices, the theme of this browser, one's own password."""

from dataclasses import dataclass
from decimal import Decimal

from django.contrib.auth import update_session_auth_hash
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from apps.accounts import actions as account_actions
from apps.accounts.states import Role
from apps.dashboard import shell
from apps.dashboard.access import needs, user_of
from apps.dashboard.answers import back, carry_out
from apps.dashboard.forms import PasswordForm, PriceForm, messages_of
from apps.fleet import actions, queries
from apps.fleet.models import Host
from apps.fleet.prices import CPU_KIND, kind_of


@dataclass(frozen=True, kw_only=True)
class KindPrice:
    """Default price of one kind; `hosts` counts the machines that have it."""

    kind: str
    usd_per_hour: Decimal
    is_set: bool
    hosts: int

    @property
    def word(self) -> str:
        return "CPU host" if self.kind == CPU_KIND else f"GPU {self.kind.upper()}"


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show the settings."""
    context = {"prices": _prices()}
    return shell.page(request, "settings", context, title="Settings")


def _prices() -> list[KindPrice]:
    """Return the kinds that the fleet has or somebody priced, and the CPU host's."""
    count: dict[str, int] = {CPU_KIND: 0}
    for inventory in Host.objects.values_list("inventory", flat=True):
        kinds = {kind_of(gpu["name"]) for gpu in inventory.get("gpus", ())} or {CPU_KIND}
        for kind in kinds:
            count[kind] = count.get(kind, 0) + 1
    book = queries.price_book()
    ordered = sorted({*count, *book.overrides}, key=lambda kind: (kind != CPU_KIND, kind))
    return [
        KindPrice(
            kind=kind,
            usd_per_hour=book.of_kind(kind),
            is_set=kind in book.overrides,
            hosts=count.get(kind, 0),
        )
        for kind in ordered
    ]


@needs(Role.ADMIN)
@require_POST
def price(request: HttpRequest, kind: str) -> HttpResponse:
    """Set the default price of a kind; empty goes back to the one that comes with Hearth."""
    form = PriceForm(request.POST)
    if not form.is_valid():
        messages_of(request, form)
        return back(request, reverse("settings"))
    return carry_out(
        request,
        lambda: _set_price(kind, form.cleaned_data["price"], user_of(request).username),
        done=f"Default price of {kind} saved.",
        to=reverse("settings"),
    )


def _set_price(kind: str, wanted: Decimal | None, actor: str) -> None:
    if wanted is None:
        actions.reset_default_price(kind=kind, actor=actor)
    else:
        actions.set_default_price(kind=kind, price_per_hour_usd=wanted, actor=actor)


@require_POST
def password(request: HttpRequest) -> HttpResponse:
    """Give the signed-in person a new password; their other sessions end."""
    user = user_of(request)
    form = PasswordForm(user, request.POST)
    if not form.is_valid():
        messages_of(request, form)
        return back(request, reverse("settings"))

    def order() -> None:
        account_actions.set_password(
            user=user, password=form.cleaned_data["new"], actor=user.username
        )
        update_session_auth_hash(request, user)

    return carry_out(request, order, done="Your password is changed.", to=reverse("settings"))
