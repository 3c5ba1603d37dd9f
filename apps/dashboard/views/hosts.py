"""Hosts: what they have, what they hold, what they cost; how another one joins."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from agents.wire import HostSample, Inventory
from apps.accounts.states import Role
from apps.dashboard import queries, shell, words
from apps.dashboard.access import needs, user_of
from apps.dashboard.answers import back, carry_out, name_was_typed, or_404
from apps.dashboard.forms import PriceForm, TaintForm, messages_of
from apps.dashboard.words import Status
from apps.deployments.models import Member, Replica
from apps.fleet import actions
from apps.fleet import queries as fleet_queries
from apps.fleet.models import Host
from apps.fleet.prices import PriceBook
from apps.fleet.serializers import join_command
from apps.lib import clock
from apps.telemetry import live
from apps.telemetry.numbers import FleetNumbers


@dataclass(frozen=True, kw_only=True)
class GpuCell:
    """One GPU in the strip: fill is memory in use, the outline says that it is busy."""

    name: str
    index: int
    used_bytes: int
    total_bytes: int
    busy_ratio: float | None
    holder: str
    """Deployment whose replica holds it."""

    @property
    def ratio(self) -> float:
        return self.used_bytes / self.total_bytes if self.total_bytes else 0.0


@dataclass(frozen=True, kw_only=True)
class TaintBadge:
    """A mark that keeps orders away from a host."""

    name: str
    word: str
    says: str
    key: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Held:
    """A replica that a host holds."""

    deployment: str
    status: Status
    memory_bytes: int
    rank: int = 0
    """Above 0 it works for a head on another host."""


@dataclass(frozen=True, kw_only=True)
class HostRow:
    name: str
    status: Status
    cordoned: bool
    taints: tuple[TaintBadge, ...]
    inventory: Inventory
    sample: HostSample | None
    gpus: tuple[GpuCell, ...]
    held: tuple[Held, ...]
    usd_per_hour: Decimal
    own_price: Decimal | None
    is_default_price: bool
    seen_at: datetime

    @property
    def cpu_ratio(self) -> float | None:
        return self.sample.cpu_ratio if self.sample else None

    @property
    def memory_used_bytes(self) -> int:
        """Main memory in use: measured, else what the inventory said last."""
        if self.sample:
            return self.sample.memory_used_bytes
        return self.inventory.memory_total_bytes - self.inventory.memory_available_bytes

    @property
    def memory_ratio(self) -> float:
        return self.memory_used_bytes / (self.inventory.memory_total_bytes or 1)

    @property
    def disk_free_bytes(self) -> int:
        return self.sample.disk_free_bytes if self.sample else self.inventory.disk_free_bytes


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show all hosts."""
    return _list(request)


def _list(request: HttpRequest, command: str = "") -> HttpResponse:
    numbers, book = live.numbers(), fleet_queries.price_book()
    rows = [_row(host, numbers, book) for host in queries.hosts()]
    context = {
        "hosts": rows,
        "gpus": sum(len(row.gpus) for row in rows),
        "usd_per_hour": sum((row.usd_per_hour for row in rows), Decimal(0)),
        "command": command,
    }
    return shell.page(request, "hosts", context, title="Hosts", live="hosts")


def _row(host: Host, numbers: FleetNumbers, book: PriceBook) -> HostRow:
    inventory = fleet_queries.inventory_of(host)
    replicas = tuple(host.replicas.all())
    others: tuple[Member, ...] = tuple(host.others)  # type: ignore[attr-defined]
    price, is_default = fleet_queries.price_of(host, book)
    sample = numbers.hosts.get(host.name)
    return HostRow(
        name=host.name,
        status=words.of_host(host.state, cordoned=host.cordoned),
        cordoned=host.cordoned,
        taints=tuple(_taint(taint) for taint in host.taints),
        inventory=inventory,
        sample=sample,
        gpus=_gpus(inventory, sample, _holders(replicas, others)),
        held=(*(_held(replica) for replica in replicas), *(_part(member) for member in others)),
        usd_per_hour=price,
        own_price=host.price_per_hour_usd,
        is_default_price=is_default,
        seen_at=host.last_seen_at,
    )


def _taint(taint: dict[str, str]) -> TaintBadge:
    key, value = taint["key"], taint.get("value", "")
    word, says = "keeps away", "Orders that do not tolerate it are placed elsewhere."
    if taint.get("effect") == "avoid":
        word, says = "last choice", "Orders that do not tolerate it come here last."
    name = f"{key}={value}" if value else key
    return TaintBadge(name=name, word=word, says=says, key=key, value=value)


def _held(replica: Replica) -> Held:
    return Held(
        deployment=replica.deployment.name,
        status=words.of_replica(replica.phase),
        memory_bytes=replica.memory_bytes,
    )


