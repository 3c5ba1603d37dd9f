"""The tabs of a deployment's page: each is an address, a view and a template of its own.

A tab's template extends `dashboard/deployment_tab.html`, which brings the head, the tabs and the
live part; its view calls `page`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse

from apps.dashboard import queries, rows, shell
from apps.dashboard.answers import or_404
from apps.dashboard.queries import Seen
from apps.telemetry import live


@dataclass(frozen=True)
class Tab:
    """One tab; `address` is the name of its URL, which takes the deployment's name."""

    key: str
    label: str
    address: str


TABS = (
    Tab("overview", "Overview", "deployment"),
    Tab("settings", "Settings", "deployment-settings"),
    Tab("revisions", "Revisions", "deployment-revisions"),
    Tab("scaling", "Scaling", "deployment-scaling"),
    Tab("placement", "Placement", "deployment-placement"),
    Tab("starts", "Starts", "deployment-starts-tab"),
)
"""In the order in which they stand on the page."""


def seen_or_404(name: str) -> Seen:
    """Return the deployment `name` with its replicas. Raises Http404."""
    return or_404(lambda: queries.deployment(name))


def page(request: HttpRequest, tab: str, seen: Seen, context: Mapping[str, object]) -> HttpResponse:
    """Return the tab `tab` of a deployment, rendered from `dashboard/deployment_<tab>.html`."""
    row = rows.row(seen, live.numbers())
    common = {"row": row, "seen": seen, "status": seen.status, "tabs": TABS, "tab": tab}
    return shell.page(
        request,
        f"deployment_{tab}",
        common | dict(context),
        title=row.name,
        live=f"deployment:{row.name}",
    )
