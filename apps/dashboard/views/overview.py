"""The first page: what needs a person, how the fleet does, what happened."""

from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from apps.dashboard import charts, history, queries, rows, shell, words
from apps.dashboard.queries import Seen
from apps.dashboard.rows import Row
from apps.dashboard.words import Status
from apps.fleet.models import Host
from apps.fleet.states import HostState
from apps.lib import clock
from apps.telemetry import live
from apps.traffic import queries as traffic_queries

TOP = 8


@dataclass(frozen=True, kw_only=True)
class Worry:
    """Something that needs a person."""

    status: Status
    name: str
    why: str
    href: str
    action: str


@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """Show the overview; until there is a deployment, the first steps."""
    now, numbers = clock.now(), live.numbers()
    seen, hosts = queries.deployments(), queries.hosts()
    whole = [rows.row(one, numbers) for one in seen]
    has_key = traffic_queries.api_keys().exists()
    context = {
        "worries": _worries(seen, hosts),
        "charts": charts.of_flow(numbers.total, big=False),
        "history": history.of_fleet(now=now),
        "rows": rows.with_sparks(_busiest(whole), now),
        "total": len(whole),
        "hosts": len(hosts),
        "gpus": sum(len(host.inventory.get("gpus", ())) for host in hosts),
        "usd_per_hour": sum(row.usd_per_hour for row in whole),
        "events": queries.events(limit=10),
        "has_key": has_key,
        "first_steps": not (hosts and whole and has_key),
        "simulated": any(row.simulated for row in whole),
    }
    return shell.page(request, "overview", context, title="Overview", live="overview")


def _busiest(whole: list[Row]) -> list[Row]:
    return sorted(whole, key=lambda row: (row.off, -row.load_ratio, row.name))[:TOP]


def _worries(seen: list[Seen], hosts: list[Host]) -> list[Worry]:
    """Return what needs a person: failed before degraded, silent hosts last."""
    troubled = [one for one in seen if words.of_deployment(one.deployment.phase) in _TROUBLE]
    troubled.sort(key=lambda one: one.deployment.phase != "failed")
    silent = [host for host in hosts if host.state != HostState.READY]
    return [*(_deployment_worry(one) for one in troubled), *(_host_worry(h) for h in silent)]


_TROUBLE = (words.FAILED, words.DEGRADED)


def _deployment_worry(seen: Seen) -> Worry:
    return Worry(
        status=words.of_deployment(seen.deployment.phase),
        name=seen.name,
        why=seen.deployment.reason or "No reason was given.",
        href=f"/deployments/{seen.name}/",
        action="See why",
    )


def _host_worry(host: Host) -> Worry:
    return Worry(
        status=words.of_host(host.state),
        name=host.name,
        why="Its agent has stopped reporting. Check the machine and its network.",
        href=f"/hosts/#host-{host.name}",
        action="See host",
    )