def _part(member: Member) -> Held:
    return Held(
        deployment=member.replica.deployment.name,
        status=words.of_replica(member.phase),
        memory_bytes=member.replica.memory_bytes,
        rank=member.rank,
    )


def _holders(replicas: Iterable[Replica], others: Iterable[Member]) -> dict[str, str]:
    """Return by GPU which deployment holds it."""
    alone = {uuid: r.deployment.name for r in replicas for uuid in r.gpu_uuids}
    return alone | {uuid: m.replica.deployment.name for m in others for uuid in m.gpu_uuids}


def _gpus(
    inventory: Inventory, sample: HostSample | None, holders: dict[str, str]
) -> tuple[GpuCell, ...]:
    now = {gpu.uuid: gpu for gpu in sample.gpus} if sample else {}
    return tuple(
        GpuCell(
            name=gpu.name.removeprefix("NVIDIA "),
            index=gpu.index,
            used_bytes=now.get(gpu.uuid, gpu).memory_used_bytes,
            total_bytes=gpu.memory_total_bytes,
            busy_ratio=now.get(gpu.uuid, gpu).utilization_ratio,
            holder=holders.get(gpu.uuid, ""),
        )
        for gpu in inventory.gpus
    )


@needs(Role.ADMIN)
@require_http_methods(["GET", "HEAD", "POST"])
def join(request: HttpRequest) -> HttpResponse:
    """Make a join token and show the command with it, once; coming back shows the hosts."""
    if request.method != "POST":
        return redirect("hosts")
    _, secret = actions.create_join_token(actor=user_of(request).username, now=clock.now())
    return _list(request, join_command(secret, request.build_absolute_uri("/")))


@needs(Role.ADMIN)
@require_POST
def price(request: HttpRequest, name: str) -> HttpResponse:
    """Set what an hour of the host costs; empty goes back to the default."""
    host, form = _host(name), PriceForm(request.POST)
    if not form.is_valid():
        messages_of(request, form)
        return back(request, _page(name))
    wanted = form.cleaned_data["price"]
    return carry_out(
        request,
        lambda: actions.set_price(
            host=host, price_per_hour_usd=wanted, actor=user_of(request).username
        ),
        done=f"Price of {name}: {'default' if wanted is None else f'${wanted} per hour'}.",
        to=_page(name),
    )


@needs(Role.ADMIN)
@require_POST
def taint(request: HttpRequest, name: str) -> HttpResponse:
    """Put a taint on the host, in place of one with the same key and value."""
    return _retaint(request, name, actions.add_taint, "{} has the taint {}. What it holds stays.")


@needs(Role.ADMIN)
@require_POST
def untaint(request: HttpRequest, name: str) -> HttpResponse:
    """Take a taint off the host."""
    return _retaint(request, name, actions.remove_taint, "{} has the taint {} no more.")


def _retaint(
    request: HttpRequest, name: str, change: Callable[..., None], done: str
) -> HttpResponse:
    """Carry out `change` with the taint that the form names; `done` gets host and key."""
    host, form = _host(name), TaintForm(request.POST)
    if not form.is_valid():
        messages_of(request, form)
        return back(request, _page(name))
    return carry_out(
        request,
        lambda: change(host=host, taint=form.taint, actor=user_of(request).username),
        done=done.format(name, form.taint["key"]),
        to=_page(name),
    )


@needs(Role.ADMIN)
@require_POST
def drain(request: HttpRequest, name: str) -> HttpResponse:
    """Place nothing more on the host and move away what it serves."""
    host = _host(name)
    return carry_out(
        request,
        lambda: actions.drain(host=host, actor=user_of(request).username),
        done=f"{name} drains: it gets no new replicas.",
        to=_page(name),
    )


@needs(Role.ADMIN)
@require_POST
def uncordon(request: HttpRequest, name: str) -> HttpResponse:
    """Place replicas on the host again."""
    host = _host(name)
    return carry_out(
        request,
        lambda: actions.uncordon(host=host, actor=user_of(request).username),
        done=f"{name} takes replicas again.",
        to=_page(name),
    )


@needs(Role.ADMIN)
@require_POST
def delete(request: HttpRequest, name: str) -> HttpResponse:
    """Forget a host that is gone for good."""
    host = _host(name)
    if not name_was_typed(request, name):
        return back(request, _page(name))
    return carry_out(
        request,
        lambda: actions.delete_host(host=host, actor=user_of(request).username),
        done=f"{name} is forgotten.",
        to=reverse("hosts"),
    )


def _host(name: str) -> Host:
    return or_404(lambda: fleet_queries.host(name))


def _page(name: str) -> str:
    return f"{reverse('hosts')}#host-{name}"
